// Products of bfloat16 and of int8 numbers, for processors that have instructions for them.
//
// Numbers that follow each other in the inner dimension of a product are grouped: 2 bfloat16
// numbers are a pair, 4 int8 numbers a quad. A group has 32 bits and is stored as a float, so that
// an array of groups is an array whose inner dimension is shorter, with the same strides and
// vectors otherwise. An inner dimension that is no multiple of the group is filled up with zeros.
//
// In int8, each row of the left factor and each column of the kernel is scaled to -127..127. The
// left factor is stored with 128 added, as the instruction multiplies unsigned by signed numbers; a
// packed kernel has two more rows, the scales of its columns and 128 times the sums of their
// numbers.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>

#include "vectors.h"

namespace {

// Operands of products: numbers of the arrays' own type, pairs of bfloat16 numbers, or quads of
// int8 numbers.
enum Products : int64_t { kFull, kPairs, kQuads };
constexpr int64_t kProductsCount = 3;

#if defined(__AVX512BF16__)
constexpr bool kHasPairs = true;
#else
constexpr bool kHasPairs = false;
#endif
#if defined(__AVX512VNNI__)
constexpr bool kHasQuads = true;
#else
constexpr bool kHasQuads = false;
#endif

// Return the length of an inner dimension of `size` numbers, in groups.
LSTM_INLINE constexpr int64_t depth_of(int64_t size, Products products) {
  return products == kFull ? size : products == kPairs ? (size + 1) / 2 : (size + 3) / 4;
}

// Return the rows of a packed kernel (size, ...).
LSTM_INLINE constexpr int64_t packed_depth(int64_t size, Products products) {
  return depth_of(size, products) + (products == kQuads ? 2 : 0);
}

template <Products P>
using ProductsConstant = std::integral_constant<Products, P>;

// Call f(PRODUCTS) with `products` as a compile-time constant, which is not kQuads unless QUADS.
template <typename T, bool QUADS, typename F>
LSTM_INLINE void with_kind(Products products, const F& f) {
  if constexpr (kHasPairs && std::is_same_v<T, float>) {
    if (products == kPairs) return f(ProductsConstant<kPairs>{});
  }
  if constexpr (QUADS && kHasQuads && std::is_same_v<T, float>) {
    if (products == kQuads) return f(ProductsConstant<kQuads>{});
  }
  f(ProductsConstant<kFull>{});
}

// sum += a b, over the numbers of a group. In int8 the sum has the bits of int32.
template <typename T, Products P>
LSTM_INLINE void add_product(Vec<T>& sum, const T* a, Vec<T> b) {
  int32_t group;
  std::memcpy(&group, a, sizeof(group));
#if defined(__AVX512BF16__)
  if constexpr (P == kPairs) {
    sum = (Vec<T>)_mm512_dpbf16_ps((__m512)sum, (__m512bh)_mm512_set1_epi32(group), (__m512bh)b);
    return;
  }
#endif
#if defined(__AVX512VNNI__)
  if constexpr (P == kQuads) {
    sum = (Vec<T>)_mm512_dpbusd_epi32((__m512i)sum, _mm512_set1_epi32(group), (__m512i)b);
    return;
  }
#endif
  sum += *a * b;
}

// Return the product of an int8 sum: less the 128 that was added to the left factor, times the
// scales of the row and the columns, which are at `scales`; what the 128 adds is `stride` numbers
// after them.
template <typename T>
LSTM_INLINE Vec<T> unscaled(Vec<T> sum, T row_scale, const T* scales, int64_t stride) {
#if defined(__AVX512VNNI__)
  if constexpr (std::is_same_v<T, float>) {
    const __m512i whole = _mm512_sub_epi32((__m512i)sum, (__m512i)load(scales + stride));
    return (Vec<T>)_mm512_cvtepi32_ps(whole) * (row_scale * load(scales));
  }
#endif
  return sum;  // never reached
}

// Return the pairs (first[n], second[n]).
template <typename T>
LSTM_INLINE Vec<T> pairs_of(Vec<T> first, Vec<T> second) {
#if defined(__AVX512BF16__)
  if constexpr (std::is_same_v<T, float>) {
    const __m512i low = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh((__m512)first));
    const __m512i high = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh((__m512)second));
    return (Vec<T>)_mm512_or_si512(low, _mm512_slli_epi32(high, 16));
  }
#endif
  return first + second;  // never reached
}

// to[n] = the pair (from[2 n], from[2 n + 1]), times `mask` unless it is null, for `size` numbers.
template <typename T>
void round_row(const T* from, const T* mask, int64_t size, T* to) {
#if defined(__AVX512BF16__)
  if constexpr (std::is_same_v<T, float>) {
    for (int64_t n = 0; n < size; n += 2 * kLanes<T>) {
      const int count = std::min<int64_t>(kLanes<T>, size - n),
                more = std::clamp<int64_t>(size - n - kLanes<T>, 0, kLanes<T>);
      Vec<T> first = load(from + n, count), second{};
      if (more) second = load(from + n + kLanes<T>, more);
      if (mask) first *= load(mask + n, count);
      if (mask && more) second *= load(mask + n + kLanes<T>, more);
      store(to + n / 2, (Vec<T>)_mm512_cvtne2ps_pbh((__m512)second, (__m512)first),
            static_cast<int>((count + more + 1) / 2));
    }
  }
#endif
}

#if defined(__AVX512VNNI__)
// Return the lanes whose absolute number is infinite or NaN.
LSTM_INLINE __mmask16 not_finite(__m512 size) {
  return _mm512_cmp_ps_mask(size, _mm512_set1_ps(std::numeric_limits<float>::max()), _CMP_NLE_UQ);
}
#endif

// to = from times `mask` unless it is null, for `size` numbers, as 128 plus int8 numbers; return
// their scale, NaN if any number is not finite.
template <typename T>
T quantize_row(const T* from, const T* mask, int64_t size, T* to) {
#if defined(__AVX512VNNI__)
  if constexpr (std::is_same_v<T, float>) {
    const auto number = [&](int64_t n, int count) __attribute__((always_inline)) {
      const Vec<T> vector = load(from + n, count);
      return mask ? vector * load(mask + n, count) : vector;
    };
    Vec<T> most{};
    __mmask16 odd = 0;
    over_vectors<T>(0, size, [&](int64_t n, int count) __attribute__((always_inline)) {
      const __m512 vector = _mm512_abs_ps((__m512)number(n, count));
      odd |= not_finite(vector);
      most = (Vec<T>)_mm512_max_ps((__m512)most, vector);
    });
    using Limits = std::numeric_limits<T>;
    const T scale = odd ? Limits::quiet_NaN() : _mm512_reduce_max_ps((__m512)most) / 127,
            inverse = scale >= Limits::min() ? 1 / scale : 0;
    over_vectors<T>(0, size, [&](int64_t n, int count) __attribute__((always_inline)) {
      const __m512i codes = _mm512_add_epi32(
          _mm512_cvtps_epi32((__m512)(number(n, count) * inverse)), _mm512_set1_epi32(128));
      const __m128i bytes = _mm512_cvtusepi32_epi8(codes);
      std::memcpy(reinterpret_cast<char*>(to) + n, &bytes, (count + 3) / 4 * 4);
    });
    return scale;
  }
#endif
  return T(0);  // never reached
}

// Vectors of columns that `pack_quads` reads at a time, as rows of a kernel are far apart, and rows
// of them that it keeps in the L1 cache.
constexpr int64_t kPackedVectors = 4, kKeptRows = 128;

// `pack_quads` for VECTORS vectors.
template <typename T, int VECTORS>
void pack_quad_vectors(const T* from, int64_t row_stride, int64_t depth, int64_t count, T* packed,
                       int64_t vector_stride, int64_t stride) {
#if defined(__AVX512VNNI__)
  if constexpr (std::is_same_v<T, float>) {
    const auto row = [&](int64_t k, int v) __attribute__((always_inline)) {
      const T* const at = from + k * row_stride + v * kLanes<T>;
      return k >= depth ? Vec<T>{}
             : count >= VECTORS * kLanes<T>
                 ? load(at)
                 : load(at,
                        static_cast<int>(std::clamp<int64_t>(count - v * kLanes<T>, 0, kLanes<T>)));
    };
    alignas(64) T kept[kKeptRows * VECTORS * kLanes<T>];
    // absolute numbers are ordered as their bits are, and NaN is above all others
    __m512i most[VECTORS] = {};
    for (int64_t k = 0; k < 4 * depth_of(depth, kQuads); ++k) {
      LSTM_UNROLL for (int v = 0; v < VECTORS; ++v) {
        const Vec<T> numbers = row(k, v);
        if (k < kKeptRows) store(kept + (k * VECTORS + v) * kLanes<T>, numbers);
        most[v] = _mm512_max_epu32(most[v], (__m512i)_mm512_abs_ps((__m512)numbers));
      }
    }
    using Limits = std::numeric_limits<T>;
    __m512 scale[VECTORS], inverse[VECTORS];
    for (int v = 0; v < VECTORS; ++v) {
      const __m512 size = (__m512)most[v];
      scale[v] = _mm512_mask_mov_ps(_mm512_div_ps(size, _mm512_set1_ps(127)), not_finite(size),
                                    _mm512_set1_ps(Limits::quiet_NaN()));
      inverse[v] = _mm512_maskz_div_ps(
          _mm512_cmp_ps_mask(scale[v], _mm512_set1_ps(Limits::min()), _CMP_GE_OQ),
          _mm512_set1_ps(1), scale[v]);
    }
    __m512i total[VECTORS] = {};
    for (int64_t k = 0; k < depth; k += 4, packed += stride) {
      for (int64_t n = 0; k >= kKeptRows && n < 4 * VECTORS; ++n)
        store(kept + n * kLanes<T>, row(k + n / VECTORS, n % VECTORS));
      const T* const rows = kept + (k < kKeptRows ? k : 0) * VECTORS * kLanes<T>;
      LSTM_UNROLL for (int v = 0; v < VECTORS; ++v) {
        __m512i quads = _mm512_setzero_si512();
        LSTM_UNROLL for (int part = 0; part < 4; ++part) {
          const __m512i codes = _mm512_cvtps_epi32(
              _mm512_mul_ps((__m512)load(rows + (part * VECTORS + v) * kLanes<T>), inverse[v]));
          quads = _mm512_or_si512(quads, _mm512_and_si512(_mm512_slli_epi32(codes, 8 * part),
                                                          _mm512_set1_epi32(255u << 8 * part)));
        }
        total[v] = _mm512_dpbusd_epi32(total[v], _mm512_set1_epi8(1), quads);
        store(packed + v * vector_stride, (Vec<T>)quads);
      }
    }
    for (int v = 0; v < VECTORS; ++v, packed += vector_stride) {
      store(packed, (Vec<T>)scale[v]);
      store(packed + stride, (Vec<T>)_mm512_slli_epi32(total[v], 7));
    }
  }
#endif
}

// Pack `count` columns of a kernel (depth, ...) in quads, filled up with zeros to `vectors`
// vectors, which begin `vector_stride` numbers apart; rows are `stride` numbers apart. Two rows
// follow: the scales of the columns, and 128 times the sums of their int8 numbers.
template <typename T>
void pack_quads(const T* from, int64_t row_stride, int64_t depth, int64_t count, int64_t vectors,
                T* packed, int64_t vector_stride, int64_t stride) {
  for (; vectors > 0; vectors -= kPackedVectors, count -= kPackedVectors * kLanes<T>,
                      from += kPackedVectors * kLanes<T>,
                      packed += kPackedVectors * vector_stride) {
    with_rows<kPackedVectors>(std::min(vectors, kPackedVectors), [&](auto VECTORS) {
      pack_quad_vectors<T, VECTORS>(from, row_stride, depth, count, packed, vector_stride, stride);
    });
  }
}

// Return the pieces in which `pack_quad_piece` packs a kernel.
template <typename T>
int64_t quad_pieces(int64_t units, int64_t gates) {
  return gates * ((units + kPackedVectors * kLanes<T> - 1) / (kPackedVectors * kLanes<T>));
}

// Pack blocks first..last-1 of one gate of a kernel: (K, GH) -> (H / lanes, packed_depth, G,
// lanes).
template <typename T>
void pack_quad_blocks(const T* kernel, int64_t depth, int64_t units, int64_t gates, int64_t gate,
                      int64_t first, int64_t last, T* packed) {
  const int64_t row = gates * kLanes<T>, size = packed_depth(depth, kQuads) * row,
                column = first * kLanes<T>;
  pack_quads(kernel + gate * units + column, gates * units, depth, units - column, last - first,
             packed + first * size + gate * kLanes<T>, size, row);
}

// Pack piece n of a kernel by `pack_quad_blocks`.
template <typename T>
void pack_quad_piece(const T* kernel, int64_t depth, int64_t units, int64_t gates, int64_t n,
                     T* packed) {
  const int64_t first = n / gates * kPackedVectors,
                last = std::min(first + kPackedVectors, (units + kLanes<T> - 1) / kLanes<T>);
  pack_quad_blocks(kernel, depth, units, gates, n % gates, first, last, packed);
}

// Pack `count` columns of a kernel's rows k and k + 1 as pairs; `packed` is filled up to `width`
// columns with zeros. second: whether row k + 1 exists.
template <typename T>
LSTM_INLINE void pack_pairs(const T* from, int64_t row_stride, bool second, int64_t count,
                            int64_t width, T* packed) {
  for (int64_t n = 0; n < width; n += kLanes<T>) {
    const int lanes = std::clamp<int64_t>(count - n, 0, kLanes<T>);
    store(packed + n, lanes == 0
                          ? Vec<T>{}
                          : pairs_of<T>(load(from + n, lanes),
                                        second ? load(from + row_stride + n, lanes) : Vec<T>{}));
  }
}

}  // namespace
