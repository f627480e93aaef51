// Matrix products in blocks whose sums stay in registers, and the packing of kernels into the order
// in which the products read them.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "narrow.h"
#include "vectors.h"

namespace {

// vector registers used for sums, of 32 (16 without AVX-512 and ARM)
#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int kSums = 24;
#else
constexpr int kSums = 12;
#endif
// Rows of a block, and vectors of a panel's row: kRows numbers and kVectors vectors are read for
// kRows * kVectors products.
constexpr int kRows = 6;
constexpr int kVectors = kSums / kRows;

// Most rows of a block of `vectors` vectors.
constexpr int max_rows(int vectors) { return std::min(kSums / vectors, 2 * kRows); }

template <typename T>
int64_t blocks_of(int64_t size) {
  return (size + kLanes<T> - 1) / kLanes<T>;
}

// Call f(begin, count) for groups of at most `max` of `size` rows; the groups' sizes differ by at
// most 1.
template <typename F>
LSTM_INLINE void over_groups(int64_t size, int64_t max, const F& f) {
  const int64_t groups = (size + max - 1) / max;
  for (int64_t group = 0; group < groups; ++group) {
    const int64_t begin = group * size / groups;
    f(begin, (group + 1) * size / groups - begin);
  }
}

// sums[r][v] += the sum over k of a[r, k] b[k, v]; b has VECTORS contiguous vectors for each k, and
// b_stride numbers from one k to the next. P: a and b are in groups.
template <typename T, int ROWS, int VECTORS, Products P = kFull>
LSTM_INLINE void multiply(Vec<T> (&sums)[ROWS][VECTORS], const T* a, int64_t row_stride,
                          int64_t k_stride, const T* b, int64_t depth,
                          int64_t b_stride = VECTORS * kLanes<T>) {
  for (int64_t k = 0; k < depth; ++k, a += k_stride, b += b_stride) {
    Vec<T> weights[VECTORS];
    LSTM_UNROLL for (int v = 0; v < VECTORS; ++v) weights[v] = load(b + v * kLanes<T>);
    LSTM_UNROLL for (int r = 0; r < ROWS; ++r) {
      LSTM_UNROLL for (int v = 0; v < VECTORS; ++v)
          add_product<T, P>(sums[r][v], a + r * row_stride, weights[v]);
    }
  }
}

// Load or store a block: VECTORS vectors of each of ROWS rows, which are `stride` numbers apart.
// Lanes from `columns` on are loaded as zeros and not stored. A compiler keeps an array in
// registers only if all its indices are constant; a block with fewer columns therefore passes
// through memory, in a function of its own.
template <typename T>
__attribute__((noinline)) void load_columns(const T* from, int64_t stride, int64_t columns,
                                            int rows, int vectors, Vec<T>* block) {
  for (int n = 0; n < rows * vectors; ++n) {
    const int64_t column = n % vectors * kLanes<T>;
    block[n] = load(from + n / vectors * stride + column,
                    std::clamp<int64_t>(columns - column, 0, kLanes<T>));
  }
}
template <typename T>
__attribute__((noinline)) void store_columns(T* to, int64_t stride, int64_t columns, int rows,
                                             int vectors, const Vec<T>* block) {
  for (int n = 0; n < rows * vectors; ++n) {
    const int64_t column = n % vectors * kLanes<T>;
    if (column < columns)
      store(to + n / vectors * stride + column, block[n],
            std::min<int64_t>(columns - column, kLanes<T>));
  }
}
template <typename T, int ROWS, int VECTORS>
LSTM_INLINE void load_block(const T* from, int64_t stride, int64_t columns,
                            Vec<T> (&block)[ROWS][VECTORS]) {
  Vec<T> part[ROWS * VECTORS];
  const bool whole = columns >= VECTORS * kLanes<T>;
  if (!whole) load_columns(from, stride, columns, ROWS, VECTORS, part);
  LSTM_UNROLL for (int r = 0; r < ROWS; ++r) {
    LSTM_UNROLL for (int v = 0; v < VECTORS; ++v) block[r][v] =
        whole ? load(from + r * stride + v * kLanes<T>) : part[r * VECTORS + v];
  }
}
template <typename T, int ROWS, int VECTORS>
LSTM_INLINE void store_block(T* to, int64_t stride, int64_t columns,
                             const Vec<T> (&block)[ROWS][VECTORS]) {
  if (columns < VECTORS * kLanes<T>) {
    Vec<T> part[ROWS * VECTORS];
    LSTM_UNROLL for (int n = 0; n < ROWS * VECTORS; ++n) part[n] = block[n / VECTORS][n % VECTORS];
    return store_columns(to, stride, columns, ROWS, VECTORS, part);
  }
  LSTM_UNROLL for (int r = 0; r < ROWS; ++r) {
    LSTM_UNROLL for (int v = 0; v < VECTORS; ++v)
        store(to + r * stride + v * kLanes<T>, block[r][v]);
  }
}

// Return the number of vectors in a row of a panel, for a matrix with `columns` columns.
template <typename T>
int vectors_of(int64_t columns) {
  const int64_t blocks = blocks_of<T>(columns);
  return blocks > kVectors / 2 ? kVectors : static_cast<int>(blocks);
}

template <typename T>
int64_t width_of(int64_t columns) {
  return vectors_of<T>(columns) * kLanes<T>;
}

template <typename T>
int64_t panels_of(int64_t columns) {
  return columns == 0 ? 0 : (columns + width_of<T>(columns) - 1) / width_of<T>(columns);
}

// Call f(VECTORS) with `vectors_of(columns)` as a compile-time constant.
template <typename T, typename F>
LSTM_INLINE void with_vectors(int64_t columns, const F& f) {
  const int vectors = vectors_of<T>(columns);
  if (vectors == 1) return f(std::integral_constant<int, 1>{});
  if (vectors == 2) return f(std::integral_constant<int, 2>{});
  if constexpr (kVectors == 4) f(std::integral_constant<int, 4>{});
}

// Call f(USED) with the number of vectors that `columns` numbers need as a compile-time constant,
// where a row of the panel has VECTORS vectors and `columns` is what is left of the matrix from the
// panel's first column on. Only rows of kVectors vectors may have unused ones.
template <typename T, int VECTORS, typename F>
LSTM_INLINE void with_used(int64_t columns, const F& f) {
  if constexpr (VECTORS < kVectors)
    f(std::integral_constant<int, VECTORS>{});
  else
    with_rows<VECTORS>(std::min<int64_t>(VECTORS, blocks_of<T>(columns)), f);
}

// Call f(VECTORS, PRODUCTS) with `vectors_of(columns)` and `products` as compile-time constants;
// QUADS: it may be kQuads.
template <typename T, bool QUADS, typename F>
LSTM_INLINE void with_products(int64_t columns, Products products, const F& f) {
  with_vectors<T>(columns, [&](auto VECTORS) {
    with_kind<T, QUADS>(products, [&](auto PRODUCTS) { f(VECTORS, PRODUCTS); });
  });
}

// A kernel (K, GH) in panels, as `pack_panels` packs it, or as it is: the strides from one panel, k
// and gate to the next.
template <typename T>
struct Panels {
  const T* data;
  int64_t panel_stride, k_stride, gate_stride;
};

// Pack panel n of a kernel: of (K, GH) to (K, width), padded with zeros; in groups to
// (packed_depth, width).
template <typename T>
void pack_panel(const T* kernel, int64_t depth, int64_t units, int64_t gates, T* packed, int64_t n,
                Products products) {
  const int64_t width = width_of<T>(units), panels = panels_of<T>(units);
  const int64_t column = n % panels * width, count = std::min(width, units - column);
  const T* from = kernel + n / panels * units + column;
  if (products == kQuads)
    return pack_quads(from, gates * units, depth, count, width / kLanes<T>, packed, kLanes<T>,
                      width);
  if (products == kPairs) {
    for (int64_t k = 0; k < depth; k += 2, packed += width)
      pack_pairs(from + k * gates * units, gates * units, k + 1 < depth, count, width, packed);
    return;
  }
  for (int64_t k = 0; k < depth; ++k, packed += width, from += gates * units) {
    std::memcpy(packed, from, count * sizeof(T));
    std::fill(packed + count, packed + width, T(0));
  }
}

// Pack panels first..last-1 of a kernel: (K, GH) -> (G, H / width, K, width), where K is
// packed_depth for groups.
template <typename T>
void pack_panels(const T* kernel, int64_t depth, int64_t units, int64_t gates, T* packed,
                 int64_t first, int64_t last, Products products) {
  const int64_t size = packed_depth(depth, products) * width_of<T>(units);
  for (int64_t n = first; n < last; ++n)
    pack_panel(kernel, depth, units, gates, packed + n * size, n, products);
}

// Pack panels begin..end-1 of a transposed kernel: (K, columns) -> (K / width, columns, width),
// padded with zeros. It goes square by square, so that few cache lines are in use at once.
template <typename T>
void pack_backward(const T* kernel, int64_t depth, int64_t columns, T* packed, int64_t begin,
                   int64_t end) {
  constexpr int64_t kSide = 16;
  const int64_t width = width_of<T>(depth);
  packed += begin * columns * width;
  for (int64_t first = begin * width; first < std::min(depth, end * width);
       first += width, packed += columns * width) {
    const int64_t count = std::min(width, depth - first);
    if (count < width) std::fill(packed, packed + columns * width, T(0));
    for (int64_t k = 0; k < columns; k += kSide) {
      const int64_t last = std::min(columns, k + kSide);
      for (int64_t j = 0; j < count; ++j) {
        const T* row = kernel + (first + j) * columns;
        for (int64_t at = k; at < last; ++at) packed[at * width + j] = row[at];
      }
    }
  }
}

// `pack_backward` in pairs of the columns of each gate: (K, GH) -> (K / width, G H / 2, width).
template <typename T>
void pack_backward_pairs(const T* kernel, int64_t depth, int64_t units, int64_t gates, T* packed,
                         int64_t begin, int64_t end) {
  constexpr int64_t kSide = 2 * kLanes<T>;
  const int64_t width = width_of<T>(depth), half = depth_of(units, kPairs);
  packed += begin * gates * half * width;
  for (int64_t first = begin * width; first < std::min(depth, end * width);
       first += width, packed += gates * half * width) {
    const int64_t count = std::min(width, depth - first);
    if (count < width) std::fill(packed, packed + gates * half * width, T(0));
    for (int64_t gate = 0; gate < gates; ++gate) {
      for (int64_t k = 0; k < units; k += kSide) {
        const int64_t size = std::min(kSide, units - k);
        T* const to = packed + (gate * half + k / 2) * width;
        for (int64_t j = 0; j < count; ++j) {
          T row[kLanes<T>];
          round_row<T>(kernel + ((first + j) * gates + gate) * units + k, nullptr, size, row);
          for (int64_t n = 0; n < depth_of(size, kPairs); ++n) to[n * width + j] = row[n];
        }
      }
    }
  }
}

}  // namespace
