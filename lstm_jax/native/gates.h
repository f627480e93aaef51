// sigmoid, tanh and square root of SIMD vectors.
#pragma once

#include <cmath>

#include "vectors.h"

namespace {

template <typename T>
struct Numbers;

// kTerms are the coefficients of (exp(r) - 1 - r) / r^2 for |r| <= ln 2 / 2: for float the
// polynomial through the Chebyshev nodes, within 3e-8 of exp(r) - 1; for double the Taylor series.
template <>
struct Numbers<float> {
  typedef int32_t Bits __attribute__((vector_size(kVectorBytes)));
  typedef uint32_t Unsigned __attribute__((vector_size(kVectorBytes)));
  static constexpr float kMax = 87.0f, kMagic = 12582912.0f;  // 1.5 * 2^23
  static constexpr float kLn2High = 0.693359375f, kLn2Low = -2.12194440e-4f;
  static constexpr int kMantissa = 23, kBias = 127;
  static constexpr float kTerms[] = {0.5f, 0.16666576266288757f, 0.041666556149721146f,
                                     0.008363194763660431f, 0.0013926203828305006f};
};

template <>
struct Numbers<double> {
  typedef int64_t Bits __attribute__((vector_size(kVectorBytes)));
  typedef uint64_t Unsigned __attribute__((vector_size(kVectorBytes)));
  static constexpr double kMax = 708.0, kMagic = 6755399441055744.0;  // 1.5 * 2^52
  static constexpr double kLn2High = 6.93145751953125e-1, kLn2Low = 1.42860682030941723212e-6;
  static constexpr int kMantissa = 52, kBias = 1023;
  static constexpr double kTerms[] = {
      1.0 / 2,     1.0 / 6,      1.0 / 24,      1.0 / 120,      1.0 / 720,       1.0 / 5040,
      1.0 / 40320, 1.0 / 362880, 1.0 / 3628800, 1.0 / 39916800, 1.0 / 479001600, 1.0 / 6227020800};
};

// min(x, most); NaN stays NaN.
LSTM_INLINE Vec<double> at_most(double most, Vec<double> x) {
  return x > most ? all<double>(most) : x;
}
LSTM_INLINE Vec<float> at_most(float most, Vec<float> x) {
#if defined(__AVX512F__)
  return (Vec<float>)_mm512_min_ps((__m512)all<float>(most), (__m512)x);
#elif defined(__AVX__)
  return (Vec<float>)_mm256_min_ps((__m256)all<float>(most), (__m256)x);
#else
  return x > most ? all<float>(most) : x;
#endif
}

// 2^n for |n| < kBias, where `shifted` is n + kMagic, whose last bits are n.
template <typename T>
LSTM_INLINE Vec<T> power(Vec<T> shifted) {
  using N = Numbers<T>;
  return (Vec<T>)(((typename N::Unsigned)shifted + N::kBias) << N::kMantissa);
}

// exp(-x) as scale * (1 + less) for |x| <= kMost: -x = n ln 2 + r, scale = 2^n, less = exp(r) - 1.
template <typename T>
LSTM_INLINE void exponential(Vec<T> x, Vec<T>& scale, Vec<T>& less) {
  using N = Numbers<T>;
  const Vec<T> shifted = N::kMagic - x * T(1.44269504088896340736);
  const Vec<T> n = N::kMagic - shifted;
  const Vec<T> r = (n * N::kLn2High - x) + n * N::kLn2Low;
  constexpr int last = sizeof(N::kTerms) / sizeof(T) - 1;
  Vec<T> sum = all<T>(N::kTerms[last]);
  LSTM_UNROLL for (int k = last - 1; k >= 0; --k) sum = sum * r + N::kTerms[k];
  less = r * r * sum + r;
  scale = power<T>(shifted);
}

// 1 / x for finite x, from an estimate and one Newton step; a division takes three times as long.
LSTM_INLINE Vec<double> reciprocal(Vec<double> x) { return 1.0 / x; }
LSTM_INLINE Vec<float> reciprocal(Vec<float> x) {
#if defined(__AVX512F__)
  const Vec<float> estimate = (Vec<float>)_mm512_rcp14_ps((__m512)x);  // within 2^-14
  return estimate + estimate * (1.0f - x * estimate);
#else
  return 1.0f / x;
#endif
}

// Written with intrinsics, since compilers take the square root of one lane at a time.
template <typename T>
LSTM_INLINE Vec<T> square_root(Vec<T> x) {
#if defined(__AVX512F__)
  if constexpr (sizeof(T) == sizeof(float)) return (Vec<T>)_mm512_sqrt_ps((__m512)x);
  if constexpr (sizeof(T) == sizeof(double)) return (Vec<T>)_mm512_sqrt_pd((__m512d)x);
#elif defined(__AVX__)
  if constexpr (sizeof(T) == sizeof(float)) return (Vec<T>)_mm256_sqrt_ps((__m256)x);
  if constexpr (sizeof(T) == sizeof(double)) return (Vec<T>)_mm256_sqrt_pd((__m256d)x);
#endif
  for (int lane = 0; lane < kLanes<T>; ++lane) x[lane] = std::sqrt(x[lane]);
  return x;
}

template <typename T>
LSTM_INLINE Vec<T> sigmoid(Vec<T> x) {
  Vec<T> scale, less;
  exponential<T>(at_most(Numbers<T>::kMax, -at_most(Numbers<T>::kMax, -x)), scale, less);
  return reciprocal(scale * less + scale + T(1));
}

// tanh from exp(-2 |x|) - 1, which has full relative precision for small x too.
template <typename T>
LSTM_INLINE Vec<T> hyperbolic_tangent(Vec<T> x) {
  using Bits = typename Numbers<T>::Bits;
  const Bits sign = (Bits)x & (Bits)(-Vec<T>{});
  const Vec<T> size = (Vec<T>)((Bits)x ^ sign);
  Vec<T> scale, less;
  exponential<T>(at_most(T(40), size + size), scale, less);
  const Vec<T> below = scale * less + (scale - T(1));
  return (Vec<T>)((Bits)(-below * reciprocal(below + T(2))) ^ sign);
}

}  // namespace
