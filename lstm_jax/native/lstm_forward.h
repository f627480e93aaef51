// The forward pass of the LSTM over time, for some rows of the batch.
#pragma once

#include <algorithm>
#include <cstring>
#include <limits>
#include <vector>

#include "gates.h"
#include "lstm_common.h"
#include "repeats.h"
#include "vectors.h"

namespace {

// Operands and results of one forward call.
template <typename T>
struct Forward {
  Sizes sizes;
  const T* x;             // (T, B, E), or null if there are ids
  const int32_t* ids;     // (T, B): the row of x W is a row of W
  const int32_t* tokens;  // (T, B) or null: steps of a row with equal tokens have equal x
  const T *w, *bias;
  Kernel<T> recurrent;
  const T* kernel;  // W, packed by `pack_panels` or as it is
  int64_t panel_stride, k_stride, gate_stride;
  Mask<T> input_mask, mask;
  const T *h, *c;
  const uint8_t* valid;  // (T, B) or null; any byte but 0 is true
  Resets<T> resets;
  T *final_h, *final_c;
  // null unless requested; all_h and all_c have T + 1 steps, the first one is the initial state; gates is (T, B, 4H)
  T *all_h, *all_c, *gates;
  bool aligned;  // whether all vectors of these three are aligned
};

// The buffers of one tile of rows.
template <typename T>
struct ForwardTile {
  int64_t first, rows;  // rows first..first + rows - 1 of the batch
  T *h, *h_next;        // (rows, H)
  T* z;                 // 4H numbers for each step and row of the chunk
  const T** z_rows;     // the address of z for each step and row
  Kernel<T> kernel;     // U, or some blocks of it
  int64_t offset;       // the number of the first block in `kernel`
  T* partial;           // (rows, blocks, 4, lanes): sums over the part of the inner dimension done so far, for one or two blocks of units
  bool zero_h;          // h is all zeros: skip the product
};

// Lanes of the block that starts at `column`.
template <typename T, bool WHOLE>
LSTM_INLINE int lanes_at(int64_t column, int64_t units) {
  return WHOLE ? kLanes<T> : static_cast<int>(std::min<int64_t>(kLanes<T>, units - column));
}

// sums = z (+ bias if x is ids) for a block of units; NaN for an id out of range.
template <typename T, int ROWS>
LSTM_INLINE void load_projection(const Forward<T>& run, const T* const* z, int64_t column, int lanes, Vec<T> (&sums)[ROWS][kGates]) {
  const int64_t units = run.sizes.units;
  Vec<T> bias[kGates] = {};
  for (int g = 0; run.ids && g < kGates; ++g) bias[g] = load(run.bias + g * units + column, lanes);
  LSTM_UNROLL for (int r = 0; r < ROWS; ++r) {
    LSTM_UNROLL for (int g = 0; g < kGates; ++g) {
      sums[r][g] = z[r] ? load(z[r] + g * units + column, lanes) : all<T>(std::numeric_limits<T>::quiet_NaN());
      if (run.ids) sums[r][g] += bias[g];
    }
  }
}

template <typename T, int ROWS>
LSTM_INLINE void load_partial(const T* partial, Vec<T> (&sums)[ROWS][kGates]) {
  LSTM_UNROLL for (int r = 0; r < ROWS; ++r) {
    LSTM_UNROLL for (int g = 0; g < kGates; ++g) sums[r][g] = load(partial + (r * kGates + g) * kLanes<T>);
  }
}

template <typename T, int ROWS>
LSTM_INLINE void store_partial(T* partial, const Vec<T> (&sums)[ROWS][kGates]) {
  LSTM_UNROLL for (int r = 0; r < ROWS; ++r) {
    LSTM_UNROLL for (int g = 0; g < kGates; ++g) store(partial + (r * kGates + g) * kLanes<T>, sums[r][g]);
  }
}

// Write the residuals of step t for a block of units, past the caches. `row` is the first row in the batch.
template <typename T, int ROWS>
LSTM_INLINE void store_residuals(const Forward<T>& run, int64_t t, int64_t row, int64_t column, int lanes, const Vec<T> (&h)[ROWS],
                                 const Vec<T> (&c)[ROWS], const Vec<T> (&gates)[ROWS][kGates]) {
  const int64_t units = run.sizes.units, batch = run.sizes.batch, before = t * batch + row;
  if (run.all_h) {
    T* to = run.all_h + (batch + before) * units + column;
    LSTM_UNROLL for (int r = 0; r < ROWS; ++r, to += units) stream(to, h[r], lanes, run.aligned);
  }
  if (run.gates) {
    T* to = run.all_c + (batch + before) * units + column;
    LSTM_UNROLL for (int r = 0; r < ROWS; ++r, to += units) stream(to, c[r], lanes, run.aligned);
    to = run.gates + before * kGates * units + column;
    LSTM_UNROLL for (int r = 0; r < ROWS; ++r) {
      LSTM_UNROLL for (int g = 0; g < kGates; ++g, to += units) stream(to, gates[r][g], lanes, run.aligned);
    }
  }
}

// The gates, c and h of step t for a block of units, from the complete sums; `begin` is the first row within the tile.
template <typename T, int ROWS>
LSTM_INLINE void finish_step(const Forward<T>& run, const ForwardTile<T>& tile, int64_t t, int64_t begin, int64_t column, int lanes,
                             Vec<T> (&gates)[ROWS][kGates]) {
  const int64_t units = run.sizes.units, batch = run.sizes.batch, row = tile.first + begin;
  // one loop for each function's chain of dependent operations, so that the chains of several rows overlap
  LSTM_UNROLL for (int r = 0; r < ROWS; ++r) {
    LSTM_UNROLL for (int g = 0; g < kGates; ++g) gates[r][g] = g == 2 ? hyperbolic_tangent<T>(gates[r][g]) : sigmoid<T>(gates[r][g]);
  }
  T *c = run.final_c + row * units + column, *h = tile.h_next + begin * units + column;
  Vec<T> h_new[ROWS], c_new[ROWS];
  LSTM_UNROLL for (int r = 0; r < ROWS; ++r) {
    c_new[r] = gates[r][1] * load(c + r * units, lanes) + gates[r][0] * gates[r][2];
    h_new[r] = gates[r][3] * hyperbolic_tangent<T>(c_new[r]);
  }
  for (int r = 0; run.valid && r < ROWS; ++r) {
    if (run.valid[t * batch + row + r]) continue;
    h_new[r] = load(tile.h + (begin + r) * units + column, lanes);
    c_new[r] = load(c + r * units, lanes);
    for (int g = 0; g < kGates; ++g) gates[r][g] = Vec<T>{};
  }
  LSTM_UNROLL for (int r = 0; r < ROWS; ++r) {
    store(c + r * units, c_new[r], lanes);
    store(h + r * units, h_new[r], lanes);
  }
  store_residuals<T, ROWS>(run, t, row, column, lanes, h_new, c_new, gates);
}

// Step t of ROWS rows of the tile from `begin` on, for BLOCKS blocks of units from `block` on, which all have kLanes units if WHOLE. Only the
// part k0..k1-1 of the product's inner dimension is done; the last part completes the step.
template <typename T, int ROWS, int BLOCKS, bool PER_GATE, bool WHOLE>
void step_block(const Forward<T>& run, const ForwardTile<T>& tile, int64_t t, int64_t begin, const T* const* z, const T* const* a, int64_t block,
                int64_t k0, int64_t k1) {
  const int64_t units = run.sizes.units;
  Vec<T> sums[BLOCKS][ROWS][kGates];
  T* const partial = tile.partial + begin * BLOCKS * kGates * kLanes<T>;
  constexpr int64_t kPartial = ROWS * kGates * kLanes<T>;
  for (int n = 0; n < BLOCKS; ++n) {
    const int64_t column = (block + n) * kLanes<T>;
    if (k0 > 0) load_partial<T, ROWS>(partial + n * kPartial, sums[n]);
    else load_projection<T, ROWS>(run, z, column, lanes_at<T, WHOLE>(column, units), sums[n]);
  }
  if (!tile.zero_h) add_products<T, ROWS, BLOCKS, PER_GATE>(sums, a, units, tile.kernel, block - tile.offset, k0, k1);
  for (int n = 0; n < BLOCKS; ++n) {
    const int64_t column = (block + n) * kLanes<T>;
    if (k1 < units) store_partial<T, ROWS>(partial + n * kPartial, sums[n]);
    else finish_step<T, ROWS>(run, tile, t, begin, column, lanes_at<T, WHOLE>(column, units), sums[n]);
  }
}

// Call f(ROWS, BLOCKS, PER_GATE, WHOLE, block, begin, k0, k1) for all blocks of units, pieces of the inner dimension and groups of rows.
template <typename T, typename F>
LSTM_INLINE void over_blocks(int64_t units, int64_t rows, bool per_gate, const F& f) {
  const int64_t blocks = blocks_of<T>(units);
  for (int64_t block = 0; block < blocks; ++block) {
    const bool two = per_gate && block + 1 < blocks;
    over_depth(units, [&](int64_t k0, int64_t k1) {
      over_groups(rows, kRows, [&](int64_t begin, int64_t count) {
        with_rows<kRows>(count, [&](auto ROWS) {
          constexpr std::integral_constant<int, 1> one{};
          constexpr std::true_type yes{};
          constexpr std::false_type no{};
          const bool whole = (block + 1 + two) * kLanes<T> <= units;
          if (two && whole) return f(ROWS, std::integral_constant<int, 2>{}, yes, yes, block, begin, k0, k1);
          if (two) return f(ROWS, std::integral_constant<int, 2>{}, yes, no, block, begin, k0, k1);
          if (per_gate) return f(ROWS, one, yes, no, block, begin, k0, k1);
          if (whole) return f(ROWS, one, no, yes, block, begin, k0, k1);
          f(ROWS, one, no, no, block, begin, k0, k1);
        });
      });
    });
    block += two;
  }
}

// to = from * mask of the gate, for `rows` rows from row `row` of the batch on.
template <typename T>
void drop(const T* from, const Mask<T>& mask, int64_t gate, int64_t row, int64_t rows, T* to) {
  const T* m = mask.row(gate, row);
  for (int64_t n = 0; n < rows * mask.size; ++n) to[n] = from[n] * m[n];
}

// z = x W + b of one gate; x is (steps, rows, E), where consecutive steps are `step_stride` numbers apart.
template <typename T, int VECTORS>
void project_gate(const Forward<T>& run, T* to, int64_t gate, const T* x, int64_t step_stride, int64_t steps, int64_t rows) {
  const int64_t units = run.sizes.units, features = run.sizes.features, width = VECTORS * kLanes<T>;
  constexpr int kMax = max_rows(VECTORS);
  for (int64_t column = 0, panel = 0; column < units; column += width, ++panel) {
    int count[VECTORS];
    Vec<T> bias[VECTORS];
    for (int v = 0; v < VECTORS; ++v) {
      count[v] = std::clamp<int64_t>(units - column - v * kLanes<T>, 0, kLanes<T>);
      bias[v] = load(run.bias + gate * units + column + v * kLanes<T>, count[v]);
    }
    const T* kernel = run.kernel + gate * run.gate_stride + panel * run.panel_stride;
    over_depth(features, [&](int64_t k0, int64_t k1) {
      for (int64_t s = 0; s < steps; ++s) {
        over_groups(rows, kMax, [&](int64_t begin, int64_t group) {
          with_rows<kMax>(group, [&](auto ROWS) {
            T* const z = to + ((s * rows + begin) * kGates + gate) * units + column;
            Vec<T> sums[ROWS][VECTORS];
            LSTM_UNROLL for (int r = 0; r < ROWS; ++r) {
              LSTM_UNROLL for (int v = 0; v < VECTORS; ++v) {
                sums[r][v] = k0 == 0 ? bias[v] : load(z + r * kGates * units + v * kLanes<T>, count[v]);
              }
            }
            const T* a = x + s * step_stride + begin * features + k0;
            multiply<T, ROWS, VECTORS>(sums, a, features, 1, kernel + k0 * run.k_stride, k1 - k0, run.k_stride);
            LSTM_UNROLL for (int r = 0; r < ROWS; ++r) {
              LSTM_UNROLL for (int v = 0; v < VECTORS; ++v) {
                if (count[v]) store(z + r * kGates * units + v * kLanes<T>, sums[r][v], count[v]);
              }
            }
          });
        });
      }
    });
  }
}

// z of steps t0..t1-1, one gate at a time, so that its panel of W or its masked x stays in the L1 cache. A repeated x is multiplied once. If x
// is masked or repeated, its rows are copied to `gathered` first.
template <typename T>
void project(const Forward<T>& run, const ForwardTile<T>& tile, const Repeats<T>& repeats, int64_t t0, int64_t t1, T* gathered) {
  const auto [steps, batch, features, units] = run.sizes;
  const int64_t size = kGates * units, kinds = run.input_mask.kinds;
  std::vector<int32_t> fresh;  // rows of the chunk whose x has not been multiplied before
  for (int64_t k = 0; k < (t1 - t0) * tile.rows; ++k) {
    const T* kept = repeats.repeated(t0 * tile.rows + k);
    tile.z_rows[k] = kept ? kept : tile.z + fresh.size() * size;
    if (!kept) fresh.push_back(k);
  }
  const bool in_place = !kinds && !repeats.any();
  const auto from = [&](int64_t k) { return run.x + ((t0 + k / tile.rows) * batch + tile.first + k % tile.rows) * features; };
  for (int64_t gate = 0; gate < kGates; ++gate) {
    if (!in_place && gate < std::max<int64_t>(1, kinds)) {
      T* to = gathered;
      for (const int32_t k : fresh) {
        const T* const x = from(k);
        const T* const mask = kinds ? run.input_mask.row(gate, tile.first + k % tile.rows) : nullptr;
        for (int64_t n = 0; n < features; ++n) to[n] = mask ? x[n] * mask[n] : x[n];
        to += features;
      }
    }
    const T* const a = in_place ? from(0) : gathered;
    const int64_t count = in_place ? t1 - t0 : 1, rows = in_place ? tile.rows : fresh.size();
    with_vectors<T>(units, [&](auto VECTORS) { project_gate<T, VECTORS>(run, tile.z, gate, a, batch * features, count, rows); });
  }
  for (const int32_t k : fresh) {
    if (T* const kept = repeats.begins(t0 * tile.rows + k)) std::memcpy(kept, tile.z_rows[k], size * sizeof(T));
  }
}

// Replace the state of the tile's rows that are reset before step t.
template <typename T>
void restart_rows(const Forward<T>& run, const ForwardTile<T>& tile, int64_t t) {
  const int64_t units = run.sizes.units;
  for (int64_t r = 0; run.resets.at && r < tile.rows; ++r) {
    const int64_t at = (tile.first + r) * units;
    if (!run.resets.starts(t, tile.first + r)) continue;
    std::copy_n(run.resets.h + at, units, tile.h + r * units);
    std::copy_n(run.resets.c + at, units, run.final_c + at);
  }
}

// One step of a tile. `dropped` has room for the masked h; `blocks` for two packed blocks of U, null if U is packed or used as it is.
template <typename T>
void forward_step(const Forward<T>& run, ForwardTile<T>& tile, int64_t t, const T* const* z_rows, T* dropped, T* blocks) {
  const int64_t units = run.sizes.units, rows = tile.rows, size = rows * units, kinds = run.mask.kinds;
  constexpr int64_t kBlock = kGates * kLanes<T>;
  restart_rows(run, tile, t);
  tile.zero_h = t == 0 && all_zero(tile.h, size);
  for (int64_t gate = 0; gate < kinds; ++gate) drop(tile.h, run.mask, gate, tile.first, rows, dropped + gate * size);
  over_blocks<T>(units, rows, kinds == kGates, [&](auto ROWS, auto BLOCKS, auto PER_GATE, auto WHOLE, int64_t block, int64_t begin, int64_t k0, int64_t k1) {
    if (blocks && begin == 0 && k0 == 0) {
      pack_forward(run.recurrent.data, units, units, blocks, block, block + BLOCKS);
      tile.kernel = {blocks, kBlock * units, kBlock, kLanes<T>};
      tile.offset = block;
    }
    const T* a[kGates];
    for (int g = 0; g < kGates; ++g) a[g] = (kinds ? dropped + (kinds == kGates ? g * size : 0) : tile.h) + begin * units;
    step_block<T, ROWS, BLOCKS, PER_GATE, WHOLE>(run, tile, t, begin, z_rows + begin, a, block, k0, k1);
  });
  std::swap(tile.h, tile.h_next);
}

// All T steps of rows first..last-1.
template <typename T>
void run_forward_tile(const Forward<T>& run, int64_t first, int64_t last) {
  const auto [steps, batch, features, units] = run.sizes;
  const int64_t rows = last - first, size = rows * units, chunk = chunk_steps(rows, steps);
  ForwardTile<T> tile{first, rows};
  const int64_t z_size = run.ids ? 0 : chunk * kGates * size;
  const Repeats<T> repeats(run.tokens, steps, batch, first, last, kGates * units);
  const bool gathers = run.input_mask.kinds || repeats.any();
  Aligned<T> state(2 * size), dropped(run.mask.kinds * size), gathered(gathers ? chunk * rows * features : 0), z(z_size);
  Aligned<T> partial(units > kDepthPiece ? 2 * rows * kGates * kLanes<T> : 0);
  tile.partial = partial.get();
  tile.kernel = run.recurrent;
  tile.offset = 0;
  const bool pack_blocks = run.recurrent.gate_stride != kLanes<T> && rows > 2 * kRows;
  Aligned<T> blocks(pack_blocks ? 2 * kGates * kLanes<T> * units : 0);
  tile.h = state.get();
  tile.h_next = tile.h + size;
  tile.z = z.get();
  std::vector<const T*> z_rows(chunk * rows);
  tile.z_rows = z_rows.data();
  std::memcpy(tile.h, run.h + first * units, size * sizeof(T));
  std::memcpy(run.final_c + first * units, run.c + first * units, size * sizeof(T));
  if (run.all_h) std::memcpy(run.all_h + first * units, tile.h, size * sizeof(T));
  if (run.all_c) std::memcpy(run.all_c + first * units, run.c + first * units, size * sizeof(T));
  for (int64_t t0 = 0; t0 < steps; t0 += chunk) {
    const int64_t t1 = std::min(steps, t0 + chunk);
    if (!run.ids) project(run, tile, repeats, t0, t1, gathered.get());
    for (int64_t k = 0; run.ids && k < (t1 - t0) * rows; ++k) {
      z_rows[k] = kernel_row(run.w, run.ids[(t0 + k / rows) * batch + first + k % rows], run.sizes);
    }
    for (int64_t t = t0; t < t1; ++t) {
      forward_step(run, tile, t, tile.z_rows + (t - t0) * rows, dropped.get(), pack_blocks ? blocks.get() : nullptr);
    }
  }
  std::memcpy(run.final_h + first * units, tile.h, size * sizeof(T));
  flush_streams();
}

}  // namespace
