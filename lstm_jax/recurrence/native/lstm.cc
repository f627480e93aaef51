// The LSTM's two loops over time for CPUs, called through XLA's foreign function interface. Same values as the loops of hoisted.py.
//
// One call runs all T. Of each step's product the four gates of a vector of units stay in registers, where the gates' functions follow at
// once: nothing of a step passes through memory but what the backward pass keeps (the gates, which take the place of z, h and c; writing
// more costs more than computing it again). A block is ROWS rows by four vectors, so that one read of
// the recurrent kernel serves ROWS rows. Rows of a batch do not depend on each other, so threads take rows and never wait for each other.
//
// Vectors are those of GCC and Clang (`vector_size`), as wide as the machine that compiles has them.

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <mutex>

#if defined(__AVX512F__)
#include <immintrin.h>
#endif

#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;

namespace {

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64;
#elif defined(__AVX__)
constexpr int kVectorBytes = 32;
#else
constexpr int kVectorBytes = 16;
#endif
// registers for sums, of the 32 (16 without AVX-512 and ARM) that there are
#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int kSums = 24;
#else
constexpr int kSums = 8;
#endif
constexpr int kGates = 4;
constexpr int kRows = kSums / kGates;

template <typename T>
struct Numbers;

// kTerms of (exp(r) - 1 - r) / r^2 over |r| <= ln 2 / 2: for float the polynomial through its Chebyshev nodes, within 3e-8 of exp(r) - 1;
// for double the Taylor series.
template <>
struct Numbers<float> {
  typedef float Vector __attribute__((vector_size(kVectorBytes)));
  typedef int32_t Bits __attribute__((vector_size(kVectorBytes)));
  static constexpr float kMost = 87.0f, kMagic = 12582912.0f;  // 1.5 * 2^23
  static constexpr float kLn2High = 0.693359375f, kLn2Low = -2.12194440e-4f;
  static constexpr int kMantissa = 23, kBias = 127;
  static constexpr float kTerms[] = {0.5f, 0.16666576266288757f, 0.041666556149721146f, 0.008363194763660431f, 0.0013926203828305006f};
};

template <>
struct Numbers<double> {
  typedef double Vector __attribute__((vector_size(kVectorBytes)));
  typedef int64_t Bits __attribute__((vector_size(kVectorBytes)));
  static constexpr double kMost = 708.0, kMagic = 6755399441055744.0;  // 1.5 * 2^52
  static constexpr double kLn2High = 6.93145751953125e-1, kLn2Low = 1.42860682030941723212e-6;
  static constexpr int kMantissa = 52, kBias = 1023;
  static constexpr double kTerms[] = {1.0 / 2,     1.0 / 6,      1.0 / 24,      1.0 / 120,      1.0 / 720,       1.0 / 5040,
                                      1.0 / 40320, 1.0 / 362880, 1.0 / 3628800, 1.0 / 39916800, 1.0 / 479001600, 1.0 / 6227020800};
};

template <typename T>
using Vec = typename Numbers<T>::Vector;
template <typename T>
constexpr int kLanes = kVectorBytes / sizeof(T);

template <typename T>
inline Vec<T> all(T value) {
  return value - Vec<T>{};
}

template <typename T>
inline Vec<T> load(const T* from) {
  Vec<T> vector;
  std::memcpy(&vector, from, kVectorBytes);
  return vector;
}

template <typename T>
inline void store(T* to, Vec<T> vector) {
  std::memcpy(to, &vector, kVectorBytes);
}

// The first `count` numbers; the rest are zeros.
template <typename T>
inline Vec<T> load(const T* from, int count) {
  if (count == kLanes<T>) return load(from);
  Vec<T> vector{};
  std::memcpy(&vector, from, count * sizeof(T));
  return vector;
}

template <typename T>
inline void store(T* to, Vec<T> vector, int count) {
  if (count == kLanes<T>) return store(to, vector);
  std::memcpy(to, &vector, count * sizeof(T));
}

// `x`, but not above `most`; NaN stays.
inline Vec<double> at_most(double most, Vec<double> x) { return x > most ? all<double>(most) : x; }
inline Vec<float> at_most(float most, Vec<float> x) {
#if defined(__AVX512F__)
  return (Vec<float>)_mm512_min_ps((__m512)all<float>(most), (__m512)x);
#else
  return x > most ? all<float>(most) : x;
#endif
}

// 2^n for |n| < kBias, where `shifted` is n + kMagic, whose last bits are n.
template <typename T>
inline Vec<T> power(Vec<T> shifted) {
  using N = Numbers<T>;
  return (Vec<T>)(((typename N::Bits)shifted + N::kBias) << N::kMantissa);
}

// exp(-x) as scale * (1 + less) for |x| <= kMost: -x = n ln 2 + r, scale = 2^n, less = exp(r) - 1.
template <typename T>
inline void exponential(Vec<T> x, Vec<T>& scale, Vec<T>& less) {
  using N = Numbers<T>;
  const Vec<T> shifted = N::kMagic - x * T(1.44269504088896340736);
  const Vec<T> n = N::kMagic - shifted;
  const Vec<T> r = (n * N::kLn2High - x) + n * N::kLn2Low;
  constexpr int last = sizeof(N::kTerms) / sizeof(T) - 1;
  Vec<T> sum = all<T>(N::kTerms[last]);
#pragma GCC unroll 16
  for (int k = last - 1; k >= 0; --k) sum = sum * r + N::kTerms[k];
  less = r * r * sum + r;
  scale = power<T>(shifted);
}

// 1 / x for finite x; a division takes three times as long as an estimate and a step of Newton's method.
inline Vec<double> reciprocal(Vec<double> x) { return 1.0 / x; }
inline Vec<float> reciprocal(Vec<float> x) {
#if defined(__AVX512F__)
  const Vec<float> estimate = (Vec<float>)_mm512_rcp14_ps((__m512)x);  // within 2^-14
  return estimate + estimate * (1.0f - x * estimate);
#else
  return 1.0f / x;
#endif
}

template <typename T>
inline Vec<T> sigmoid(Vec<T> x) {
  Vec<T> scale, less;
  exponential<T>(at_most(Numbers<T>::kMost, -at_most(Numbers<T>::kMost, -x)), scale, less);
  return reciprocal(scale * less + scale + T(1));
}

// From exp(-2 |x|) - 1, which is exact to the last places for small x too.
template <typename T>
inline Vec<T> hyperbolic_tangent(Vec<T> x) {
  using Bits = typename Numbers<T>::Bits;
  const Bits sign = (Bits)x & (Bits)(-Vec<T>{});
  const Vec<T> size = (Vec<T>)((Bits)x ^ sign);
  Vec<T> scale, less;
  exponential<T>(at_most(T(40), size + size), scale, less);
  const Vec<T> below = scale * less + (scale - T(1));
  return (Vec<T>)((Bits)(-below * reciprocal(below + T(2))) ^ sign);
}

template <typename T>
struct Aligned {
  explicit Aligned(size_t count) {
    const size_t bytes = (count * sizeof(T) + kVectorBytes) / kVectorBytes * kVectorBytes;
    data.reset(static_cast<T*>(std::aligned_alloc(kVectorBytes, bytes)));
  }
  struct Free {
    void operator()(T* pointer) const { std::free(pointer); }
  };
  std::unique_ptr<T, Free> data;
  T* get() const { return data.get(); }
};

// Where a gate's numbers of time t and row b begin: data + (t * batch + b) * stride.
template <typename T>
struct Rows {
  T* data = nullptr;
  int64_t stride = 0;
};

struct Sizes {
  int64_t steps, batch, units;
};

template <typename T>
int64_t blocks_of(int64_t units) {
  return (units + kLanes<T> - 1) / kLanes<T>;
}

// (H, 4H) -> (H / lanes, H, 4, lanes), filled up with zeros: what a block of units reads lies in the order in which it reads it.
template <typename T>
void pack_forward(const T* kernel, int64_t units, T* packed) {
  for (int64_t block = 0; block < blocks_of<T>(units); ++block) {
    const int count = std::min<int64_t>(kLanes<T>, units - block * kLanes<T>);
    for (int64_t k = 0; k < units; ++k) {
      for (int gate = 0; gate < kGates; ++gate, packed += kLanes<T>) {
        store(packed, load(kernel + (k * kGates + gate) * units + block * kLanes<T>, count));
      }
    }
  }
}

// (H, 4H) -> (columns / width, 4H, width) of the transposed kernel.
template <typename T>
void pack_backward(const T* kernel, int64_t units, int64_t width, T* packed) {
  for (int64_t first = 0; first < units; first += width, packed += kGates * units * width) {
    for (int64_t j = 0; j < width; ++j) {
      const T* row = kernel + (first + j) * kGates * units;
      for (int64_t k = 0; k < kGates * units; ++k) packed[k * width + j] = first + j < units ? row[k] : T(0);
    }
  }
}

enum Dropout : int64_t { kNone = 0, kShared = 1, kPerGate = 2 };

template <typename T>
struct Forward {
  Sizes sizes;
  Dropout dropout;
  Rows<const T> z[kGates];
  const T *kernel, *h, *c, *mask;
  const bool* valid;  // (T, B) or null
  T *final_h, *final_c;
  // null where nobody asks; the gates may lie where z does; h and c have T + 1 times, the initial ones first
  Rows<T> gates[kGates];
  T *h_trail, *c_trail;
};

template <typename T, int ROWS, bool PER_GATE>
void forward_block(const Forward<T>& run, int64_t t, int64_t row, int64_t block, const T* kernel, int64_t by_k, int64_t by_gate,
                   const T* const* read, const T* h, T* h_next, T* c) {
  const int64_t units = run.sizes.units, batch = run.sizes.batch;
  const int64_t column = block * kLanes<T>;
  const int count = std::min<int64_t>(kLanes<T>, units - column);
  Vec<T> sums[ROWS][kGates];
#pragma GCC unroll 8
  for (int r = 0; r < ROWS; ++r) {
#pragma GCC unroll 4
    for (int g = 0; g < kGates; ++g) {
      sums[r][g] = load(run.z[g].data + (t * batch + row + r) * run.z[g].stride + column, count);
    }
  }
  for (int64_t k = 0; k < units; ++k, kernel += by_k) {
    Vec<T> weights[kGates];
#pragma GCC unroll 4
    for (int g = 0; g < kGates; ++g) weights[g] = load(kernel + g * by_gate);
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; ++r) {
#pragma GCC unroll 4
      for (int g = 0; g < kGates; ++g) sums[r][g] += read[PER_GATE ? g : 0][r * units + k] * weights[g];
    }
  }
  // a loop for each function's chain of dependent operations, so that the chains of several rows overlap
#pragma GCC unroll 8
  for (int r = 0; r < ROWS; ++r) {
#pragma GCC unroll 4
    for (int g = 0; g < kGates; ++g) sums[r][g] = g == 2 ? hyperbolic_tangent<T>(sums[r][g]) : sigmoid<T>(sums[r][g]);
  }
  Vec<T> h_new[ROWS], c_new[ROWS];
#pragma GCC unroll 8
  for (int r = 0; r < ROWS; ++r) {
    c_new[r] = sums[r][1] * load(c + (row + r) * units + column, count) + sums[r][0] * sums[r][2];
    h_new[r] = sums[r][3] * hyperbolic_tangent<T>(c_new[r]);
  }
  for (int r = 0; r < ROWS; ++r) {
    const int64_t state = (row + r) * units + column, after = ((t + 1) * batch + row + r) * units + column;
    const bool valid = !run.valid || run.valid[t * batch + row + r];
    if (!valid) {
      h_new[r] = load(h + state, count);
      c_new[r] = load(c + state, count);
      for (int g = 0; g < kGates; ++g) sums[r][g] = Vec<T>{};
    }
    store(c + state, c_new[r], count);
    store(h_next + state, h_new[r], count);
    if (run.h_trail) store(run.h_trail + after, h_new[r], count);
    if (run.c_trail) {
      store(run.c_trail + after, c_new[r], count);
      for (int g = 0; g < kGates; ++g) {
        store(run.gates[g].data + (t * batch + row + r) * run.gates[g].stride + column, sums[r][g], count);
      }
    }
  }
}

template <typename T, bool PER_GATE>
void forward_rows(const Forward<T>& run, int64_t t, int64_t row, int64_t rows, int64_t block, const T* kernel, int64_t by_k,
                  int64_t by_gate, const T* const* read, const T* h, T* h_next, T* c) {
  switch (rows) {
#define LSTM_ROWS(N)                                                                                      \
  case N:                                                                                                 \
    if constexpr (N <= kRows)                                                                             \
      return forward_block<T, N, PER_GATE>(run, t, row, block, kernel, by_k, by_gate, read, h, h_next, c); \
    break;
    LSTM_ROWS(1) LSTM_ROWS(2) LSTM_ROWS(3) LSTM_ROWS(4) LSTM_ROWS(5) LSTM_ROWS(6)
#undef LSTM_ROWS
  }
}

// Rows first..last-1, all T.
template <typename T>
void forward_loop(const Forward<T>& run, const T* kernel, int64_t by_block, int64_t by_k, int64_t by_gate, int64_t first, int64_t last) {
  const auto [steps, batch, units] = run.sizes;
  const int64_t rows = last - first, size = rows * units, gates = run.dropout == kPerGate ? kGates : 1;
  // pointers below are moved back by `first` rows, so that the batch's row numbers serve
  Aligned<T> scratch(size * (2 + (run.dropout == kNone ? 0 : gates)));
  T* h = scratch.get() - first * units;
  T* h_next = h + size;
  T* const dropped = h_next + size;
  std::memcpy(h + first * units, run.h + first * units, size * sizeof(T));
  T* c = run.final_c;
  std::memcpy(c + first * units, run.c + first * units, size * sizeof(T));
  if (run.h_trail) std::memcpy(run.h_trail + first * units, h + first * units, size * sizeof(T));
  if (run.c_trail) std::memcpy(run.c_trail + first * units, c + first * units, size * sizeof(T));
  const int64_t groups = (rows + kRows - 1) / kRows;
  for (int64_t t = 0; t < steps; ++t) {
    for (int64_t gate = 0; run.dropout != kNone && gate < gates; ++gate) {
      const T* mask = run.mask + (gate * batch + first) * units;
      for (int64_t n = 0; n < size; ++n) dropped[gate * size + first * units + n] = h[first * units + n] * mask[n];
    }
    for (int64_t block = 0; block < blocks_of<T>(units); ++block) {
      for (int64_t group = 0; group < groups; ++group) {
        const int64_t begin = first + group * rows / groups, end = first + (group + 1) * rows / groups;
        const T* read[kGates];
        for (int gate = 0; gate < kGates; ++gate) {
          read[gate] = (run.dropout == kNone ? h : dropped + (run.dropout == kPerGate ? gate * size : 0)) + begin * units;
        }
        auto rows_of = run.dropout == kPerGate ? forward_rows<T, true> : forward_rows<T, false>;
        rows_of(run, t, begin, end - begin, block, kernel + block * by_block, by_k, by_gate, read, h, h_next, c);
      }
    }
    std::swap(h, h_next);
  }
  std::memcpy(run.final_h + first * units, h + first * units, size * sizeof(T));
}

template <typename T>
struct Backward {
  Sizes sizes;
  Dropout dropout;
  const T *d_h, *d_final_h, *d_final_c, *c_trail, *kernel, *mask;  // d_h may be null
  const bool* valid;
  Rows<const T> gates[kGates];
  Rows<T> d_z[kGates];  // may lie where the gates do
  T *d_first_h, *d_first_c;
};

// d_h of the step before, VECTORS vectors of units from `column` on: the sum over gates of mask * (d_z U^T).
template <typename T, int ROWS, int VECTORS>
void backward_block(const Backward<T>& run, int64_t t, int64_t row, int64_t column, const T* kernel, T* d_h) {
  const int64_t units = run.sizes.units, batch = run.sizes.batch;
  Vec<T> total[ROWS][VECTORS], sums[ROWS][VECTORS];
  for (int gate = 0; gate < kGates; ++gate) {
    if (gate == 0 || run.dropout == kPerGate) {
#pragma GCC unroll 24
      for (int r = 0; r < ROWS; ++r) {
#pragma GCC unroll 4
        for (int v = 0; v < VECTORS; ++v) sums[r][v] = Vec<T>{};
      }
    }
    const T* read = run.d_z[gate].data + (t * batch + row) * run.d_z[gate].stride;
    const int64_t stride = run.d_z[gate].stride;
    for (int64_t k = 0; k < units; ++k, kernel += VECTORS * kLanes<T>) {
      Vec<T> weights[VECTORS];
#pragma GCC unroll 4
      for (int v = 0; v < VECTORS; ++v) weights[v] = load(kernel + v * kLanes<T>);
#pragma GCC unroll 24
      for (int r = 0; r < ROWS; ++r) {
#pragma GCC unroll 4
        for (int v = 0; v < VECTORS; ++v) sums[r][v] += read[r * stride + k] * weights[v];
      }
    }
    if (run.dropout == kPerGate) {
      for (int r = 0; r < ROWS; ++r) {
        for (int v = 0; v < VECTORS; ++v) {
          const int64_t at = column + v * kLanes<T>;
          const int count = std::clamp<int64_t>(units - at, 0, kLanes<T>);
          const Vec<T> kept = sums[r][v] * load(run.mask + (gate * batch + row + r) * units + at, count);
          total[r][v] = gate == 0 ? kept : total[r][v] + kept;
        }
      }
    }
  }
  for (int r = 0; r < ROWS; ++r) {
    if (run.valid && !run.valid[t * batch + row + r]) continue;  // d_h goes on as it is
    for (int v = 0; v < VECTORS; ++v) {
      const int64_t at = column + v * kLanes<T>;
      const int count = std::clamp<int64_t>(units - at, 0, kLanes<T>);
      if (count == 0) continue;
      Vec<T> d = run.dropout == kPerGate ? total[r][v] : sums[r][v];
      if (run.dropout == kShared) d *= load(run.mask + (row + r) * units + at, count);
      store(d_h + (row + r) * units + at, d, count);
    }
  }
}

template <typename T, int VECTORS>
void backward_rows(const Backward<T>& run, int64_t t, int64_t row, int64_t rows, int64_t column, const T* kernel, T* d_h) {
  switch (rows) {
#define LSTM_ROWS(N)                                                                                                  \
  case N:                                                                                                             \
    if constexpr (N * VECTORS <= kSums) return backward_block<T, N, VECTORS>(run, t, row, column, kernel, d_h); \
    break;
    LSTM_ROWS(1) LSTM_ROWS(2) LSTM_ROWS(3) LSTM_ROWS(4) LSTM_ROWS(5) LSTM_ROWS(6)
    LSTM_ROWS(7) LSTM_ROWS(8) LSTM_ROWS(9) LSTM_ROWS(10) LSTM_ROWS(11) LSTM_ROWS(12)
#undef LSTM_ROWS
  }
}

template <typename T>
int backward_vectors(int64_t units) {
  const int64_t blocks = blocks_of<T>(units);
  return blocks > 2 ? 4 : static_cast<int>(blocks);
}

template <typename T>
void backward_loop(const Backward<T>& run, const T* kernel, int vectors, int64_t first, int64_t last) {
  const auto [steps, batch, units] = run.sizes;
  const int64_t rows = last - first, size = rows * units, width = vectors * kLanes<T>;
  T *d_h = run.d_first_h, *d_c = run.d_first_c;
  std::memcpy(d_h + first * units, run.d_final_h + first * units, size * sizeof(T));
  std::memcpy(d_c + first * units, run.d_final_c + first * units, size * sizeof(T));
  const int64_t most = std::min(kSums / vectors, 12), groups = (rows + most - 1) / most;
  for (int64_t t = steps - 1; t >= 0; --t) {
    for (int64_t row = first; row < last; ++row) {
      for (int64_t at = 0; at < units; at += kLanes<T>) {
        const int count = std::min<int64_t>(kLanes<T>, units - at);
        const int64_t state = row * units + at, place = (t * batch + row) * units + at;
        Vec<T> d = load(d_h + state, count);
        if (run.d_h) {
          d += load(run.d_h + place, count);
          store(d_h + state, d, count);
        }
        Vec<T> d_z[kGates] = {};
        if (!run.valid || run.valid[t * batch + row]) {
          Vec<T> gates[kGates];
          for (int g = 0; g < kGates; ++g) gates[g] = load(run.gates[g].data + (t * batch + row) * run.gates[g].stride + at, count);
          const auto& [i, f, g, o] = gates;
          const Vec<T> tanh_c = hyperbolic_tangent<T>(load(run.c_trail + place + batch * units, count));
          const Vec<T> by_c = load(d_c + state, count) + d * o * (T(1) - tanh_c * tanh_c);
          d_z[0] = by_c * g * i * (T(1) - i);
          d_z[1] = by_c * load(run.c_trail + place, count) * f * (T(1) - f);
          d_z[2] = by_c * i * (T(1) - g * g);
          d_z[3] = d * tanh_c * o * (T(1) - o);
          store(d_c + state, by_c * f, count);
        }
        for (int g = 0; g < kGates; ++g) store(run.d_z[g].data + (t * batch + row) * run.d_z[g].stride + at, d_z[g], count);
      }
    }
    for (int64_t column = 0; column < units; column += width) {
      for (int64_t group = 0; group < groups; ++group) {
        const int64_t begin = first + group * rows / groups, end = first + (group + 1) * rows / groups;
        const T* part = kernel + column * kGates * units;
        if (vectors == 1) backward_rows<T, 1>(run, t, begin, end - begin, column, part, d_h);
        if (vectors == 2) backward_rows<T, 2>(run, t, begin, end - begin, column, part, d_h);
        if (vectors == 4) backward_rows<T, 4>(run, t, begin, end - begin, column, part, d_h);
      }
    }
  }
}

// work(first, last) on rows of the batch, over at most `threads` threads. Parts are taken from a counter, by this thread too, so that it
// only ever waits for parts that have begun: a pool whose threads all wait in here cannot lock up.
template <typename Work>
void over_rows(ffi::ThreadPool pool, int64_t threads, int64_t batch, const Work& work) {
  const int64_t parts = std::max<int64_t>(1, std::min({threads, batch, pool.num_threads()}));
  if (parts == 1) return work(int64_t{0}, batch);
  struct Shared {
    std::atomic<int64_t> next{0};
    std::mutex mutex;
    std::condition_variable changed;
    int64_t done = 0;
  };
  auto shared = std::make_shared<Shared>();
  const auto take = [shared, parts, batch, &work] {
    for (int64_t part; (part = shared->next++) < parts;) {
      work(part * batch / parts, (part + 1) * batch / parts);
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

// The gates' places in one array (T, B, 4H), or in four (T, B, H): `next` gives the one, or each.
template <typename T, typename Next>
void place_gates(Rows<T>* gates, bool split, int64_t units, Next next) {
  T* data = nullptr;
  for (int gate = 0; gate < kGates; ++gate) {
    if (split || gate == 0) data = next();
    gates[gate] = split ? Rows<T>{data, units} : Rows<T>{data + gate * units, kGates * units};
  }
}

// In order: z (one (T, B, 4H), or four (T, B, H)), kernel, h, c, mask (unless dropout is 0), valid (if `masked`).
// Results: final h, final c, the trail of h (if `sequences` or `keep`), and if `keep` that of c and the gates (as z).
template <typename T>
ffi::Error forward(ffi::ThreadPool pool, ffi::RemainingArgs args, ffi::RemainingRets rets, int64_t dropout, bool split, bool masked,
                   bool sequences, bool keep, int64_t threads) {
  size_t next = 0, out = 0;
  auto arg = [&] { return *args.get<ffi::AnyBuffer>(next++); };
  auto ret = [&] { return data_of<T>(**rets.get<ffi::AnyBuffer>(out++)); };
  Forward<T> run{};
  run.dropout = static_cast<Dropout>(dropout);
  const auto shape = args.get<ffi::AnyBuffer>(0)->dimensions();
  run.sizes = {shape[0], shape[1], split ? shape[2] : shape[2] / kGates};
  const int64_t units = run.sizes.units;
  place_gates(run.z, split, units, [&] { return data_of<const T>(arg()); });
  run.kernel = data_of<const T>(arg());
  run.h = data_of<const T>(arg());
  run.c = data_of<const T>(arg());
  if (dropout != kNone) run.mask = data_of<const T>(arg());
  if (masked) run.valid = data_of<const bool>(arg());
  run.final_h = ret();
  run.final_c = ret();
  if (sequences || keep) run.h_trail = ret();
  if (keep) {
    run.c_trail = ret();
    place_gates(run.gates, split, units, ret);
  }
  // packing costs about as much as two rows' step
  const bool packed = units % kLanes<T> != 0 || run.sizes.steps * run.sizes.batch > 4 * kRows;
  Aligned<T> room(packed ? blocks_of<T>(units) * kLanes<T> * kGates * units : 0);
  if (packed) pack_forward(run.kernel, units, room.get());
  const T* kernel = packed ? room.get() : run.kernel;
  const int64_t by_block = packed ? kGates * units * kLanes<T> : kLanes<T>, by_k = kGates * (packed ? kLanes<T> : units);
  over_rows(pool, threads, run.sizes.batch, [&](int64_t first, int64_t last) {
    forward_loop(run, kernel, by_block, by_k, packed ? kLanes<T> : units, first, last);
  });
  return ffi::Error::Success();
}

// In order: gates (one or four), trail of c, d of final h, d of final c, kernel, d of outputs (if `sequences`), mask, valid.
// Results: d of h, d of c, d_z (one or four).
template <typename T>
ffi::Error backward(ffi::ThreadPool pool, ffi::RemainingArgs args, ffi::RemainingRets rets, int64_t dropout, bool split, bool masked,
                    bool sequences, int64_t threads) {
  size_t next = 0, out = 0;
  auto arg = [&] { return *args.get<ffi::AnyBuffer>(next++); };
  auto ret = [&] { return data_of<T>(**rets.get<ffi::AnyBuffer>(out++)); };
  Backward<T> run{};
  run.dropout = static_cast<Dropout>(dropout);
  const auto shape = args.get<ffi::AnyBuffer>(0)->dimensions();
  run.sizes = {shape[0], shape[1], split ? shape[2] : shape[2] / kGates};
  const int64_t units = run.sizes.units;
  place_gates(run.gates, split, units, [&] { return data_of<const T>(arg()); });
  run.c_trail = data_of<const T>(arg());
  run.d_final_h = data_of<const T>(arg());
  run.d_final_c = data_of<const T>(arg());
  run.kernel = data_of<const T>(arg());
  if (sequences) run.d_h = data_of<const T>(arg());
  if (dropout != kNone) run.mask = data_of<const T>(arg());
  if (masked) run.valid = data_of<const bool>(arg());
  run.d_first_h = ret();
  run.d_first_c = ret();
  place_gates(run.d_z, split, units, ret);
  const int vectors = backward_vectors<T>(units);
  const int64_t width = vectors * kLanes<T>;
  Aligned<T> room((units + width - 1) / width * width * kGates * units);
  pack_backward(run.kernel, units, width, room.get());
  over_rows(pool, threads, run.sizes.batch, [&](int64_t first, int64_t last) { backward_loop(run, room.get(), vectors, first, last); });
  return ffi::Error::Success();
}

template <typename... Rest>
ffi::Error any_forward(ffi::ThreadPool pool, ffi::RemainingArgs args, Rest... rest) {
  const bool wide = args.get<ffi::AnyBuffer>(0)->element_type() == ffi::F64;
  return wide ? forward<double>(pool, args, rest...) : forward<float>(pool, args, rest...);
}

template <typename... Rest>
ffi::Error any_backward(ffi::ThreadPool pool, ffi::RemainingArgs args, Rest... rest) {
  const bool wide = args.get<ffi::AnyBuffer>(0)->element_type() == ffi::F64;
  return wide ? backward<double>(pool, args, rest...) : backward<float>(pool, args, rest...);
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(lstm_jax_forward, (any_forward<ffi::RemainingRets, int64_t, bool, bool, bool, bool, int64_t>),
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .RemainingArgs()
                                  .RemainingRets()
                                  .Attr<int64_t>("dropout")
                                  .Attr<bool>("split")
                                  .Attr<bool>("masked")
                                  .Attr<bool>("sequences")
                                  .Attr<bool>("keep")
                                  .Attr<int64_t>("threads"));

XLA_FFI_DEFINE_HANDLER_SYMBOL(lstm_jax_backward, (any_backward<ffi::RemainingRets, int64_t, bool, bool, bool, int64_t>),
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .RemainingArgs()
                                  .RemainingRets()
                                  .Attr<int64_t>("dropout")
                                  .Attr<bool>("split")
                                  .Attr<bool>("masked")
                                  .Attr<bool>("sequences")
                                  .Attr<int64_t>("threads"));
