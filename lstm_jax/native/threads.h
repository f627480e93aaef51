// What the functions here share: threads from XLA's own pool, and the numbers of a buffer.
#pragma once

#include <algorithm>
#include <atomic>
#include <chrono>
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

// How many of that many threads serve for work on 0..size-1.
inline int64_t threads_for(ffi::ThreadPool pool, int64_t threads, int64_t size) {
  return std::max<int64_t>(1, std::min({threads, size, pool.num_threads()}));
}

constexpr std::chrono::microseconds kPatience{500};

// work(part, first, last) on 0..size-1 in so many parts. Parts are taken from a counter, by this thread too, so that it only ever waits for parts that have
// begun: a pool whose threads all wait in here cannot lock up.
template <typename Work>
void share_out(ffi::ThreadPool pool, int64_t threads, int64_t parts, int64_t size, const Work& work) {
  if (threads == 1 && parts == 1) return work(int64_t{0}, int64_t{0}, size);
  struct Shared {
    std::atomic<int64_t> next{0}, done{0};
    std::mutex mutex;
    std::condition_variable changed;
  };
  auto shared = std::make_shared<Shared>();
  const auto take = [shared, parts, size, &work] {
    for (int64_t part; (part = shared->next++) < parts;) {
      work(part, part * size / parts, (part + 1) * size / parts);
      std::lock_guard<std::mutex> lock(shared->mutex);
      if (++shared->done == parts) shared->changed.notify_one();
    }
  };
  for (int64_t thread = 1; thread < threads; ++thread) pool.Schedule([take] { take(); });
  take();
  // the others are about to end: a thread that sleeps takes as long to wake as a tenth of a call
  for (const auto began = std::chrono::steady_clock::now(); std::chrono::steady_clock::now() - began < kPatience;) {
    if (shared->done == parts) return;
  }
  std::unique_lock<std::mutex> lock(shared->mutex);
  shared->changed.wait(lock, [&] { return shared->done == parts; });
}

template <typename T, typename Buffer>
T* data_of(const Buffer& buffer) {
  return reinterpret_cast<T*>(buffer.untyped_data());
}

}  // namespace
