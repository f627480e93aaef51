// Products of few rows with a kernel as it lies in memory. For so few rows, packing a kernel would
// cost as much as several products.
#pragma once

#include <algorithm>
#include <cstdint>

#include "common.h"
#include "products.h"
#include "vectors.h"

namespace {

// Most rows that are multiplied at a time, by a kernel and by its transpose.
constexpr int kFewRows = 4, kFewRowsBack = 3;

// Units are divided at multiples of this many numbers, so that two threads do not write to one
// cache line.
constexpr int64_t kUnitStep = 16;

// Return n rounded up to a multiple of kUnitStep.
constexpr int64_t padded(int64_t n) { return (n + kUnitStep - 1) / kUnitStep * kUnitStep; }

// Call f(first, last) with the units of member `index` of `size` members, if it has any.
template <typename F>
LSTM_INLINE void over_share(int64_t units, int64_t index, int64_t size, const F& f) {
  const int64_t steps = padded(units) / kUnitStep;
  const int64_t first = index * steps / size * kUnitStep,
                last = std::min(units, (index + 1) * steps / size * kUnitStep);
  if (first < last) f(first, last);
}

// A kernel (K, GH): numbers from one row to the next, and the end of its memory.
template <typename T>
struct RowMajor {
  const T* data;
  int64_t stride;
  const T* end;
};

struct GateRange {
  int64_t first, last, units;
};

// to[r] += the sum over n of a[r][n] times row n of the kernel from `from` on, for VECTORS vectors
// from `at` on; `to` has room for whole vectors.
template <typename T, int ROWS, int DEPTH, int VECTORS>
LSTM_INLINE void add_vectors(const Vec<T> (&a)[ROWS][DEPTH], const RowMajor<T>& kernel,
                             const T* from, T* const* to, int64_t at, int count) {
  Vec<T> sums[ROWS][VECTORS];
  LSTM_UNROLL for (int r = 0; r < ROWS; ++r) {
    LSTM_UNROLL for (int v = 0; v < VECTORS; ++v) sums[r][v] = load(to[r] + at + v * kLanes<T>);
  }
  from += at;
  LSTM_UNROLL for (int n = 0; n < DEPTH; ++n, from += kernel.stride) {
    LSTM_UNROLL for (int v = 0; v < VECTORS; ++v) {
      // lanes past `count` belong to other columns and are not used, but the memory of the kernel
      // may end there
      const bool whole = count == kLanes<T> || kernel.end - from >= kLanes<T>;
      const Vec<T> weights = whole ? load(from + v * kLanes<T>) : load(from, count);
      LSTM_UNROLL for (int r = 0; r < ROWS; ++r) sums[r][v] += a[r][n] * weights;
    }
  }
  LSTM_UNROLL for (int r = 0; r < ROWS; ++r) {
    LSTM_UNROLL for (int v = 0; v < VECTORS; ++v) store(to[r] + at + v * kLanes<T>, sums[r][v]);
  }
}

// `add_few` for DEPTH rows of the kernel from k on.
template <typename T, int ROWS, int DEPTH>
LSTM_INLINE void add_rows_of(const T* const* a, const RowMajor<T>& kernel, int64_t k,
                             const GateRange& gates, T* const* to, int64_t first, int64_t last) {
  constexpr int kAtOnce = ROWS == 1 ? 4 : ROWS == 2 ? 2 : 1;
  Vec<T> factors[ROWS][DEPTH];
  LSTM_UNROLL for (int r = 0; r < ROWS; ++r) {
    LSTM_UNROLL for (int n = 0; n < DEPTH; ++n) factors[r][n] = all<T>(a[r][k + n]);
  }
  for (int64_t gate = gates.first; gate < gates.last; ++gate) {
    const T* const from = kernel.data + k * kernel.stride + gate * gates.units;
    T* sums[ROWS];
    for (int r = 0; r < ROWS; ++r) sums[r] = to[r] + gate * padded(gates.units);
    int64_t at = first;
    for (; at + kAtOnce * kLanes<T> <= last; at += kAtOnce * kLanes<T>)
      add_vectors<T, ROWS, DEPTH, kAtOnce>(factors, kernel, from, sums, at, kLanes<T>);
    for (; at < last; at += kLanes<T>)
      add_vectors<T, ROWS, DEPTH, 1>(factors, kernel, from, sums, at,
                                     std::min<int64_t>(kLanes<T>, last - at));
  }
}

// to[r][gate] += a[r] kernel for units first..last-1 of some gates and ROWS rows, in the order of
// k; the gates of `to` are padded(units) apart. The numbers of some rows of the kernel stay in
// registers as factors, so that each sum is loaded and stored once for these rows.
template <typename T, int ROWS>
void add_few(const T* const* a, const RowMajor<T>& kernel, int64_t depth, const GateRange& gates,
             T* const* to, int64_t first, int64_t last) {
  constexpr int kDepth = ROWS <= 3 ? 4 : 2;
  int64_t k = 0;
  for (; k + kDepth <= depth; k += kDepth)
    add_rows_of<T, ROWS, kDepth>(a, kernel, k, gates, to, first, last);
  for (; k < depth; ++k) add_rows_of<T, ROWS, 1>(a, kernel, k, gates, to, first, last);
}

// Pack block n of a kernel (K, GH), the columns of all gates of kUnitStep units, as (K, G,
// kUnitStep), padded with zeros.
template <typename T>
void pack_units(const T* kernel, int64_t depth, int64_t units, int64_t gates, int64_t n,
                T* packed) {
  const int64_t count = std::min(kUnitStep, units - n * kUnitStep);
  kernel += n * kUnitStep;
  for (int64_t row = 0; row < depth * gates; ++row, kernel += units, packed += kUnitStep) {
    std::memcpy(packed, kernel, count * sizeof(T));
    std::fill(packed + count, packed + kUnitStep, T(0));
  }
}

// to[r][gate * to_stride] += a[r] times the columns of BLOCKS kUnitStep units of GATES gates, which
// are `k_stride` numbers apart, and from one block to the next `block_stride`. In int8 the sums
// begin at 0.
template <typename T, int ROWS, int BLOCKS, int GATES, Products P>
LSTM_INLINE void add_gates(const T* const* a, const T* kernel, int64_t block_stride,
                           int64_t k_stride, int64_t depth, T* const* to, int64_t to_stride) {
  constexpr int kVectorsOfGate = kUnitStep / kLanes<T>, kVectorsOfBlock = GATES * kVectorsOfGate;
  Vec<T> sums[ROWS][BLOCKS * kVectorsOfBlock];
  const auto at = [&](int r, int v) __attribute__((always_inline)) {
    const int in_block = v % kVectorsOfBlock;
    return to[r] + v / kVectorsOfBlock * kUnitStep + in_block / kVectorsOfGate * to_stride +
           in_block % kVectorsOfGate * kLanes<T>;
  };
  LSTM_UNROLL for (int r = 0; r < ROWS; ++r) {
    LSTM_UNROLL for (int v = 0; v < BLOCKS * kVectorsOfBlock; ++v) sums[r][v] =
        P == kQuads ? Vec<T>{} : load(at(r, v));
  }
  for (int64_t k = 0; k < depth; ++k, kernel += k_stride) {
    LSTM_UNROLL for (int v = 0; v < BLOCKS * kVectorsOfBlock; ++v) {
      const Vec<T> weights =
          load(kernel + v / kVectorsOfBlock * block_stride + v % kVectorsOfBlock * kLanes<T>);
      LSTM_UNROLL for (int r = 0; r < ROWS; ++r) add_product<T, P>(sums[r][v], a[r] + k, weights);
    }
  }
  LSTM_UNROLL for (int r = 0; r < ROWS; ++r) {
    LSTM_UNROLL for (int v = 0; v < BLOCKS * kVectorsOfBlock; ++v) store(at(r, v), sums[r][v]);
  }
}

// `add_gates` for gates first..last-1 of blocks packed by `pack_units` or `pack_quad_blocks`, as
// many at a time as there are registers for their sums.
template <typename T, int ROWS, int BLOCKS = 1, Products P = kFull>
void add_blocks(const T* const* a, const T* block, int64_t block_stride, int64_t gates,
                int64_t depth, int64_t first, int64_t last, T* const* to, int64_t to_stride) {
  constexpr int kFit = kSums / (ROWS * BLOCKS * (kUnitStep / kLanes<T>)), kAtOnce = kFit >= 4   ? 4
                                                                                    : kFit >= 2 ? 2
                                                                                                : 1;
  const auto add = [&](auto GATES) {
    T* at[ROWS];
    for (int r = 0; r < ROWS; ++r) at[r] = to[r] + first * to_stride;
    add_gates<T, ROWS, BLOCKS, GATES, P>(a, block + first * kUnitStep, block_stride,
                                         gates * kUnitStep, depth, at, to_stride);
    first += GATES;
  };
  while (first + kAtOnce <= last) add(std::integral_constant<int, kAtOnce>{});
  while (first < last) add(std::integral_constant<int, 1>{});
}

// The sums of the lanes of four vectors, each in the same order.
template <typename T>
LSTM_INLINE void sum_lanes(const Vec<T>* from, T* to) {
  for (int n = 0; n < 4; ++n) {
    T part[kLanes<T>], sum = 0;
    store(part, from[n]);
    for (int lane = 0; lane < kLanes<T>; ++lane) sum += part[lane];
    to[n] = sum;
  }
}
#if defined(__AVX__)
template <>
LSTM_INLINE void sum_lanes<float>(const Vec<float>* from, float* to) {
#if defined(__AVX512F__)
  __m256 half[4];
  for (int n = 0; n < 4; ++n) {
    const __m512 whole = (__m512)from[n];
    half[n] = _mm256_add_ps(_mm512_castps512_ps256(whole),
                            _mm256_castpd_ps(_mm512_extractf64x4_pd(_mm512_castps_pd(whole), 1)));
  }
#else
  const __m256 half[4] = {(__m256)from[0], (__m256)from[1], (__m256)from[2], (__m256)from[3]};
#endif
  const __m256 pairs =
      _mm256_hadd_ps(_mm256_hadd_ps(half[0], half[1]), _mm256_hadd_ps(half[2], half[3]));
  _mm_storeu_ps(to, _mm_add_ps(_mm256_castps256_ps128(pairs), _mm256_extractf128_ps(pairs, 1)));
}
#endif

// sums[r][j] = the sum over n of d[r][n] kernel[j * stride + n], for n < count.
template <typename T, int ROWS, int COLUMNS>
LSTM_INLINE void dot(const T* const* d, const T* kernel, int64_t stride, int64_t count,
                     T (&sums)[ROWS][COLUMNS]) {
  constexpr int kFour = (COLUMNS + 3) / 4 * 4;
  Vec<T> parts[ROWS][kFour] = {};
  over_vectors<T>(0, count, [&](int64_t n, int lanes) __attribute__((always_inline)) {
    Vec<T> factors[ROWS];
    LSTM_UNROLL for (int r = 0; r < ROWS; ++r) factors[r] = load(d[r] + n, lanes);
    LSTM_UNROLL for (int j = 0; j < COLUMNS; ++j) {
      const Vec<T> weights = load(kernel + j * stride + n, lanes);
      LSTM_UNROLL for (int r = 0; r < ROWS; ++r) parts[r][j] += factors[r] * weights;
    }
  });
  for (int r = 0; r < ROWS; ++r) {
    T found[kFour];
    for (int j = 0; j < kFour; j += 4) sum_lanes<T>(parts[r] + j, found + j);
    std::copy_n(found, COLUMNS, sums[r]);
  }
}

// A product d kernel^T for few rows of d (slots H), which adds up to kMostGates segments, each
// times its mask.
template <typename T>
struct Segments {
  struct Segment {
    int64_t gate, slot_at, column,
        count;  // the first number in a row of d and in one of the kernel
  } of[4];
  int count = 0;
  const Mask<T>* mask;

  // Neighbouring gates are one segment if they have the same mask.
  Segments(const Sizes& sizes, const int* slots, const Mask<T>& mask) : mask(&mask) {
    for (int64_t gate = 0; gate < sizes.gates; ++gate) {
      if (count && !mask.per_gate() && slots[gate] == slots[gate - 1] + 1)
        of[count - 1].count += sizes.units;
      else
        of[count++] = {gate, slots[gate] * sizes.units, gate * sizes.units, sizes.units};
    }
  }
};

// out[r][j] = the product for rows j, j + 1, ... of the kernel, or added to it. numbers: the rows'
// numbers in the batch; a row whose `out` is null is skipped.
template <typename T, int ROWS, int COLUMNS>
LSTM_INLINE void back_few_columns(const Segments<T>& segments, const T* kernel, int64_t stride,
                                  const T* const* d, const int64_t* numbers, int64_t j, bool adds,
                                  T* const* out) {
  T total[ROWS][COLUMNS] = {};
  for (int n = 0; n < segments.count; ++n) {
    const auto& segment = segments.of[n];
    const T* from[ROWS];
    for (int r = 0; r < ROWS; ++r) from[r] = d[r] + segment.slot_at;
    T sums[ROWS][COLUMNS];
    dot<T, ROWS, COLUMNS>(from, kernel + j * stride + segment.column, stride, segment.count, sums);
    for (int r = 0; r < ROWS; ++r) {
      const T* const mask =
          segments.mask->kinds ? segments.mask->row(segment.gate, numbers[r]) + j : nullptr;
      for (int c = 0; c < COLUMNS; ++c) total[r][c] += mask ? mask[c] * sums[r][c] : sums[r][c];
    }
  }
  for (int r = 0; r < ROWS; ++r) {
    for (int c = 0; out[r] && c < COLUMNS; ++c)
      out[r][j + c] = adds ? out[r][j + c] + total[r][c] : total[r][c];
  }
}

// `back_few_columns` for rows first..last-1 of the kernel.
template <typename T, int ROWS>
void back_few(const Segments<T>& segments, const T* kernel, int64_t stride, const T* const* d,
              const int64_t* numbers, int64_t first, int64_t last, bool adds, T* const* out) {
  constexpr int kColumns = 4;
  int64_t j = first;
  for (; j + kColumns <= last; j += kColumns)
    back_few_columns<T, ROWS, kColumns>(segments, kernel, stride, d, numbers, j, adds, out);
  for (; j < last; ++j)
    back_few_columns<T, ROWS, 1>(segments, kernel, stride, d, numbers, j, adds, out);
}

}  // namespace
