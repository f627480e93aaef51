// The LSTM with full gate recurrence (Greff et al. 2017, section 3): the gates also depend on i, f
// and o of the step before.
#pragma once

#include "cell.h"

namespace {

// i = sigmoid(z_i);  f = sigmoid(z_f);  g = tanh(z_g);  o = sigmoid(z_o);  c' = f c + i g. The
// parts of h are o tanh(c'), i, f and o, so that U has the rows of the matrices that multiply i, f
// and o; the columns of g have zeros there.
template <typename T>
struct GateRecurrentCell {
  static constexpr int kCells = 1;
  static constexpr bool kRecurrent = true, kDirect = false;
  static constexpr int kParts = 4, kFirstPartGate = 2, kGates = 4, kKept = 1, kLateGates = 0,
                       kExtras = 0, kSlots = 4;
  static constexpr int kRecurrentSlots[] = {0, 1, 2, 3}, kBiasSlots[] = {0, 1, 2, 3},
                       kExtraSlots[] = {0};

  LSTM_INLINE static void forward(const Units<T>& now, const Vec<T>* x, const Vec<T>* u,
                                  Vec<T> (&h)[kParts], Vec<T>& c, Vec<T>* kept) {
    h[1] = sigmoid<T>(x[0] + u[0]);
    h[2] = sigmoid<T>(x[1] + u[1]);
    h[3] = sigmoid<T>(x[3] + u[3]);
    kept[0] = hyperbolic_tangent<T>(x[2] + u[2]);
    c = h[2] * now.of(now.c_before) + h[1] * kept[0];
    h[0] = h[3] * hyperbolic_tangent<T>(c);
  }

  LSTM_INLINE static void backward(const Units<T>& now, const Vec<T> (&d_h)[kParts], Vec<T> d_c,
                                   Vec<T>* d, Vec<T>&, Vec<T>& d_c_before) {
    const auto part = [&](int n)
                          __attribute__((always_inline)) { return now.of(now.h + n * now.units); };
    const Vec<T> i = part(1), f = part(2), o = part(3), g = now.kept_of(0),
                 shown = hyperbolic_tangent<T>(now.of(now.c));
    const Vec<T> by_c = d_c + d_h[0] * o * (T(1) - shown * shown);
    d[0] = (by_c * g + d_h[1]) * i * (T(1) - i);
    d[1] = (by_c * now.of(now.c_before) + d_h[2]) * f * (T(1) - f);
    d[2] = by_c * i * (T(1) - g * g);
    d[3] = (d_h[0] * shown + d_h[3]) * o * (T(1) - o);
    d_c_before = by_c * f;
  }
};

}  // namespace
