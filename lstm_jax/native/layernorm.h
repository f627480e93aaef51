// The LSTM with layer normalisation (Ba et al. 2016), whose sums go over all units of a row.
//
//   z = a_x norm(x W) + a_h norm(h U) + b;  c' = sigmoid(z_f) c + sigmoid(z_i) tanh(z_g);  h' =
//   sigmoid(z_o) tanh(a_c norm(c') + b_c)
//
// norm subtracts the mean over a row and divides by its standard deviation.
#pragma once

#include <cmath>

#include "backward.h"
#include "forward.h"

namespace {

// The numbers of a row before normalisation, with their mean and the reciprocal of their standard
// deviation.
template <typename T>
struct Normalised {
  static constexpr T kEpsilon = 1e-5;  // as in layernorm_lstm.py
  const T* row;
  T mean, scale;
  Normalised(const T* row, int64_t size) : row(row) {
    const T sum = add_up(size, [&](int64_t at, int count) __attribute__((always_inline)) {
      return load(row + at, count);
    });
    mean = sum / size;
    const T squares = add_up(size, [&](int64_t at, int count) __attribute__((always_inline)) {
      const Vec<T> centred = load(row + at, count) - mean;
      return first_lanes(centred * centred, count);
    });
    scale = 1 / std::sqrt(squares / size + kEpsilon);
  }
  Vec<T> at(int64_t n, int count) const { return (load(row + n, count) - mean) * scale; }

  // d of the row before normalisation, from d of the row after it: scale (d - mean(d) - x mean(d
  // x)), where x is the normalised row.
  void back(int64_t size, T* d) const {
    const T by_mean =
        add_up(size, [&](int64_t n, int count)
                         __attribute__((always_inline)) { return load(d + n, count); }) /
        size;
    const T by_scale = add_up(size,
                              [&](int64_t n, int count) __attribute__((always_inline)) {
                                return first_lanes(load(d + n, count) * at(n, count), count);
                              }) /
                       size;
    over_vectors<T>(0, size, [&](int64_t n, int count) __attribute__((always_inline)) {
      store(d + n, scale * (load(d + n, count) - by_mean - at(n, count) * by_scale), count);
    });
  }

 private:
  // Zeros in the lanes from `count` on.
  static LSTM_INLINE Vec<T> first_lanes(Vec<T> vector, int count) {
    for (int lane = count; lane < kLanes<T>; ++lane) vector[lane] = 0;
    return vector;
  }
  template <typename F>
  static LSTM_INLINE T add_up(int64_t size, const F& f) {
    Vec<T> sums{};
    over_vectors<T>(0, size, [&](int64_t at, int count) __attribute__((always_inline)) {
      sums += f(at, count);
    });
    T sum = 0;
    for (int lane = 0; lane < kLanes<T>; ++lane) sum += sums[lane];
    return sum;
  }
};

// The sizes of the cell. The further parameters are a_x (4), a_h (4), a_c and b_c; kept are the
// gates, x W and h U; and the slots are d of x W, of h U, of z, of a_x, of a_h, of a_c and of b_c.
struct LayerNormCell {
  static constexpr int kCells = 1;
  static constexpr bool kRecurrent = true, kDirect = false;
  static constexpr int kParts = 1, kGates = 4, kKept = 12, kLateGates = 0, kExtras = 10,
                       kSlots = 22;
  static constexpr int kRecurrentSlots[] = {4, 5, 6, 7}, kBiasSlots[] = {8, 9, 10, 11},
                       kExtraSlots[] = {12, 13, 14, 15, 16, 17, 18, 19, 20, 21};
};

// Step t of a tile.
template <typename T>
void step_layernorm(const Forward<T>& run, ForwardTile<T>& tile, int64_t t,
                    const T* const* z_rows) {
  const int64_t units = run.sizes.units, batch = run.sizes.batch, size = 4 * units;
  multiply_early(run, tile, 4);
  const T *const gain_x = run.extras, *const gain_h = gain_x + size, *const gain_c = gain_h + size,
                 *const bias_c = gain_c + units;
  for (int64_t r = 0; r < tile.rows; ++r) {
    const int64_t row = tile.first + r, before = t * batch + row;
    if (run.valid && !run.valid[before]) {
      copy_row(run, tile, t, r);
      continue;
    }
    T* const sums = tile.sums + r * size;
    T *const h = tile.h_next + r * units, *const c = run.final_c + row * units;
    T* const kept = run.kept ? run.kept + before * LayerNormCell::kKept * units : nullptr;
    if (!z_rows[r])
      std::fill_n(sums, size, std::numeric_limits<T>::quiet_NaN());  // an id out of range
    const T* const by_x = z_rows[r] ? z_rows[r] : sums;
    if (kept) std::copy_n(by_x, size, kept + size);
    if (kept) std::copy_n(sums, size, kept + 2 * size);
    const Normalised<T> x(by_x, size), u(sums, size);
    over_vectors<T>(0, units, [&](int64_t at, int count) __attribute__((always_inline)) {
      Vec<T> gates[4];
      for (int g = 0; g < 4; ++g) {
        const int64_t n = g * units + at;
        gates[g] = x.at(n, count) * load(gain_x + n, count) +
                   u.at(n, count) * load(gain_h + n, count) + load(run.bias + n, count);
        gates[g] = g == 2 ? hyperbolic_tangent<T>(gates[g]) : sigmoid<T>(gates[g]);
        if (kept) store(kept + n, gates[g], count);
      }
      store(c + at, gates[1] * load(c + at, count) + gates[0] * gates[2], count);
      store(h + at, gates[3], count);
    });
    const Normalised<T> shown(c, units);
    over_vectors<T>(0, units, [&](int64_t at, int count) __attribute__((always_inline)) {
      const Vec<T> z = shown.at(at, count) * load(gain_c + at, count) + load(bias_c + at, count);
      store(h + at, load(h + at, count) * hyperbolic_tangent<T>(z), count);
    });
    if (run.all_h) std::copy_n(h, units, run.all_h + (batch + before) * units);
    if (run.all_c) std::copy_n(c, units, run.all_c + (batch + before) * units);
  }
}

// `Backward::through` of the cell. The gradients of a row are made in `row` (slots, H), which has
// no panels, and then moved to the slots.
template <typename T>
void through_layernorm(const Backward<T>& run, const BackwardTile<T>& tile, int64_t t, int64_t t0) {
  const int64_t units = run.sizes.units, batch = run.sizes.batch, size = 4 * units,
                panel = tile.chunk * tile.rows * tile.width;
  const T *const gain_x = run.extras, *const gain_h = gain_x + size, *const gain_c = gain_h + size,
                 *const bias_c = gain_c + units;
  T* const d = tile.row;
  for (int64_t r = 0; r < tile.rows; ++r) {
    const int64_t row = tile.first + r, before = t * batch + row;
    const bool valid = !run.valid || run.valid[before];
    T *const d_h = run.d_first_h + row * units, *const d_c = run.d_first_c + row * units;
    if (run.d_h) {
      over_vectors<T>(0, units, [&](int64_t at, int count) {
        store(d_h + at,
              load(d_h + at, count) + load(run.d_h + run.order.at(t, row) * units + at, count),
              count);
      });
    }
    if (!valid) std::fill_n(d, LayerNormCell::kSlots * units, T(0));
    if (valid) {
      const T *const kept = run.kept + before * LayerNormCell::kKept * units, *const c =
                                                                                  run.all_c +
                                                                                  (before + batch) *
                                                                                      units;
      const T* const c_before =
          run.resets.starts(t, row) ? run.resets.c + row * units : run.all_c + before * units;
      const Normalised<T> x(kept + size, size), u(kept + 2 * size, size), shown(c, units);
      T *const d_x = d, *const d_u = d + size, *const d_z = d + 2 * size,
               *const d_gain_x = d + 3 * size, *const d_gain_h = d + 4 * size;
      T *const d_gain_c = d + 5 * size, *const d_bias_c = d_gain_c + units, *const by_c = d_x;
      over_vectors<T>(0, units, [&](int64_t at, int count) __attribute__((always_inline)) {
        const Vec<T> normal = shown.at(at, count), o = load(kept + 3 * units + at, count),
                     d_new = load(d_h + at, count);
        const Vec<T> tanh_c =
            hyperbolic_tangent<T>(normal * load(gain_c + at, count) + load(bias_c + at, count));
        const Vec<T> d_shown = d_new * o * (T(1) - tanh_c * tanh_c);
        store(d_bias_c + at, d_shown, count);
        store(d_gain_c + at, d_shown * normal, count);
        store(by_c + at, d_shown * load(gain_c + at, count), count);
        store(d_z + 3 * units + at, d_new * tanh_c * o * (T(1) - o), count);
      });
      shown.back(units, by_c);
      over_vectors<T>(0, units, [&](int64_t at, int count) __attribute__((always_inline)) {
        const Vec<T> i = load(kept + at, count), f = load(kept + units + at, count),
                     g = load(kept + 2 * units + at, count);
        const Vec<T> d_new = load(by_c + at, count) + load(d_c + at, count);
        store(d_z + at, d_new * g * i * (T(1) - i), count);
        store(d_z + units + at, d_new * load(c_before + at, count) * f * (T(1) - f), count);
        store(d_z + 2 * units + at, d_new * i * (T(1) - g * g), count);
        store(d_c + at, d_new * f, count);
      });
      over_vectors<T>(0, size, [&](int64_t at, int count) __attribute__((always_inline)) {
        const Vec<T> by_z = load(d_z + at, count);
        store(d_gain_x + at, by_z * x.at(at, count), count);
        store(d_gain_h + at, by_z * u.at(at, count), count);
        store(d_x + at, by_z * load(gain_x + at, count), count);
        store(d_u + at, by_z * load(gain_h + at, count), count);
      });
      x.back(size, d_x);
      u.back(size, d_u);
    }
    for (int64_t slot = 0; slot < LayerNormCell::kSlots; ++slot) {
      for (int64_t number = 0; number < tile.panels; ++number) {
        const int64_t column = number * tile.width, count = std::min(tile.width, units - column);
        T* const to = tile.d_z + (slot * tile.panels + number) * panel +
                      ((t - t0) * tile.rows + r) * tile.width;
        std::copy_n(d + slot * units + column, count, to);
      }
    }
  }
}

}  // namespace
