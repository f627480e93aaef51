// What the functions here share: threads from XLA's own pool, and the numbers of a buffer.
#pragma once

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <exception>
#include <functional>
#include <limits>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;

namespace lstm_jax {

constexpr std::chrono::microseconds kPatience{500};

// Threads of pools that have done their work and look for more for a while before they sleep: one that sleeps takes 0.2 to 0.3 ms to wake on a
// virtual machine, more than lies between two calls of a training step. They belong to their pools, so that no more threads than before want a
// core.
class Awake {
 public:
  using Job = std::function<void()>;

  // Whether a thread is awake that will do the job.
  bool offer(const Job& job) {
    std::lock_guard<std::mutex> lock(mutex);
    if (static_cast<int64_t>(jobs.size()) >= looking) return false;
    jobs.push_back(job);
    there = jobs.size();
    return true;
  }

  void look() {
    using Clock = std::chrono::steady_clock;
    std::unique_lock<std::mutex> lock(mutex);
    for (;;) {
      ++looking;
      lock.unlock();
      for (const auto began = Clock::now(); there == 0 && Clock::now() - began < kPatience;) std::this_thread::yield();
      lock.lock();
      --looking;
      if (jobs.empty()) return;
      const Job job = std::move(jobs.front());
      jobs.pop_front();
      there = jobs.size();
      lock.unlock();
      job();
      lock.lock();
    }
  }

 private:
  std::mutex mutex;
  std::deque<Job> jobs;  // no more than threads that look
  int64_t looking = 0;
  std::atomic<int64_t> there{0};
};

// One for all files, never destroyed: a thread may look while the process ends.
inline Awake& awake() {
  static Awake* const all = new Awake;
  return *all;
}

}  // namespace lstm_jax

namespace {

// How many of that many threads serve for work on 0..size-1.
inline int64_t threads_for(ffi::ThreadPool pool, int64_t threads, int64_t size) {
  return std::max<int64_t>(1, std::min({threads, size, pool.num_threads()}));
}

// work(part, first, last) on 0..size-1 in so many parts. Parts are taken from a counter, by this thread too, so that it only ever waits for parts that have
// begun: a pool whose threads all wait in here cannot lock up. If parts throw, the first exception comes out of here, when all have ended.
template <typename Work>
void share_out(ffi::ThreadPool pool, int64_t threads, int64_t parts, int64_t size, const Work& work) {
  if (threads == 1 && parts == 1) return work(int64_t{0}, int64_t{0}, size);
  struct Shared {
    std::atomic<int64_t> next{0}, done{0};
    std::mutex mutex;
    std::condition_variable changed;
    std::exception_ptr error;
  };
  auto shared = std::make_shared<Shared>();
  const auto take = [shared, parts, size, &work] {
    for (int64_t part; (part = shared->next++) < parts;) {
      std::exception_ptr error;
      try {
        work(part, part * size / parts, (part + 1) * size / parts);
      } catch (...) {
        error = std::current_exception();
      }
      std::lock_guard<std::mutex> lock(shared->mutex);
      if (error && !shared->error) shared->error = error;
      if (++shared->done == parts) shared->changed.notify_one();
    }
  };
  try {
    for (int64_t thread = 1; thread < threads; ++thread) {
      if (lstm_jax::awake().offer(take)) continue;
      pool.Schedule([take] {
        take();
        lstm_jax::awake().look();
      });
    }
  } catch (...) {  // fewer threads, then: no exception may leave before those that have begun are done with `work`
  }
  take();
  const auto raise = [&] {
    if (shared->error) std::rethrow_exception(shared->error);
  };
  // the others are about to end: a thread that sleeps takes as long to wake as a tenth of a call
  for (const auto began = std::chrono::steady_clock::now(); std::chrono::steady_clock::now() - began < lstm_jax::kPatience;) {
    if (shared->done == parts) return raise();
  }
  std::unique_lock<std::mutex> lock(shared->mutex);
  shared->changed.wait(lock, [&] { return shared->done == parts; });
  raise();
}

// Pieces of what all threads of a `share_out` need before their own work: each that comes takes some, and waits for those that others have begun. So
// the time that another thread takes to wake is not lost. Its work must not throw: the others would wait for ever.
class Together {
 public:
  explicit Together(int64_t pieces) : pieces(pieces) {}
  template <typename Work>
  void operator()(const Work& work) noexcept {
    for (int64_t piece; (piece = next++) < pieces; ++done) work(piece);
    while (done < pieces) std::this_thread::yield();
  }

 private:
  const int64_t pieces;
  std::atomic<int64_t> next{0}, done{0};
};

template <typename T, typename Buffer>
T* data_of(const Buffer& buffer) {
  return reinterpret_cast<T*>(buffer.untyped_data());
}

}  // namespace
