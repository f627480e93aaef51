// Calls for several sets of arrays at once, as `vmap` makes them: all arrays have the same number
// of leading extents. The leading extents of the results are the numbers of sets; an operand has 1
// where all sets share it.
#pragma once

#include <cstdint>
#include <vector>

#include "ffi.h"

namespace {

struct Sets {
  std::vector<int64_t> extents;
  int64_t count = 1;

  Sets() = default;

  // Read the leading extents from the first result, of rank 2 in a call for one set, as the kernel.
  Sets(const ffi::Arrays& args, const ffi::Arrays& rets) {
    if (!rets.buffers().has(0) || !args.has("kernel")) return;
    const auto found = rets.buffers()[0].dimensions();
    if (found.size() > 2 && args["kernel"].dimensions().size() == found.size())
      extents.assign(found.begin(), found.end() - 2);
    for (const int64_t extent : extents) count *= extent;
  }

  size_t rank() const { return extents.size(); }

  bool fit(ffi::Extents found, bool shared) const {
    for (size_t n = 0; n < rank(); ++n) {
      if (found[n] != extents[n] && !(shared && found[n] == 1)) return false;
    }
    return true;
  }

  // Return the offset of set number `set` in the buffer's data.
  int64_t offset(const ffi::Buffer& buffer, int64_t set) const {
    const auto found = buffer.dimensions();
    int64_t step = 1, at = 0;
    for (size_t n = rank(); n < found.size(); ++n) step *= found[n];
    for (size_t n = rank(); n-- > 0; set /= extents[n]) {
      if (found[n] == 1) continue;
      at += set % extents[n] * step;
      step *= found[n];
    }
    return at;
  }
};

}  // namespace
