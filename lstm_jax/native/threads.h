// Threads of XLA's own pool, and the data of a buffer.
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

#include "ffi.h"

namespace lstm_jax {

constexpr std::chrono::microseconds kSpinTime{500};

// Whether this thread is giving a task to a pool. A pool whose queue is full (1024 tasks, if its
// threads get no processor for a while), or that fails, runs the task at once on the thread that
// gives it. `work` then returns without a job, which might wait for what this thread does only
// later.
inline thread_local bool scheduling = false;

// Jobs that calls have for other threads, and the pool threads that take them. A thread that has
// done a job spins for kSpinTime before it sleeps: a sleeping thread takes 0.2 to 0.3 ms to wake on
// a virtual machine, which is longer than the pause between two calls of a training step. The
// threads belong to their pools, so no additional threads compete for a core. No call may rely on
// its jobs being taken.
class Jobs {
 public:
  using Job = std::function<void()>;
  enum Taker { kSpins, kScheduled, kMissing };

  // Add a job of a call; return which thread is expected to take it: one that spins, one that a
  // pool has been asked for, or one that the caller has to ask a pool for, to run `work`. A thread
  // takes any call's job, so that never more tasks are in the pools' queues than there were jobs at
  // a time. call: an address that belongs to the call until it has withdrawn its jobs.
  Taker offer(const void* call, const Job& job) {
    std::lock_guard<std::mutex> lock(mutex);
    waiting.push_back({call, job});
    count = waiting.size();
    if (count <= spinning) return kSpins;
    if (count <= spinning + scheduled) return kScheduled;
    ++scheduled;
    return kMissing;
  }

  // Remove the jobs of a call that no thread has taken.
  void withdraw(const void* call) {
    if (count == 0) return;
    std::lock_guard<std::mutex> lock(mutex);
    waiting.erase(std::remove_if(waiting.begin(), waiting.end(),
                                 [call](const Waiting& one) { return one.call == call; }),
                  waiting.end());
    count = waiting.size();
  }

  // The pool did not take the task.
  void not_scheduled() {
    std::lock_guard<std::mutex> lock(mutex);
    --scheduled;
  }

  // The task of a pool's thread: do jobs until none comes for kSpinTime.
  void work() {
    using Clock = std::chrono::steady_clock;
    std::unique_lock<std::mutex> lock(mutex);
    --scheduled;
    while (!scheduling) {
      ++spinning;
      lock.unlock();
      for (const auto began = Clock::now(); count == 0 && Clock::now() - began < kSpinTime;)
        std::this_thread::yield();
      lock.lock();
      --spinning;
      if (waiting.empty()) return;
      const Job job = std::move(waiting.front().job);
      waiting.pop_front();
      count = waiting.size();
      lock.unlock();
      job();
      lock.lock();
    }
  }

 private:
  struct Waiting {
    const void* call;
    Job job;
  };
  std::mutex mutex;
  std::deque<Waiting> waiting;
  int64_t spinning = 0, scheduled = 0;  // threads that spin, and tasks in the queues of pools
  std::atomic<int64_t> count{0};        // of `waiting`
};

// One object for all source files, never destroyed: a thread may spin while the process ends.
inline Jobs& jobs() {
  static Jobs* const made = new Jobs;
  return *made;
}

}  // namespace lstm_jax

namespace {

// Return the number of threads to use for `size` items: at most `threads`, and at most as many as
// the pool has.
inline int64_t threads_for(ffi::ThreadPool pool, int64_t threads, int64_t size) {
  return std::max<int64_t>(1, std::min({threads, size, pool.num_threads()}));
}

// Let up to `count` threads call job(), which must not throw, until `withdraw(call)`; return the
// number of them that are awake. It throws nothing: where memory is missing, fewer threads start.
template <typename Job>
int64_t start_threads(ffi::ThreadPool pool, int64_t count, const void* call,
                      const Job& job) noexcept {
  using lstm_jax::Jobs;
  Jobs& jobs = lstm_jax::jobs();
  int64_t awake = 0;
  try {
    for (int64_t thread = 0; thread < count; ++thread) {
      const Jobs::Taker taker = jobs.offer(call, job);
      awake += taker == Jobs::kSpins;
      lstm_jax::scheduling = taker == Jobs::kMissing;
      if (lstm_jax::scheduling) pool.Schedule([&jobs] { jobs.work(); });
      lstm_jax::scheduling = false;
    }
  } catch (...) {
    if (lstm_jax::scheduling) jobs.not_scheduled();
    lstm_jax::scheduling = false;
  }
  return awake;
}

// Call work(part, first, last) for `parts` parts of 0..size-1 on `threads` threads. Threads take
// parts from a counter, this thread too, so that it only waits for parts that have started: a pool
// whose threads all wait here cannot deadlock. If parts throw, the first exception is thrown again
// once all parts have ended.
template <typename Work>
void parallel_for(ffi::ThreadPool pool, int64_t threads, int64_t parts, int64_t size,
                  const Work& work) {
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
  start_threads(pool, threads - 1, shared.get(), take);
  take();
  lstm_jax::jobs().withdraw(shared.get());
  const auto raise = [&] {
    if (shared->error) std::rethrow_exception(shared->error);
  };
  // spin first: the other threads are about to end, and waking from sleep takes as long as a tenth
  // of a call
  for (const auto began = std::chrono::steady_clock::now();
       std::chrono::steady_clock::now() - began < lstm_jax::kSpinTime;) {
    if (shared->done == parts) return raise();
  }
  std::unique_lock<std::mutex> lock(shared->mutex);
  shared->changed.wait(lock, [&] { return shared->done == parts; });
  raise();
}

// Work that must be complete before any thread of a `parallel_for` starts on its own part. Each
// thread that arrives takes pieces from a counter, and waits for the pieces that others have
// started, so that the time another thread takes to wake is not lost. The work must not throw: the
// other threads would wait for ever.
class SharedWork {
 public:
  explicit SharedWork(int64_t pieces) : pieces(pieces) {}
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
