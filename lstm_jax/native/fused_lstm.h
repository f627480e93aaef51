// The forward step of the LSTM, whose gates' functions follow the product h U while the sums of all
// four gates of a vector of units are in registers.
#pragma once

#include <algorithm>
#include <limits>

#include "forward.h"
#include "gates.h"
#include "lstm_blocks.h"

namespace {

// Lanes of the block that starts at `column`.
template <typename T, bool WHOLE>
LSTM_INLINE int lanes_at(int64_t column, int64_t units) {
  return WHOLE ? kLanes<T> : static_cast<int>(std::min<int64_t>(kLanes<T>, units - column));
}

// sums = z (+ bias if x is ids) for a block of units; NaN for an id out of range.
template <typename T, int ROWS>
LSTM_INLINE void load_projection(const Forward<T>& run, const T* const* z, int64_t column,
                                 int lanes, Vec<T> (&sums)[ROWS][kLSTMGates]) {
  const int64_t units = run.sizes.units;
  Vec<T> bias[kLSTMGates] = {};
  for (int g = 0; run.ids && g < kLSTMGates; ++g)
    bias[g] = load(run.bias + g * units + column, lanes);
  LSTM_UNROLL for (int r = 0; r < ROWS; ++r) {
    LSTM_UNROLL for (int g = 0; g < kLSTMGates; ++g) {
      sums[r][g] = z[r] ? load(z[r] + g * units + column, lanes)
                        : all<T>(std::numeric_limits<T>::quiet_NaN());
      if (run.ids) sums[r][g] += bias[g];
    }
  }
}

template <typename T, int ROWS>
LSTM_INLINE void load_partial(const T* partial, Vec<T> (&sums)[ROWS][kLSTMGates]) {
  LSTM_UNROLL for (int r = 0; r < ROWS; ++r) {
    LSTM_UNROLL for (int g = 0; g < kLSTMGates; ++g) sums[r][g] =
        load(partial + (r * kLSTMGates + g) * kLanes<T>);
  }
}

template <typename T, int ROWS>
LSTM_INLINE void store_partial(T* partial, const Vec<T> (&sums)[ROWS][kLSTMGates]) {
  LSTM_UNROLL for (int r = 0; r < ROWS; ++r) {
    LSTM_UNROLL for (int g = 0; g < kLSTMGates; ++g)
        store(partial + (r * kLSTMGates + g) * kLanes<T>, sums[r][g]);
  }
}

// Write the residuals of step t for a block of units, past the caches. `row` is the first row in
// the batch.
template <typename T, int ROWS>
LSTM_INLINE void store_residuals(const Forward<T>& run, int64_t t, int64_t row, int64_t column,
                                 int lanes, const Vec<T> (&h)[ROWS], const Vec<T> (&c)[ROWS],
                                 const Vec<T> (&gates)[ROWS][kLSTMGates]) {
  const int64_t units = run.sizes.units, batch = run.sizes.batch, before = t * batch + row;
  if (run.all_h) {
    T* to = run.all_h + (batch + before) * units + column;
    LSTM_UNROLL for (int r = 0; r < ROWS; ++r, to += units) stream(to, h[r], lanes, run.aligned);
  }
  if (run.kept) {
    T* to = run.all_c + (batch + before) * units + column;
    LSTM_UNROLL for (int r = 0; r < ROWS; ++r, to += units) stream(to, c[r], lanes, run.aligned);
    to = run.kept + before * kLSTMGates * units + column;
    LSTM_UNROLL for (int r = 0; r < ROWS; ++r) {
      LSTM_UNROLL for (int g = 0; g < kLSTMGates; ++g, to += units)
          stream(to, gates[r][g], lanes, run.aligned);
    }
  }
}

// c after a step, from the gates.
template <typename T>
LSTM_INLINE Vec<T> new_c_of(const Vec<T>* gates, Vec<T> c) {
  return gates[1] * c + gates[0] * gates[2];
}

// The gates, c and h of step t for a block of units, from the complete sums; `begin` is the first
// row within the tile.
template <typename T, int ROWS>
LSTM_INLINE void finish_step(const Forward<T>& run, const ForwardTile<T>& tile, int64_t t,
                             int64_t begin, int64_t column, int lanes,
                             Vec<T> (&gates)[ROWS][kLSTMGates]) {
  const int64_t units = run.sizes.units, batch = run.sizes.batch, row = tile.first + begin;
  // one loop for each function's chain of dependent operations, so that the chains of several rows
  // overlap
  LSTM_UNROLL for (int r = 0; r < ROWS; ++r) {
    LSTM_UNROLL for (int g = 0; g < kLSTMGates; ++g) gates[r][g] =
        g == 2 ? hyperbolic_tangent<T>(gates[r][g]) : sigmoid<T>(gates[r][g]);
  }
  T *c = run.final_c + row * units + column, *h = tile.h_next + begin * units + column;
  Vec<T> h_new[ROWS], c_new[ROWS];
  LSTM_UNROLL for (int r = 0; r < ROWS; ++r) {
    c_new[r] = new_c_of<T>(gates[r], load(c + r * units, lanes));
    h_new[r] = gates[r][3] * hyperbolic_tangent<T>(c_new[r]);
  }
  for (int r = 0; run.valid && r < ROWS; ++r) {
    if (run.valid[t * batch + row + r]) continue;
    h_new[r] = load(tile.h + (begin + r) * units + column, lanes);
    c_new[r] = load(c + r * units, lanes);
    for (int g = 0; g < kLSTMGates; ++g) gates[r][g] = Vec<T>{};
  }
  LSTM_UNROLL for (int r = 0; r < ROWS; ++r) {
    store(c + r * units, c_new[r], lanes);
    store(h + r * units, h_new[r], lanes);
  }
  store_residuals<T, ROWS>(run, t, row, column, lanes, h_new, c_new, gates);
}

// sums = z + the products of int8 sums; scales: those of the kernel's block.
template <typename T, int ROWS, bool PER_GATE>
LSTM_INLINE void add_unscaled(const Forward<T>& run, const ForwardTile<T>& tile, const T* scales,
                              int64_t begin, const T* const* z, int64_t column, int lanes,
                              Vec<T> (&sums)[ROWS][kLSTMGates]) {
  Vec<T> whole[ROWS][kLSTMGates];
  load_projection<T, ROWS>(run, z, column, lanes, whole);
  LSTM_UNROLL for (int r = 0; r < ROWS; ++r) {
    LSTM_UNROLL for (int g = 0; g < kLSTMGates; ++g) {
      const T row_scale = tile.scales[(PER_GATE ? g * tile.rows : 0) + begin + r];
      sums[r][g] = whole[r][g] + unscaled<T>(sums[r][g], row_scale, scales + g * kLanes<T>,
                                             kLSTMGates * kLanes<T>);
    }
  }
}

// Step t of ROWS rows of the tile from `begin` on, for BLOCKS blocks of units from `block` on,
// which all have kLanes units if WHOLE. Only the part k0..k1-1 of the product's inner dimension is
// done; the last part completes the step.
template <typename T, int ROWS, int BLOCKS, bool PER_GATE, bool WHOLE, Products P>
void step_block(const Forward<T>& run, const ForwardTile<T>& tile, const Kernel<T>& kernel,
                int64_t offset, int64_t t, int64_t begin, const T* const* z, const T* const* a,
                int64_t block, int64_t k0, int64_t k1) {
  const int64_t units = run.sizes.units, depth = depth_of(units, P);
  Vec<T> sums[BLOCKS][ROWS][kLSTMGates];
  T* const partial = tile.sums + begin * BLOCKS * kLSTMGates * kLanes<T>;
  constexpr int64_t kPartial = ROWS * kLSTMGates * kLanes<T>;
  for (int n = 0; n < BLOCKS; ++n) {
    const int64_t column = (block + n) * kLanes<T>;
    if (k0 > 0)
      load_partial<T, ROWS>(partial + n * kPartial, sums[n]);
    else if (P == kQuads)
      std::memset(sums[n], 0, sizeof(sums[n]));
    else
      load_projection<T, ROWS>(run, z, column, lanes_at<T, WHOLE>(column, units), sums[n]);
  }
  if (P == kQuads || !tile.zero_h)
    add_products<T, ROWS, BLOCKS, PER_GATE, P>(sums, a, depth, kernel, block - offset, k0, k1);
  for (int n = 0; n < BLOCKS; ++n) {
    const int64_t column = (block + n) * kLanes<T>;
    if (k1 < depth) {
      store_partial<T, ROWS>(partial + n * kPartial, sums[n]);
      continue;
    }
    const int lanes = lanes_at<T, WHOLE>(column, units);
    if constexpr (P == kQuads) {
      const T* const scales =
          kernel.data + (block - offset + n) * kernel.block_stride + depth * kernel.k_stride;
      add_unscaled<T, ROWS, PER_GATE>(run, tile, scales, begin, z, column, lanes, sums[n]);
    }
    finish_step<T, ROWS>(run, tile, t, begin, column, lanes, sums[n]);
  }
}

// Call f(ROWS, BLOCKS, PER_GATE, WHOLE, block, begin, k0, k1) for all blocks of units, pieces of
// the inner dimension and groups of rows. There are two whole blocks at a time with masks per gate,
// if PAIRS, whose factors are then loaded once for both.
template <typename T, bool PAIRS, typename F>
LSTM_INLINE void over_blocks(int64_t units, int64_t depth, int64_t rows, bool per_gate,
                             const F& f) {
  const int64_t blocks = blocks_of<T>(units), whole_blocks = units / kLanes<T>;
  for (int64_t block = 0; block < blocks; ++block) {
    const bool two = PAIRS && per_gate && block + 1 < whole_blocks;
    over_depth(depth, [&](int64_t k0, int64_t k1) {
      over_groups(rows, kRows, [&](int64_t begin, int64_t count) {
        with_rows<kRows>(count, [&](auto ROWS) {
          constexpr std::integral_constant<int, 1> one{};
          constexpr std::true_type yes{};
          constexpr std::false_type no{};
          if constexpr (PAIRS) {
            if (two)
              return f(ROWS, std::integral_constant<int, 2>{}, yes, yes, block, begin, k0, k1);
          }
          if (per_gate) return f(ROWS, one, yes, no, block, begin, k0, k1);
          if (block < whole_blocks) return f(ROWS, one, no, yes, block, begin, k0, k1);
          f(ROWS, one, no, no, block, begin, k0, k1);
        });
      });
    });
    block += two;
  }
}

// Step t of a tile of the LSTM.
template <typename T>
void step_lstm(const Forward<T>& run, ForwardTile<T>& tile, int64_t t, const T* const* z_rows) {
  with_kind<T, true>(run.products, [&](auto P) {
    const int64_t units = run.sizes.units, depth = depth_of(units, P);
    constexpr int64_t kBlock = kLSTMGates * kLanes<T>;
    Kernel<T> kernel = run.blocks;
    int64_t offset = 0;  // the number of the first block in `kernel`
    over_blocks<T, P != kQuads>(
        units, depth, tile.rows, run.mask.per_gate(),
        [&](auto ROWS, auto BLOCKS, auto PER_GATE, auto WHOLE, int64_t block, int64_t begin,
            int64_t k0, int64_t k1) {
          if (tile.packed && begin == 0 && k0 == 0) {
            pack_forward(run.blocks.data, units, units, tile.packed, block, block + BLOCKS);
            kernel = {tile.packed, kBlock * units, kBlock, kLanes<T>};
            offset = block;
          }
          const T* a[kLSTMGates];
          for (int g = 0; g < kLSTMGates; ++g)
            a[g] = tile.factor + g * tile.factor_stride + begin * depth;
          step_block<T, ROWS, BLOCKS, PER_GATE, WHOLE, P>(run, tile, kernel, offset, t, begin,
                                                          z_rows + begin, a, block, k0, k1);
        });
  });
}

}  // namespace
