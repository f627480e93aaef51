// Matrix products in blocks whose sums stay in registers, and the packing of a kernel into the order in which they read it.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "vectors.h"

#define LSTM_INLINE inline __attribute__((always_inline))

namespace {

// registers for sums, of the 32 (16 without AVX-512 and ARM) that there are
#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int kSums = 24;
#else
constexpr int kSums = 8;
#endif
constexpr int kGates = 4;
constexpr int kRows = kSums / kGates;

template <typename T>
int64_t blocks_of(int64_t size) {
  return (size + kLanes<T> - 1) / kLanes<T>;
}

// f(ROWS) with the number as a type, for 1 <= rows <= MOST.
template <int MOST, typename F>
LSTM_INLINE void with_rows(int64_t rows, const F& f) {
  if constexpr (MOST > 0) {
    if (rows == MOST) return f(std::integral_constant<int, MOST>{});
    with_rows<MOST - 1>(rows, f);
  }
}

// size rows in groups of `most` or fewer, as equal as can be: f(begin, count).
template <typename F>
LSTM_INLINE void in_groups(int64_t size, int64_t most, const F& f) {
  const int64_t groups = (size + most - 1) / most;
  for (int64_t group = 0; group < groups; ++group) {
    const int64_t begin = group * size / groups;
    f(begin, (group + 1) * size / groups - begin);
  }
}

// sums[r][v] += sum over k of a[r, k] b[k, v]; b has VECTORS vectors a k, side by side, and the next k's so much further on.
template <typename T, int ROWS, int VECTORS>
LSTM_INLINE void multiply(Vec<T> (&sums)[ROWS][VECTORS], const T* a, int64_t by_row, int64_t by_k, const T* b, int64_t depth,
                          int64_t further = VECTORS * kLanes<T>) {
  for (int64_t k = 0; k < depth; ++k, a += by_k, b += further) {
    Vec<T> weights[VECTORS];
#pragma GCC unroll 4
    for (int v = 0; v < VECTORS; ++v) weights[v] = load(b + v * kLanes<T>);
#pragma GCC unroll 24
    for (int r = 0; r < ROWS; ++r) {
#pragma GCC unroll 4
      for (int v = 0; v < VECTORS; ++v) sums[r][v] += a[r * by_row] * weights[v];
    }
  }
}

// A kernel (K, 4H) as the forward products read it: block of units, k, gate.
template <typename T>
struct Kernel {
  const T* data;
  int64_t by_block, by_k, by_gate;
};

// z[block][r][gate] += sum over k in k0..k1-1 of a[gate][r, k] kernel[k, gate, block]; PER_GATE: a differs between the gates. Of two blocks (for PER_GATE
// only) two gates at a time: a number of a, once loaded, serves two vectors.
template <typename T, int ROWS, int BLOCKS, bool PER_GATE>
LSTM_INLINE void add_products(Vec<T> (&z)[BLOCKS][ROWS][kGates], const T* const* a, int64_t by_row, const Kernel<T>& kernel, int64_t block,
                              int64_t k0, int64_t k1) {
  const T* b = kernel.data + block * kernel.by_block + k0 * kernel.by_k;
  if constexpr (BLOCKS == 1) {
    for (int64_t k = k0; k < k1; ++k, b += kernel.by_k) {
      Vec<T> weights[kGates];
#pragma GCC unroll 4
      for (int g = 0; g < kGates; ++g) weights[g] = load(b + g * kernel.by_gate);
#pragma GCC unroll 8
      for (int r = 0; r < ROWS; ++r) {
#pragma GCC unroll 4
        for (int g = 0; g < kGates; ++g) z[0][r][g] += a[PER_GATE ? g : 0][r * by_row + k] * weights[g];
      }
    }
  } else {
    for (int pair = 0; pair < kGates; pair += 2) {
      const T* b_k = b + pair * kernel.by_gate;
      Vec<T> sums[ROWS][2][2];
#pragma GCC unroll 8
      for (int r = 0; r < ROWS; ++r) {
#pragma GCC unroll 4
        for (int n = 0; n < 4; ++n) sums[r][n / 2][n % 2] = z[n % 2][r][pair + n / 2];
      }
      for (int64_t k = k0; k < k1; ++k, b_k += kernel.by_k) {
        Vec<T> weights[2][2];
#pragma GCC unroll 4
        for (int n = 0; n < 4; ++n) weights[n / 2][n % 2] = load(b_k + (n / 2) * kernel.by_gate + (n % 2) * kernel.by_block);
#pragma GCC unroll 8
        for (int r = 0; r < ROWS; ++r) {
#pragma GCC unroll 2
          for (int g = 0; g < 2; ++g) {
            const T a_k = a[pair + g][r * by_row + k];
            sums[r][g][0] += a_k * weights[g][0];
            sums[r][g][1] += a_k * weights[g][1];
          }
        }
      }
#pragma GCC unroll 8
      for (int r = 0; r < ROWS; ++r) {
#pragma GCC unroll 4
        for (int n = 0; n < 4; ++n) z[n % 2][r][pair + n / 2] = sums[r][n / 2][n % 2];
      }
    }
  }
}

// (K, 4H) -> (blocks, K, 4, lanes), filled up with zeros: blocks first..last-1 of the H / lanes.
template <typename T>
void pack_forward(const T* kernel, int64_t depth, int64_t units, T* packed, int64_t first, int64_t last) {
  for (int64_t block = first; block < last; ++block) {
    const int count = std::min<int64_t>(kLanes<T>, units - block * kLanes<T>);
    for (int64_t k = 0; k < depth; ++k) {
      for (int gate = 0; gate < kGates; ++gate, packed += kLanes<T>) {
        store(packed, load(kernel + (k * kGates + gate) * units + block * kLanes<T>, count));
      }
    }
  }
}

// Vectors side by side in a panel of so many columns.
template <typename T>
int vectors_of(int64_t columns) {
  const int64_t blocks = blocks_of<T>(columns);
  return blocks > 2 ? 4 : static_cast<int>(blocks);
}

template <typename T>
int64_t width_of(int64_t columns) {
  return vectors_of<T>(columns) * kLanes<T>;
}

template <typename T>
int64_t panels_of(int64_t columns) {
  return columns == 0 ? 0 : (columns + width_of<T>(columns) - 1) / width_of<T>(columns);
}

// f(VECTORS) with the number as a type.
template <typename T, typename F>
LSTM_INLINE void with_vectors(int64_t columns, const F& f) {
  const int vectors = vectors_of<T>(columns);
  if (vectors == 1) return f(std::integral_constant<int, 1>{});
  if (vectors == 2) return f(std::integral_constant<int, 2>{});
  f(std::integral_constant<int, 4>{});
}

// (K, 4H) -> (4, H / width, K, width), filled up with zeros; panels first..last-1 of all gates'.
template <typename T>
void pack_panels(const T* kernel, int64_t depth, int64_t units, T* packed, int64_t first, int64_t last) {
  const int64_t width = width_of<T>(units), panels = panels_of<T>(units);
  packed += first * depth * width;
  for (int64_t n = first; n < last; ++n) {
    const int64_t column = n % panels * width, count = std::min(width, units - column);
    const T* from = kernel + n / panels * units + column;
    for (int64_t k = 0; k < depth; ++k, packed += width, from += kGates * units) {
      std::memcpy(packed, from, count * sizeof(T));
      std::fill(packed + count, packed + width, T(0));
    }
  }
}

// (K, 4H) -> (K / width, 4H, width), transposed, filled up with zeros; panels begin..end-1 of them. By squares, so that few lines of memory are
// in use at once.
template <typename T>
void pack_backward(const T* kernel, int64_t depth, int64_t units, T* packed, int64_t begin, int64_t end) {
  constexpr int64_t kSide = 16;
  const int64_t columns = kGates * units, width = width_of<T>(depth);
  packed += begin * columns * width;
  for (int64_t first = begin * width; first < std::min(depth, end * width); first += width, packed += columns * width) {
    const int64_t there = std::min(width, depth - first);
    if (there < width) std::fill(packed, packed + columns * width, T(0));
    for (int64_t k = 0; k < columns; k += kSide) {
      const int64_t last = std::min(columns, k + kSide);
      for (int64_t j = 0; j < there; ++j) {
        const T* row = kernel + (first + j) * columns;
        for (int64_t at = k; at < last; ++at) packed[at * width + j] = row[at];
      }
    }
  }
}

}  // namespace
