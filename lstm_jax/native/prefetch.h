// Prefetching of memory ranges, some cache lines at a time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "common.h"

namespace {

// Most bytes that are fetched ahead of a chunk of steps, half of a usual L2 cache.
constexpr int64_t kPrefetchedBytes = 512 << 10;

// Ranges that are fetched into the L2 cache in the order in which they were added, some lines at a
// time: products call `fetch` once a block.
class Prefetcher {
 public:
  // Forget all ranges.
  void clear() {
    ranges_.clear();
    next_ = 0;
    bytes_ = 0;
  }
  void add(const void* from, int64_t bytes) {
    if (bytes <= 0) return;
    ranges_.push_back({static_cast<const char*>(from), static_cast<const char*>(from) + bytes});
    bytes_ += bytes;
  }
  // Add steps t0..t1-1 of rows first..first+rows-1 of an array with `size` numbers for each.
  template <typename T>
  void add_steps(const T* from, const Order& order, int64_t size, int64_t t0, int64_t t1,
                 int64_t first, int64_t rows) {
    if (order.batch_first()) {
      for (int64_t row = first; row < first + rows; ++row)
        add(from + order.at(t0, row) * size, (t1 - t0) * size * sizeof(T));
    } else {
      for (int64_t t = t0; t < t1; ++t)
        add(from + order.at(t, first) * size, rows * size * sizeof(T));
    }
  }
  int64_t bytes() const { return bytes_; }  // of all ranges since `clear`
  // Prefetch the next cache lines.
  void fetch() {
    constexpr int kLines = 32, kLine = 64;
    for (int n = 0; next_ < ranges_.size() && n < kLines; ++n) {
      Range& range = ranges_[next_];
      __builtin_prefetch(range.at, 0, 2);
      range.at += kLine;
      if (range.at >= range.end) ++next_;
    }
  }

 private:
  struct Range {
    const char *at, *end;
  };
  std::vector<Range> ranges_;
  size_t next_ = 0;
  int64_t bytes_ = 0;
};

}  // namespace
