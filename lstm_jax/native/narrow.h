// Products of bfloat16 and of int8 numbers, for processors that have instructions for them.
//
// Numbers that follow each other in the inner dimension of a product are grouped: 2 bfloat16 numbers are a pair, 4 int8 numbers a quad. A group has 32 bits and
// is stored as a float, so that an array of groups is an array whose inner dimension is shorter, with the same strides and vectors otherwise. An inner
// dimension that is no multiple of the group is filled up with zeros.
//
// In int8, each row of the left factor and each column of the kernel is scaled to -127..127. The left factor is stored with 128 added, as the instruction
// multiplies unsigned by signed numbers; a packed kernel has two more rows, the scales of its columns and 128 times the sums of their numbers.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>

#include "vectors.h"

namespace {

// Operands of products: numbers of the arrays' own type, pairs of bfloat16 numbers, or quads of int8 numbers.
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
LSTM_INLINE constexpr int64_t packed_depth(int64_t size, Products products) { return depth_of(size, products) + (products == kQuads ? 2 : 0); }

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

// Return the product of an int8 sum: less the 128 that was added to the left factor, times the scales of the row and the columns, which are at
// `scales`; what the 128 adds is `stride` numbers after them.
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
      const int count = std::min<int64_t>(kLanes<T>, size - n), more = std::clamp<int64_t>(size - n - kLanes<T>, 0, kLanes<T>);
      Vec<T> first = load(from + n, count), second{};
      if (more) second = load(from + n + kLanes<T>, more);
      if (mask) first *= load(mask + n, count);
      if (mask && more) second *= load(mask + n + kLanes<T>, more);
      store(to + n / 2, (Vec<T>)_mm512_cvtne2ps_pbh((__m512)second, (__m512)first), static_cast<int>((count + more + 1) / 2));
    }
  }
#endif
}

#if defined(__AVX512VNNI__)
// Return the lanes whose absolute number is infinite or NaN.
LSTM_INLINE __mmask16 not_finite(__m512 size) { return _mm512_cmp_ps_mask(size, _mm512_set1_ps(std::numeric_limits<float>::max()), _CMP_NLE_UQ); }
#endif

// to = from times `mask` unless it is null, for `size` numbers, as 128 plus int8 numbers; return their scale, NaN if any number is not finite.
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
    const T scale = odd ? Limits::quiet_NaN() : _mm512_reduce_max_ps((__m512)most) / 127, inverse = scale >= Limits::min() ? 1 / scale : 0;
    over_vectors<T>(0, size, [&](int64_t n, int count) __attribute__((always_inline)) {
      const __m512i codes = _mm512_add_epi32(_mm512_cvtps_epi32((__m512)(number(n, count) * inverse)), _mm512_set1_epi32(128));
      const __m128i bytes = _mm512_cvtusepi32_epi8(codes);
      std::memcpy(reinterpret_cast<char*>(to) + n, &bytes, (count + 3) / 4 * 4);
    });
    return scale;
  }
#endif
  return T(0);  // never reached
}

// Pack `count` columns of a kernel (depth, ...) in quads: rows of `width` quads, `stride` numbers apart, filled up with zeros. Two rows follow: the
// scales of the columns, and 128 times the sums of their int8 numbers.
template <typename T>
void pack_quads(const T* from, int64_t row_stride, int64_t depth, int64_t count, int64_t width, T* packed, int64_t stride) {
#if defined(__AVX512VNNI__)
  if constexpr (std::is_same_v<T, float>) {
    // the first rows are kept from the first reading to the second: where their stride is a multiple of a large power of 2, they do not stay in the L1
    // cache; on the stack, since this must not throw
    constexpr int64_t kCopied = 256;
    alignas(kVectorBytes) T copy[kCopied * kLanes<T>];
    for (int64_t n = 0; n < width; n += kLanes<T>) {
      const int lanes = std::clamp<int64_t>(count - n, 0, kLanes<T>);
      const auto read = [&](int64_t k) { return lanes ? load(from + k * row_stride + n, lanes) : Vec<T>{}; };
      const auto row = [&](int64_t k) { return (__m512)(k >= depth ? Vec<T>{} : k < kCopied ? load(copy + k * kLanes<T>) : read(k)); };
      __m512 most = _mm512_setzero_ps();
      __mmask16 odd = 0;
      for (int64_t k = 0; k < depth; ++k) {
        const Vec<T> numbers = read(k);
        if (k < kCopied) store(copy + k * kLanes<T>, numbers);
        odd |= not_finite(_mm512_abs_ps((__m512)numbers));
        most = _mm512_max_ps(most, _mm512_abs_ps((__m512)numbers));
      }
      using Limits = std::numeric_limits<T>;
      const __m512 scale = _mm512_mask_mov_ps(_mm512_div_ps(most, _mm512_set1_ps(127)), odd, _mm512_set1_ps(Limits::quiet_NaN()));
      const __m512 inverse = _mm512_maskz_div_ps(_mm512_cmp_ps_mask(scale, _mm512_set1_ps(Limits::min()), _CMP_GE_OQ), _mm512_set1_ps(1), scale);
      __m512i total = _mm512_setzero_si512();
      T* to = packed + n;
      for (int64_t k = 0; k < depth; k += 4, to += stride) {
        __m512i quads = _mm512_setzero_si512();
        for (int part = 0; part < 4; ++part) {
          const __m512i codes = _mm512_cvtps_epi32(_mm512_mul_ps(row(k + part), inverse));
          total = _mm512_add_epi32(total, codes);
          quads = _mm512_or_si512(quads, _mm512_slli_epi32(_mm512_and_si512(codes, _mm512_set1_epi32(255)), 8 * part));
        }
        store(to, (Vec<T>)quads);
      }
      store(to, (Vec<T>)scale);
      store(to + stride, (Vec<T>)_mm512_slli_epi32(total, 7));
    }
  }
#endif
}

// Pack `count` columns of a kernel's rows k and k + 1 as pairs; `packed` is filled up to `width` columns with zeros. second: whether row k + 1 exists.
template <typename T>
LSTM_INLINE void pack_pairs(const T* from, int64_t row_stride, bool second, int64_t count, int64_t width, T* packed) {
  for (int64_t n = 0; n < width; n += kLanes<T>) {
    const int lanes = std::clamp<int64_t>(count - n, 0, kLanes<T>);
    store(packed + n, lanes == 0 ? Vec<T>{} : pairs_of<T>(load(from + n, lanes), second ? load(from + row_stride + n, lanes) : Vec<T>{}));
  }
}

}  // namespace
