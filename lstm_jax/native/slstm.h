// The sLSTM (Beck et al. 2024, "xLSTM", section 2.2), as in cells/slstm.py.
#pragma once

#include "cell.h"

namespace {

// log(1 + y) for 0 <= y <= 1, as 2 atanh(s) with s = y / (2 + y) <= 1/3
template <typename T>
LSTM_INLINE Vec<T> log_of_one_plus(Vec<T> y) {
  constexpr int kTerms =
      sizeof(T) == sizeof(float) ? 8 : 17;  // the next one is below half a unit in the last place
  const Vec<T> s = y / (y + T(2)), square = s * s;
  Vec<T> sum = all<T>(T(1) / (2 * kTerms - 1));
  LSTM_UNROLL for (int k = kTerms - 2; k >= 0; --k) sum = sum * square + T(1) / (2 * k + 1);
  return T(2) * s * sum;
}

// b = log sigmoid(f) + n;  w = sigmoid(b - i);  c' = w c + (1 - w) tanh(g);  n' = log(exp(b) +
// exp(i));  h' = sigmoid(o) c'. c and n are the two arrays that make up c for the engine.
template <typename T>
struct SLSTMCell {
  static constexpr int kCells = 2;
  static constexpr bool kRecurrent = true, kDirect = false;
  static constexpr int kParts = 1, kGates = 4, kKept = 5, kLateGates = 0, kExtras = 0, kSlots = 4;
  static constexpr int kRecurrentSlots[] = {0, 1, 2, 3}, kBiasSlots[] = {0, 1, 2, 3},
                       kExtraSlots[] = {0};

  // exp(-|x|); NaN stays NaN
  LSTM_INLINE static Vec<T> decay(Vec<T> x) {
    Vec<T> scale, less;
    const Vec<T> size = x > Vec<T>{} ? x : -x;
    exponential<T>(at_most(Numbers<T>::kMax, size), scale, less);
    return scale * less + scale;
  }

  // sigmoid(x), and 1 - sigmoid(x), both with full relative precision, from exp(-|x|)
  LSTM_INLINE static void shares(Vec<T> x, Vec<T> small, Vec<T>& share, Vec<T>& rest) {
    const Vec<T> large = reciprocal(small + T(1)), other = small * large;
    share = x > Vec<T>{} ? large : other;
    rest = x > Vec<T>{} ? other : large;
  }

  LSTM_INLINE static void forward(const Units<T>& now, const Vec<T>* x, const Vec<T>* u, Vec<T>& h,
                                  Vec<T> (&c)[kCells], Vec<T>* kept) {
    const Vec<T> i = x[0] + u[0], f = x[1] + u[1], by_f = decay(f);
    Vec<T> forget;
    shares(f, by_f, forget, kept[4]);
    const Vec<T> before =
                     at_most(T(0), f) - log_of_one_plus<T>(by_f) + now.of(now.c_before + now.units),
                 ratio = before - i, by_ratio = decay(ratio);
    shares(ratio, by_ratio, kept[0], kept[1]);
    kept[2] = hyperbolic_tangent<T>(x[2] + u[2]);
    kept[3] = sigmoid<T>(x[3] + u[3]);
    c[0] = kept[0] * now.of(now.c_before) + kept[1] * kept[2];
    c[1] = (ratio > Vec<T>{} ? before : i) + log_of_one_plus<T>(by_ratio);
    h = kept[3] * c[0];
  }

  LSTM_INLINE static void backward(const Units<T>& now, Vec<T> d_h, const Vec<T> (&d_c)[kCells],
                                   Vec<T>* d, Vec<T>&, Vec<T> (&d_before)[kCells]) {
    const Vec<T> share = now.kept_of(0), rest = now.kept_of(1), g = now.kept_of(2),
                 o = now.kept_of(3);
    const Vec<T> by_c = d_c[0] + d_h * o,
                 by_ratio = by_c * (now.of(now.c_before) - g) * share * rest;
    d_before[0] = by_c * share;
    d_before[1] = by_ratio + d_c[1] * share;
    d[0] = d_c[1] * rest - by_ratio;
    d[1] = d_before[1] * now.kept_of(4);
    d[2] = by_c * rest * (T(1) - g * g);
    d[3] = d_h * now.of(now.c) * o * (T(1) - o);
  }
};

}  // namespace
