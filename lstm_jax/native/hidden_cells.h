// Cells whose whole state is h: the simple recurrent network (Elman 1990) and both forms of the GRU
// (Cho et al. 2014).
#pragma once

#include "cell.h"

namespace {

// h' = tanh(z)
template <typename T>
struct SimpleRNNCell {
  static constexpr int kCells = 0;
  static constexpr bool kRecurrent = true, kDirect = false;
  static constexpr int kParts = 1, kGates = 1, kKept = 0, kLateGates = 0, kExtras = 0, kSlots = 1,
                       kRecurrentSlots[] = {0}, kBiasSlots[] = {0}, kExtraSlots[] = {0};

  LSTM_INLINE static void forward(const Units<T>&, const Vec<T>* x, const Vec<T>* u, Vec<T>& h,
                                  Vec<T>&, Vec<T>*) {
    h = hyperbolic_tangent<T>(x[0] + u[0]);
  }

  LSTM_INLINE static void backward(const Units<T>& now, Vec<T> d_h, Vec<T>, Vec<T>* d, Vec<T>&,
                                   Vec<T>&) {
    const Vec<T> h = now.of(now.h);
    d[0] = d_h * (T(1) - h * h);
  }
};

// u = sigmoid(z_u + d_u);  r = sigmoid(z_r + d_r);  n = tanh(x W_n + b_n + r (h U_n + d_n));  h' =
// u h + (1 - u) n, where the further parameters d are the bias of h U
template <typename T>
struct GRUCell {
  static constexpr int kCells = 0;
  static constexpr bool kRecurrent = true, kDirect = true;
  static constexpr int kParts = 1, kGates = 3, kKept = 4, kLateGates = 0, kExtras = 3, kSlots = 4;
  static constexpr int kRecurrentSlots[] = {0, 1, 3}, kBiasSlots[] = {0, 1, 2},
                       kExtraSlots[] = {0, 1, 3};

  LSTM_INLINE static void forward(const Units<T>& now, const Vec<T>* x, const Vec<T>* u, Vec<T>& h,
                                  Vec<T>&, Vec<T>* kept) {
    kept[0] = sigmoid<T>(x[0] + (u[0] + now.extra(0)));
    kept[1] = sigmoid<T>(x[1] + (u[1] + now.extra(1)));
    kept[3] = u[2] + now.extra(2);
    kept[2] = hyperbolic_tangent<T>(x[2] + kept[1] * kept[3]);
    h = kept[0] * now.of(now.h_before) + (T(1) - kept[0]) * kept[2];
  }

  LSTM_INLINE static void backward(const Units<T>& now, Vec<T> d_h, Vec<T>, Vec<T>* d,
                                   Vec<T>& d_h_before, Vec<T>&) {
    const Vec<T> u = now.kept_of(0), r = now.kept_of(1), n = now.kept_of(2), inner = now.kept_of(3);
    d[2] = d_h * (T(1) - u) * (T(1) - n * n);
    d[0] = d_h * (now.of(now.h_before) - n) * u * (T(1) - u);
    d[1] = d[2] * inner * r * (T(1) - r);
    d[3] = d[2] * r;
    d_h_before = d_h * u;
  }
};

// u = sigmoid(z_u);  r = sigmoid(z_r);  n = tanh(x W_n + b_n + (r h) U_n);  h' = u h + (1 - u) n
template <typename T>
struct ResetBeforeCell {
  static constexpr int kCells = 0;
  static constexpr bool kRecurrent = true, kDirect = true;
  static constexpr int kParts = 1, kGates = 3, kKept = 3, kLateGates = 1, kLateFactor = 1,
                       kInnerSlot = 1, kExtras = 0, kSlots = 3;
  static constexpr int kRecurrentSlots[] = {0, 1, 2}, kBiasSlots[] = {0, 1, 2}, kExtraSlots[] = {0};

  LSTM_INLINE static void forward_inner(const Units<T>& now, const Vec<T>* x, Vec<T>* u,
                                        Vec<T>& inner) {
    u[0] = sigmoid<T>(x[0] + u[0]);
    u[1] = sigmoid<T>(x[1] + u[1]);
    inner = u[1] * now.of(now.h_before);
  }

  LSTM_INLINE static void forward(const Units<T>& now, const Vec<T>* x, const Vec<T>* u, Vec<T>& h,
                                  Vec<T>&, Vec<T>* kept) {
    kept[0] = u[0], kept[1] = u[1];
    kept[2] = hyperbolic_tangent<T>(x[2] + u[2]);
    h = kept[0] * now.of(now.h_before) + (T(1) - kept[0]) * kept[2];
  }

  LSTM_INLINE static void backward(const Units<T>& now, Vec<T> d_h, Vec<T>, Vec<T>* d,
                                   Vec<T>& d_h_before, Vec<T>&) {
    const Vec<T> u = now.kept_of(0), n = now.kept_of(2);
    d[2] = d_h * (T(1) - u) * (T(1) - n * n);
    d[0] = d_h * (now.of(now.h_before) - n) * u * (T(1) - u);
    d_h_before = d_h * u;
  }

  LSTM_INLINE static void backward_inner(const Units<T>& now, Vec<T> d_inner, Vec<T>& d_slot,
                                         Vec<T>& d_h_before) {
    const Vec<T> r = now.kept_of(1);
    d_slot = d_inner * now.of(now.h_before) * r * (T(1) - r);
    d_h_before += d_inner * r;
  }
};

}  // namespace
