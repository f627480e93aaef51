// Prefetching of memory ranges, some cache lines at a time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace {

// Most bytes that are fetched ahead of a chunk of steps, half of a usual L2 cache.
constexpr int64_t kPrefetchedBytes = 512 << 10;

// Ranges that are fetched into the L2 cache in the order in which they were added, some lines at a time: products call `fetch` once a block.
class Prefetcher {
 public:
  // Forget all ranges.
  void clear() {
    ranges_.clear();
    next_ = 0;
    bytes_ = 0;
  }
  void add(const void* from, int64_t bytes) {
    ranges_.push_back({static_cast<const char*>(from), static_cast<const char*>(from) + bytes});
    bytes_ += bytes;
  }
  int64_t bytes() const { return bytes_; }  // of all ranges since `clear`
  // Prefetch the next cache lines.
  void fetch() {
    constexpr int kLines = 32, kLine = 64;
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
  int64_t bytes_ = 0;
};

}  // namespace
