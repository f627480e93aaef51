// Prefetching of memory ranges, some cache lines at a time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace {

// Ranges that are fetched into the L2 cache while products run.
class Prefetcher {
 public:
  // Forget all ranges.
  void clear() {
    ranges_.clear();
    next_ = 0;
  }
  void add(const void* from, int64_t bytes) { ranges_.push_back({static_cast<const char*>(from), static_cast<const char*>(from) + bytes}); }
  void fetch() {
    constexpr int kLines = 24, kLine = 64;
    while (next_ < ranges_.size() && ranges_[next_].at >= ranges_[next_].end) ++next_;
    if (next_ == ranges_.size()) return;
    Range& range = ranges_[next_];
    for (int n = 0; n < kLines; ++n, range.at += kLine) __builtin_prefetch(range.at, 0, 2);
  }

 private:
  struct Range {
    const char *at, *end;
  };
  std::vector<Range> ranges_;
  size_t next_ = 0;
};

}  // namespace
