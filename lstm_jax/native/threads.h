// What the functions here share: threads from XLA's own pool, and the numbers of a buffer.
#pragma once

#include <algorithm>
#include <atomic>
#include <cmath>
#include <condition_variable>
#include <cstdint>
#include <limits>
#include <memory>
#include <mutex>
#include <vector>

#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;

namespace {

// Into how many parts work on 0..size-1 is cut for that many threads.
inline int64_t parts_of(ffi::ThreadPool pool, int64_t threads, int64_t size) {
  return std::max<int64_t>(1, std::min({threads, size, pool.num_threads()}));
}

// work(part, first, last) on 0..size-1. Parts are taken from a counter, by this thread too, so that it only ever waits for parts that have
// begun: a pool whose threads all wait in here cannot lock up.
template <typename Work>
void share_out(ffi::ThreadPool pool, int64_t parts, int64_t size, const Work& work) {
  if (parts == 1) return work(int64_t{0}, int64_t{0}, size);
  struct Shared {
    std::atomic<int64_t> next{0};
    std::mutex mutex;
    std::condition_variable changed;
    int64_t done = 0;
  };
  auto shared = std::make_shared<Shared>();
  const auto take = [shared, parts, size, &work] {
    for (int64_t part; (part = shared->next++) < parts;) {
      work(part, part * size / parts, (part + 1) * size / parts);
      std::lock_guard<std::mutex> lock(shared->mutex);
      if (++shared->done == parts) shared->changed.notify_one();
    }
  };
  for (int64_t part = 1; part < parts; ++part) pool.Schedule([take] { take(); });
  take();
  std::unique_lock<std::mutex> lock(shared->mutex);
  shared->changed.wait(lock, [&] { return shared->done == parts; });
}

template <typename T, typename Buffer>
T* data_of(const Buffer& buffer) {
  return reinterpret_cast<T*>(buffer.untyped_data());
}

}  // namespace
