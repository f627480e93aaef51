// The LSTM, the variants of it in which a gate or an activation is missing (Greff et al. 2017), and
// the LSTM with peepholes (Graves 2013).
#pragma once

#include "cell.h"

namespace {

// A bit for each way in which a cell differs from the LSTM.
enum Differs {
  kNoInputGate = 1,
  kNoForgetGate = 2,
  kNoOutputGate = 4,
  kCoupled = 8,
  kLinearInput = 16,
  kLinearOutput = 32,
  kPeepholes = 64
};

// i = sigmoid(z_i);  f = sigmoid(z_f);  g = tanh(z_g);  o = sigmoid(z_o);  c' = f c + i g;  h' = o
// tanh(c'), but for the bits of `DIFFERS`. `forward` of the plain LSTM runs for few rows alone; for
// more, `finish_step` of fused_lstm.h, which must agree.
template <typename T, int DIFFERS>
struct LSTMCell {
  static constexpr bool has(int bit) { return DIFFERS & bit; }
  static constexpr bool kHasI = !has(kNoInputGate), kHasF = !has(kNoForgetGate | kCoupled),
                        kHasO = !has(kNoOutputGate);
  static constexpr int kCells = 1;
  static constexpr bool kRecurrent = true, kDirect = false;
  // numbers of the gates among those that the cell has
  static constexpr int kI = 0, kF = kHasI, kG = kF + kHasF, kO = kG + 1;
  static constexpr int kParts = 1, kGates = kO + kHasO, kKept = kGates, kLateGates = 0,
                       kExtras = has(kPeepholes) ? 3 : 0, kSlots = kGates + kExtras;
  static constexpr int kRecurrentSlots[] = {0, 1, 2, 3}, kBiasSlots[] = {0, 1, 2, 3},
                       kExtraSlots[] = {kGates, kGates + 1, kGates + 2};

  LSTM_INLINE static void forward(const Units<T>& now, const Vec<T>* x, const Vec<T>* u, Vec<T>& h,
                                  Vec<T>& c, Vec<T>* kept) {
    const Vec<T> c_before = now.of(now.c_before);
    const auto gate = [&](int number, int peephole, Vec<T> c) __attribute__((always_inline)) {
      Vec<T> z = x[number] + u[number];
      if (has(kPeepholes)) z += now.extra(peephole) * c;
      return kept[number] = sigmoid<T>(z);
    };
    Vec<T> new_c = x[kG] + u[kG];
    kept[kG] = new_c = has(kLinearInput) ? new_c : hyperbolic_tangent<T>(new_c);
    if constexpr (kHasI) new_c *= gate(kI, 0, c_before);
    if constexpr (kHasF) new_c += gate(kF, 1, c_before) * c_before;
    if constexpr (has(kCoupled)) new_c += (T(1) - kept[kI]) * c_before;
    if constexpr (has(kNoForgetGate)) new_c += c_before;
    c = new_c;
    h = has(kLinearOutput) ? c : hyperbolic_tangent<T>(c);
    if constexpr (kHasO) h *= gate(kO, 2, c);
  }

  LSTM_INLINE static void backward(const Units<T>& now, Vec<T> d_h, Vec<T> d_c, Vec<T>* d, Vec<T>&,
                                   Vec<T>& d_c_before) {
    const Vec<T> c = now.of(now.c), c_before = now.of(now.c_before), g = now.kept_of(kG);
    const Vec<T> shown = has(kLinearOutput) ? c : hyperbolic_tangent<T>(c);
    Vec<T> by_c = has(kLinearOutput) ? d_h : d_h * (T(1) - shown * shown);
    if constexpr (kHasO) {
      const Vec<T> o = now.kept_of(kO);
      by_c *= o;
      d[kO] = d_h * shown * o * (T(1) - o);
      if (has(kPeepholes)) {
        by_c += d[kO] * now.extra(2);
        d[kGates + 2] = d[kO] * c;
      }
    }
    by_c += d_c;
    d[kG] = has(kLinearInput) ? by_c : by_c * (T(1) - g * g);
    d_c_before = by_c;
    if constexpr (kHasF) {
      const Vec<T> f = now.kept_of(kF);
      d_c_before *= f;
      d[kF] = by_c * c_before * f * (T(1) - f);
    }
    if constexpr (kHasI) {
      const Vec<T> i = now.kept_of(kI);
      d[kG] *= i;
      d[kI] = by_c * (has(kCoupled) ? g - c_before : g) * i * (T(1) - i);
      if (has(kCoupled)) d_c_before *= T(1) - i;
    }
    if (has(kPeepholes)) {
      d_c_before += d[kI] * now.extra(0) + d[kF] * now.extra(1);
      d[kGates] = d[kI] * c_before;
      d[kGates + 1] = d[kF] * c_before;
    }
  }
};

}  // namespace
