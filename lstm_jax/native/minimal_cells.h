// Cells whose gates do not depend on h: minLSTM and minGRU (Feng et al. 2024, "Were RNNs all we
// needed?").
#pragma once

#include "cell.h"

namespace {

// u = sigmoid(z_u);  h' = (1 - u) h + u z_n
template <typename T>
struct MinGRUCell {
  static constexpr int kCells = 0;
  static constexpr bool kRecurrent = false, kDirect = true;
  static constexpr int kParts = 1, kGates = 2, kKept = 2, kLateGates = 0, kExtras = 0, kSlots = 2,
                       kRecurrentSlots[] = {0, 1}, kBiasSlots[] = {0, 1}, kExtraSlots[] = {0};

  LSTM_INLINE static void forward(const Units<T>& now, const Vec<T>* x, const Vec<T>*, Vec<T>& h,
                                  Vec<T>&, Vec<T>* kept) {
    kept[0] = sigmoid<T>(x[0]);
    kept[1] = x[1];
    h = (T(1) - kept[0]) * now.of(now.h_before) + kept[0] * kept[1];
  }

  LSTM_INLINE static void backward(const Units<T>& now, Vec<T> d_h, Vec<T>, Vec<T>* d,
                                   Vec<T>& d_h_before, Vec<T>&) {
    const Vec<T> u = now.kept_of(0), n = now.kept_of(1);
    d[0] = d_h * (n - now.of(now.h_before)) * u * (T(1) - u);
    d[1] = d_h * u;
    d_h_before = d_h * (T(1) - u);
  }
};

// i = sigmoid(z_i);  f = sigmoid(z_f);  h' = (f h + i z_g) / (f + i)
template <typename T>
struct MinLSTMCell {
  static constexpr int kCells = 0;
  static constexpr bool kRecurrent = false, kDirect = true;
  static constexpr int kParts = 1, kGates = 3, kKept = 4, kLateGates = 0, kExtras = 0, kSlots = 3;
  static constexpr int kRecurrentSlots[] = {0, 1, 2}, kBiasSlots[] = {0, 1, 2}, kExtraSlots[] = {0};

  // exp(-x) for x >= 0
  LSTM_INLINE static Vec<T> decay(Vec<T> x) {
    Vec<T> scale, less;
    exponential<T>(at_most(Numbers<T>::kMax, x), scale, less);
    return scale * less + scale;
  }

  // -1e30 to 1e30, so that differences are finite
  LSTM_INLINE static Vec<T> finite(Vec<T> x) { return -at_most(T(1e30), -at_most(T(1e30), x)); }

  // 1 / f and 1 / i are computed times exp(-most), so that a gate near 0 does not overflow
  LSTM_INLINE static void forward(const Units<T>& now, const Vec<T>* x, const Vec<T>*, Vec<T>& h,
                                  Vec<T>&, Vec<T>* kept) {
    const Vec<T> i = finite(x[0]), f = finite(x[1]);
    Vec<T> most = -f > Vec<T>{} ? -f : Vec<T>{};
    most = -i > most ? -i : most;
    const Vec<T> one = decay(most), by_f = decay(f + most), by_i = decay(i + most);
    const Vec<T> over_f = one + by_f, over_i = one + by_i, f_scaled = reciprocal(over_f),
                 share = reciprocal(over_f + over_i);
    kept[0] = over_i * f_scaled;  // f / i, from which both shares have full relative precision
    kept[1] = x[2];
    kept[2] = by_f * f_scaled;            // 1 - f
    kept[3] = by_i * reciprocal(over_i);  // 1 - i
    h = over_i * share * now.of(now.h_before) + over_f * share * x[2];
  }

  LSTM_INLINE static void backward(const Units<T>& now, Vec<T> d_h, Vec<T>, Vec<T>* d,
                                   Vec<T>& d_h_before, Vec<T>&) {
    const Vec<T> ratio = now.kept_of(0), g = now.kept_of(1), rest = reciprocal(ratio + T(1)),
                 a = ratio * rest;
    const Vec<T> d_ratio = d_h * (now.of(now.h_before) - g) * a * rest;  // of log f - log i
    d[0] = -d_ratio * now.kept_of(3);
    d[1] = d_ratio * now.kept_of(2);
    d[2] = d_h * rest;
    d_h_before = d_h * a;
  }
};

}  // namespace
