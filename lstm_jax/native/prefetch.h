// Prefetching of memory ranges, some cache lines at a time.
#pragma once

#include <cstdint>

namespace {

// Ranges that are fetched into the L2 cache while the products of the step before run.
struct Prefetcher {
  struct Range {
    const char *at = nullptr, *end = nullptr;
  } ranges[3];
  int next = 0;
  void set_range(int number, const void* from, int64_t bytes) {
    ranges[number] = {static_cast<const char*>(from), static_cast<const char*>(from) + bytes};
    next = 0;
  }
  void fetch() {
    constexpr int kLines = 16, kLine = 64;
    while (next < 3 && ranges[next].at >= ranges[next].end) ++next;
    if (next == 3) return;
    Range& range = ranges[next];
    for (int n = 0; n < kLines; ++n, range.at += kLine) __builtin_prefetch(range.at, 0, 2);
  }
};

}  // namespace
