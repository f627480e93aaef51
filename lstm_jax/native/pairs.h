// Products of bfloat16 numbers with sums in float32, for processors that have instructions for them.
//
// Two numbers that follow each other in the inner dimension of a product make a pair. A pair has 32 bits and is stored as a float, so that an
// array of pairs is an array whose inner dimension is half as long, with the same strides and vectors otherwise. An inner dimension of odd length is filled
// up with a 0.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "vectors.h"

namespace {

#if defined(__AVX512BF16__)
constexpr bool kHasPairs = true;
#else
constexpr bool kHasPairs = false;
#endif

// Return the length of an inner dimension of `size` numbers, in numbers or in pairs.
LSTM_INLINE int64_t depth_of(int64_t size, bool pairs) { return pairs ? (size + 1) / 2 : size; }

// Call f(PAIRS) with `pairs` as a compile-time constant.
template <typename T, typename F>
LSTM_INLINE void with_pairs(bool pairs, const F& f) {
  if constexpr (kHasPairs && std::is_same_v<T, float>) {
    if (pairs) return f(std::true_type{});
  }
  f(std::false_type{});
}

// sum += a b; for pairs, sum += a.first b.first + a.second b.second.
template <typename T, bool PAIRS>
LSTM_INLINE void add_product(Vec<T>& sum, const T* a, Vec<T> b) {
#if defined(__AVX512BF16__)
  if constexpr (PAIRS) {
    int32_t pair;
    std::memcpy(&pair, a, sizeof(pair));
    sum = (Vec<T>)_mm512_dpbf16_ps((__m512)sum, (__m512bh)_mm512_set1_epi32(pair), (__m512bh)b);
    return;
  }
#endif
  sum += *a * b;
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

// Pack `count` columns of a kernel's rows k and k + 1 as pairs; `packed` is filled up to `width` columns with zeros. second: whether row k + 1 exists.
template <typename T>
LSTM_INLINE void pack_pairs(const T* from, int64_t row_stride, bool second, int64_t count, int64_t width, T* packed) {
  for (int64_t n = 0; n < width; n += kLanes<T>) {
    const int lanes = std::clamp<int64_t>(count - n, 0, kLanes<T>);
    store(packed + n, lanes == 0 ? Vec<T>{} : pairs_of<T>(load(from + n, lanes), second ? load(from + row_stride + n, lanes) : Vec<T>{}));
  }
}

}  // namespace
