// A team of threads that go through the phases of one call together and meet after each phase.
//
// The pool gives no guarantee that its threads run at the same time, so the thread that makes the
// call, the leader, never waits for a thread that has not arrived: it begins alone, and a thread
// that arrives takes part from the next phase on. A phase must give the same bits however many
// members share it. Members spin between phases. A leader that has waited for kPatience goes on
// alone, and no team forms for ten times as long as it has waited, so that a machine with more
// threads than cores loses at most a tenth of its time.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <limits>
#include <memory>
#include <thread>

#include "threads.h"
#include "vectors.h"

namespace lstm_jax {

// The time, in nanoseconds of steady_clock, from which on teams form.
inline std::atomic<int64_t> teams_from{0};

}  // namespace lstm_jax

namespace {

inline int64_t nanoseconds_now() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(
             std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

inline void pause_briefly() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

class Team {
 public:
  static constexpr int64_t kMost = 16;
  static constexpr int64_t kPatience = 500'000, kArrival = 3'000;  // nanoseconds

  // One thread of a team. All members call `share` and `pieces` in the same order, once for each
  // phase. A member writes to itself in each phase, so it has cache lines of its own: on the
  // leader's stack it lies beside what the other members read.
  class alignas(64) Member {
   public:
    // Call work(index, size) as member number `index` of the `size` members of this phase.
    template <typename Work>
    void share(const Work& work) {
      if (begin()) {
        work(index, size);
        end();
      }
      ++phase;
    }

    // Call work(piece, index) for the pieces 0..count-1, which the members take from a counter.
    template <typename Work>
    void pieces(int64_t count, const Work& work) {
      share([&](int64_t, int64_t) {
        if (size == 1) {
          for (int64_t piece = 0; piece < count; ++piece) work(piece, index);
          return;
        }
        std::atomic<int64_t>& next = team.next_piece[phase & 1];
        for (int64_t piece; (piece = next.fetch_add(1, std::memory_order_relaxed)) < count;)
          work(piece, index);
      });
    }

   private:
    friend class Team;
    Member(Team& team, int64_t index, int64_t first) : team(team), index(index), first(first) {}
    bool begin();
    void end();
    Team& team;
    const int64_t index;
    int64_t phase = 0, first, size = 1;
  };

  // Call work(member) on this thread, and on up to threads - 1 threads of the pool as they arrive.
  // The work must not throw: other members would wait for ever.
  template <typename Work>
  static void run(ffi::ThreadPool pool, int64_t threads, const Work& work);

 private:
  static constexpr int64_t kClosed = int64_t{1} << 32, kNever = std::numeric_limits<int64_t>::max(),
                           kUnknown = -1;
  static constexpr int64_t kSizeBits = 8, kSizeMask = (1 << kSizeBits) - 1;

  // Sizes of the team in the phase that begins and in the one before it, in one word with the
  // number of the phase.
  static int64_t packed(int64_t phase, int64_t size, int64_t before) {
    return (phase << 2 * kSizeBits) | (before << kSizeBits) | size;
  }

  struct alignas(64) Seat {
    std::atomic<int64_t> first{kUnknown};  // phase in which the member begins
    std::atomic<int64_t> done{0};          // phases that it has ended
  };

  // Wait until ready(); return the nanoseconds of a wait that was not short, else 0.
  template <typename Ready>
  static int64_t wait(const Ready& ready) {
    for (int n = 0; n < 1000; ++n) {
      if (ready()) return 0;
      pause_briefly();
    }
    const int64_t began = nanoseconds_now();
    while (!ready()) std::this_thread::yield();
    return nanoseconds_now() - began;
  }

  void wait_for(int64_t phase, int64_t members);
  void invite(int64_t phase, int64_t size_before);
  void shut();
  void close();

  alignas(64) std::atomic<int64_t> arrived{
      1};  // threads, the leader too; kClosed is added once no other may join
  alignas(64) std::atomic<int64_t> words[2] = {{-1}, {-1}};  // of even and odd phases
  alignas(64) std::atomic<int64_t> next_piece[2] = {{0}, {0}};
  alignas(64) std::atomic<int64_t> left{1};
  Seat seats[kMost];
  // of the leader
  int64_t size = 1, invited = 1, longest_wait = 0, joined = 0;
};

// As the leader, wait until members 1..members-1 have ended the phases before `phase`.
inline void Team::wait_for(int64_t phase, int64_t members) {
  for (int64_t n = 1; n < members; ++n) {
    longest_wait = std::max(
        longest_wait, wait([&] { return seats[n].done.load(std::memory_order_acquire) >= phase; }));
  }
}

// Decide who takes part in `phase`, which the leader is about to begin.
inline void Team::invite(int64_t phase, int64_t size_before) {
  if (!joined && longest_wait > kPatience) {
    shut();
    size = 1;
    lstm_jax::teams_from = nanoseconds_now() + 10 * longest_wait;
  }
  if (!joined) {
    size = arrived.load(std::memory_order_acquire);
    for (; invited < size; ++invited) seats[invited].first.store(phase, std::memory_order_release);
  }
  if (size == 1 && size_before == 1) return;
  next_piece[phase & 1].store(0, std::memory_order_relaxed);
  words[phase & 1].store(packed(phase, size, size_before), std::memory_order_release);
}

// Let no other thread join.
inline void Team::shut() {
  if (joined) return;
  joined = arrived.fetch_or(kClosed);
  for (; invited < joined; ++invited) seats[invited].first.store(kNever, std::memory_order_release);
}

// Wait until all members have left; one that was invited after the last phase leaves too.
inline void Team::close() {
  lstm_jax::jobs().withdraw(this);
  shut();
  wait([&] { return left.load(std::memory_order_acquire) == joined; });
}

// Return whether this member takes part in the phase, once all have ended the phase before it.
inline bool Team::Member::begin() {
  if (phase < first) return false;
  if (index == 0) {
    team.wait_for(phase, size);
    size = team.size;
    return true;
  }
  std::atomic<int64_t>& word = team.words[phase & 1];
  int64_t found = -1;
  wait([&] { return (found = word.load(std::memory_order_acquire)) >> 2 * kSizeBits >= phase; });
  size = found & kSizeMask;
  for (int64_t n = 1, before = found >> kSizeBits & kSizeMask; n < before; ++n) {
    if (n != index)
      wait([&] { return team.seats[n].done.load(std::memory_order_acquire) >= phase; });
  }
  if (index >= size) first = kNever;
  return index < size;
}

inline void Team::Member::end() {
  if (index == 0) return team.invite(phase + 1, size);
  team.seats[index].done.store(phase + 1, std::memory_order_release);
}

template <typename Work>
void Team::run(ffi::ThreadPool pool, int64_t threads, const Work& work) {
  threads = std::min(threads, kMost);
  if (threads > 1 && nanoseconds_now() < lstm_jax::teams_from) threads = 1;
  const auto team = std::make_shared<Team>();
  const auto join = [team, &work] {
    const int64_t index = team->arrived.fetch_add(1, std::memory_order_acq_rel);
    if (index >= kClosed) return;
    Seat& seat = team->seats[index];
    int64_t first = kUnknown;
    wait([&] { return (first = seat.first.load(std::memory_order_acquire)) != kUnknown; });
    if (first != kNever) {
      Member member(*team, index, first);
      work(member);
    }
    team->left.fetch_add(1, std::memory_order_release);
  };
  const int64_t awake = start_threads(pool, threads - 1, team.get(), join);
  for (const int64_t began = awake ? nanoseconds_now() : 0;
       team->arrived <= awake && nanoseconds_now() - began < kArrival;)
    pause_briefly();
  team->invite(0, 1);
  Member leader(*team, 0, 0);
  work(leader);
  team->close();
}

}  // namespace
