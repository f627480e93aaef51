// The forward pass over time, for some rows of the batch.
#pragma once

#include <algorithm>
#include <cstring>
#include <limits>
#include <vector>

#include "cell.h"
#include "common.h"
#include "lstm_blocks.h"
#include "prefetch.h"
#include "repeats.h"
#include "vectors.h"

namespace {

template <typename T>
struct ForwardTile;

// Operands and results of one forward call.
template <typename T>
struct Forward {
  Sizes sizes;
  const CellShape* cell;
  // one step of a tile, after the resets, from the x W of its rows
  void (*step)(const Forward<T>& run, ForwardTile<T>& tile, int64_t t, const T* const* z_rows);
  Order order;            // of x and outputs
  const T* x;             // (T, B, E) or (B, T, E), or null if there are ids
  const int32_t* ids;     // (T, B): the row of x W is a row of W
  const int32_t* tokens;  // (T, B) or null: steps of a row with equal tokens have equal x
  const T *w, *bias, *extras;
  Panels<T> kernel, recurrent;
  Kernel<T> blocks;   // U in the order of fused_lstm.h, for the LSTM only
  Products products;  // of which `kernel`, `recurrent` and `blocks` are groups
  Mask<T> input_mask, mask;
  const T *h, *c;        // c is null for a cell without c, here and below
  const uint8_t* valid;  // (T, B) or null; any byte but 0 is true
  Resets<T> resets;
  T *final_h, *final_c;
  // null unless requested; all_h and all_c have T + 1 steps, the first one is the initial state;
  // kept is (T, B, kept H), outputs (B, T, H)
  T *all_h, *all_c, *kept, *outputs;
  bool aligned;  // whether all vectors of these four are aligned
  int64_t h_size() const { return cell->parts * sizes.units; }  // numbers of h in a row
  int64_t c_size() const { return cell->cells * sizes.units; }
};

// The buffers of one tile of rows.
template <typename T>
struct ForwardTile {
  int64_t first, rows;    // rows first..first + rows - 1 of the batch
  T *h, *h_next;          // (rows, size of h)
  T* z;                   // GH numbers for each step and row of the chunk
  const T** z_rows;       // the address of z for each step and row
  T* dropped;             // h times the masks (kinds, rows, size of h), or groups of it
  const T* factor;        // the factor of U in the product of the first gate: h, or `dropped`
  int64_t factor_stride;  // from one gate to the next
  T *scales, *x_scales;   // in int8: of the rows of `factor` for each gate, and of the rows of x
  T* sums;    // h U (rows, GH); for fused_lstm.h the sums over the part of the inner dimension done
              // so far, for one or two blocks
  T* packed;  // room for two packed blocks of U, null if U is packed or used as it is; for
              // fused_lstm.h only
  T* inner;   // the factor of the late gates (rows, H), with the mask of each gate
  bool zero_h;             // h is all zeros: skip the product
  Prefetcher* prefetcher;  // of x of the next chunk
};

// to = from * mask of the gate, for `rows` rows from row `row` of the batch on.
template <typename T>
void drop(const T* from, const Mask<T>& mask, int64_t gate, int64_t row, int64_t rows, T* to) {
  const T* m = mask.row(gate, row);
  for (int64_t n = 0; n < rows * mask.size; ++n) to[n] = from[n] * m[n];
}

// to = the groups of from * mask of a row; mask may be null. In int8, the row's scale is stored.
template <typename T>
LSTM_INLINE void narrow_row(Products products, const T* from, const T* mask, int64_t size, T* to,
                            T* scale) {
  if (products == kPairs) return round_row<T>(from, mask, size, to);
  *scale = quantize_row<T>(from, mask, size, to);
}

// `drop` in groups, for rows of `size` numbers; there may be no mask.
template <typename T>
void drop_narrow(Products products, const T* from, const Mask<T>& mask, int64_t gate, int64_t row,
                 int64_t rows, int64_t size, T* to, T* scales) {
  const int64_t depth = depth_of(size, products);
  for (int64_t r = 0; r < rows; ++r)
    narrow_row(products, from + r * size, mask.kinds ? mask.row(gate, row + r) : nullptr, size,
               to + r * depth, scales + r);
}

// Return the number of factors of U in the products of a step: one for each mask, one without masks
// if the products are of groups.
template <typename T>
int64_t factor_kinds(const Forward<T>& run) {
  return run.cell->recurrent ? std::max<int64_t>(run.products != kFull, run.mask.kinds) : 0;
}

// Set the factor of U in the products of a step.
template <typename T>
void set_factor(const Forward<T>& run, ForwardTile<T>& tile) {
  const int64_t width = run.h_size(), size = tile.rows * depth_of(width, run.products);
  const int64_t kinds = factor_kinds(run);
  for (int64_t kind = 0; kind < kinds; ++kind) {
    T* const to = tile.dropped + kind * size;
    if (run.products == kFull)
      drop(tile.h, run.mask, kind, tile.first, tile.rows, to);
    else
      drop_narrow(run.products, tile.h, run.mask, kind, tile.first, tile.rows, width, to,
                  tile.scales + kind * tile.rows);
  }
  tile.factor = kinds ? tile.dropped : tile.h;
  tile.factor_stride = run.mask.per_gate() ? size : 0;
}

// to = x W + b for one panel of a gate, which is at `part` with rows k_stride numbers apart, of
// which the first VECTORS vectors are used, for `columns` columns or as many as there are in these;
// the rows of `to` are `to_stride` numbers apart; b is 0 if `bias` is null. x is (steps, rows,
// depth), where consecutive steps and rows are `step_stride` and `row_stride` numbers apart.
// scales: those of the rows of x, in int8 only. Each block of rows calls `prefetcher.fetch`.
template <typename T, int VECTORS, Products P>
void multiply_panel(const T* part, int64_t k_stride, const T* bias, int64_t columns, int64_t depth,
                    const T* x, int64_t step_stride, int64_t row_stride, int64_t steps,
                    int64_t rows, T* to, int64_t to_stride, const T* scales,
                    Prefetcher& prefetcher) {
  constexpr int kMax = max_rows(VECTORS);
  Vec<T> start[1][VECTORS] = {};
  if (bias) load_block(bias, 0, columns, start);
  over_depth(depth, [&](int64_t k0, int64_t k1) {
    for (int64_t s = 0; s < steps; ++s) {
      over_groups(rows, kMax, [&](int64_t begin, int64_t group) {
        prefetcher.fetch();
        with_rows<kMax>(group, [&](auto ROWS) {
          T* const z = to + (s * rows + begin) * to_stride;
          Vec<T> sums[ROWS][VECTORS];
          LSTM_UNROLL for (int r = 0; r < ROWS; ++r) {
            LSTM_UNROLL for (int v = 0; v < VECTORS; ++v) sums[r][v] =
                P == kQuads ? Vec<T>{} : start[0][v];
          }
          if (k0 > 0) load_block(z, to_stride, columns, sums);
          const T* a = x + s * step_stride + begin * row_stride + k0;
          multiply<T, ROWS, VECTORS, P>(sums, a, row_stride, 1, part + k0 * k_stride, k1 - k0,
                                        k_stride);
          if constexpr (P == kQuads) {
            if (k1 == depth) {
              LSTM_UNROLL for (int r = 0; r < ROWS; ++r) {
                const T* const of_columns = part + depth * k_stride;
                LSTM_UNROLL for (int v = 0; v < VECTORS; ++v) {
                  sums[r][v] = start[0][v] + unscaled<T>(sums[r][v], scales[s * rows + begin + r],
                                                         of_columns + v * kLanes<T>, k_stride);
                }
              }
            }
          }
          store_block(z, to_stride, columns, sums);
        });
      });
    }
  });
}

// `multiply_panel` for all panels of one gate.
template <typename T, int VECTORS, Products P>
void multiply_gate(const Panels<T>& kernel, const T* bias, int64_t gate, int64_t units,
                   int64_t depth, const T* x, int64_t step_stride, int64_t row_stride,
                   int64_t steps, int64_t rows, T* to, int64_t to_stride, const T* scales,
                   Prefetcher& prefetcher) {
  const T* part = kernel.data + gate * kernel.gate_stride;
  for (int64_t column = 0; column < units;
       column += VECTORS * kLanes<T>, part += kernel.panel_stride) {
    const int64_t at = gate * units + column;
    const T* const from = bias ? bias + at : nullptr;
    with_used<T, VECTORS>(units - column, [&](auto USED) {
      multiply_panel<T, USED, P>(part, kernel.k_stride, from, units - column, depth, x, step_stride,
                                 row_stride, steps, rows, to + at, to_stride, scales, prefetcher);
    });
  }
}

// Whether `project` copies the rows of x.
template <typename T>
bool gathers(const Forward<T>& run, const Repeats<T>& repeats) {
  return run.input_mask.kinds || repeats.any() || run.products != kFull || run.order.batch_first();
}

// z of steps t0..t1-1, one gate at a time, so that its panel of W or its masked x stays in the L1
// cache. A repeated x is multiplied once. If x is masked, repeated, in groups or (B, T, E), its
// rows are copied to `gathered` first.
template <typename T>
void project(const Forward<T>& run, const ForwardTile<T>& tile, const Repeats<T>& repeats,
             int64_t t0, int64_t t1, T* gathered) {
  const auto [steps, batch, features, units, gates] = run.sizes;
  const int64_t size = gates * units, kinds = run.input_mask.kinds,
                depth = depth_of(features, run.products);
  std::vector<int32_t> fresh;  // rows of the chunk whose x has not been multiplied before
  for (int64_t k = 0; k < (t1 - t0) * tile.rows; ++k) {
    const T* kept = repeats.repeated(t0 * tile.rows + k);
    tile.z_rows[k] = kept ? kept : tile.z + fresh.size() * size;
    if (!kept) fresh.push_back(k);
  }
  const bool in_place = !gathers(run, repeats);
  const auto from = [&](int64_t k) {
    return run.x + run.order.at(t0 + k / tile.rows, tile.first + k % tile.rows) * features;
  };
  for (int64_t gate = 0; gate < gates; ++gate) {
    if (!in_place && gate < std::max<int64_t>(1, kinds)) {
      T *to = gathered, *scale = tile.x_scales;
      for (const int32_t k : fresh) {
        const T* const x = from(k);
        const T* const mask =
            kinds ? run.input_mask.row(gate, tile.first + k % tile.rows) : nullptr;
        if (run.products != kFull)
          narrow_row(run.products, x, mask, features, to, scale);
        else if (!mask)
          std::copy_n(x, features, to);
        else
          for (int64_t n = 0; n < features; ++n) to[n] = x[n] * mask[n];
        to += depth;
        scale += run.products == kQuads;
      }
    }
    const T* const a = in_place ? from(0) : gathered;
    const int64_t count = in_place ? t1 - t0 : 1, rows = in_place ? tile.rows : fresh.size();
    const T* const bias = run.cell->whole_rows ? nullptr : run.bias;
    with_products<T, true>(
        units, run.products,
        [&, units = units, features = features, batch = batch](auto VECTORS, auto P) {
          multiply_gate<T, VECTORS, P>(run.kernel, bias, gate, units, depth, a, batch * features,
                                       depth, count, rows, tile.z, size, tile.x_scales,
                                       *tile.prefetcher);
        });
  }
  for (const int32_t k : fresh) {
    if (T* const kept = repeats.begins(t0 * tile.rows + k))
      std::memcpy(kept, tile.z_rows[k], size * sizeof(T));
  }
}

// Replace the state of the tile's rows that are reset before step t.
template <typename T>
void restart_rows(const Forward<T>& run, const ForwardTile<T>& tile, int64_t t) {
  const int64_t width = run.h_size(), c_width = run.c_size();
  for (int64_t r = 0; run.resets.at && r < tile.rows; ++r) {
    const int64_t row = tile.first + r;
    if (!run.resets.starts(t, row)) continue;
    std::copy_n(run.resets.h + row * width, width, tile.h + r * width);
    if (run.final_c)
      std::copy_n(run.resets.c + row * c_width, c_width, run.final_c + row * c_width);
  }
}

// tile.sums = factor U of gates first_gate..last_gate-1. The rows of gate g are `gate_stride`
// numbers after those of the gate before it.
template <typename T>
void multiply_gates(const Forward<T>& run, const ForwardTile<T>& tile, const T* factor,
                    int64_t gate_stride, int64_t first_gate, int64_t last_gate) {
  const int64_t units = run.sizes.units, gates = run.sizes.gates,
                depth = depth_of(run.h_size(), run.products), size = tile.rows * depth;
  const T* scales = tile.scales;
  for (int64_t gate = first_gate; gate < last_gate; ++gate) {
    const int64_t inner = gate == run.cell->first_part_gate ? depth_of(units, run.products) : depth;
    with_products<T, true>(units, run.products, [&](auto VECTORS, auto P) {
      multiply_gate<T, VECTORS, P>(run.recurrent, nullptr, gate, units, inner, factor, size, depth,
                                   1, tile.rows, tile.sums, gates * units, scales,
                                   *tile.prefetcher);
    });
    scales += gate_stride ? tile.rows : 0;
    factor += gate_stride;
  }
}

// tile.sums = h U, with the mask of each gate, of the first `count` gates.
template <typename T>
void multiply_early(const Forward<T>& run, const ForwardTile<T>& tile, int64_t count) {
  if (tile.zero_h && run.products != kQuads)
    std::fill_n(tile.sums, tile.rows * run.sizes.units * run.sizes.gates, T(0));
  else
    multiply_gates(run, tile, tile.factor, tile.factor_stride, 0, count);
}

// Step t of one row of the tile, whose x is padding: the state stays, and all numbers kept are 0.
template <typename T>
void copy_row(const Forward<T>& run, const ForwardTile<T>& tile, int64_t t, int64_t r) {
  const int64_t units = run.sizes.units, batch = run.sizes.batch, row = tile.first + r,
                before = t * batch + row, kept = run.cell->kept * units;
  const int64_t width = run.h_size(), c_width = run.c_size();
  std::copy_n(tile.h + r * width, width, tile.h_next + r * width);
  if (run.all_h) std::copy_n(tile.h + r * width, width, run.all_h + (batch + before) * width);
  if (run.all_c)
    std::copy_n(run.final_c + row * c_width, c_width, run.all_c + (batch + before) * c_width);
  if (run.kept) std::fill_n(run.kept + before * kept, kept, T(0));
}

// The parts of a cell's gates in one row, for a vector of units: x W + b, NaN for an id out of
// range.
template <typename T, typename Cell>
LSTM_INLINE void load_x(const Forward<T>& run, const T* z, int64_t at, int count,
                        Vec<T> (&x)[Cell::kGates]) {
  LSTM_UNROLL for (int g = 0; g < Cell::kGates; ++g) {
    x[g] =
        z ? load(z + g * run.sizes.units + at, count) : all<T>(std::numeric_limits<T>::quiet_NaN());
    if (run.ids) x[g] += load(run.bias + g * run.sizes.units + at, count);
  }
}

// `inner` of a cell with late gates, from tile.sums of the other gates; then tile.sums of the late
// gates.
template <typename T, typename Cell>
void multiply_late(const Forward<T>& run, const ForwardTile<T>& tile, const T* const* z_rows) {
  constexpr int kEarly = Cell::kGates - Cell::kLateGates;
  const int64_t units = run.sizes.units;
  for (int64_t r = 0; r < tile.rows; ++r) {
    T *const sums = tile.sums + r * Cell::kGates * units, *const to = tile.inner + r * units;
    over_vectors<T>(0, units, [&](int64_t at, int count) __attribute__((always_inline)) {
      const Units<T> now{units,   at,      count,  run.extras, nullptr, tile.h + r * units,
                         nullptr, nullptr, nullptr};
      Vec<T> x[Cell::kGates], u[kEarly], inner;
      load_x<T, Cell>(run, z_rows[r], at, count, x);
      LSTM_UNROLL for (int g = 0; g < kEarly; ++g) u[g] = load(sums + g * units + at, count);
      Cell::forward_inner(now, x, u, inner);
      LSTM_UNROLL for (int g = 0; g < kEarly; ++g) store(sums + g * units + at, u[g], count);
      if (run.mask.kinds) inner *= load(run.mask.row(kEarly, tile.first + r) + at, count);
      store(to + at, inner, count);
    });
  }
  static_assert(Cell::kLateGates == 1, "one mask for `inner`");
  const bool narrow = run.products != kFull;
  if (narrow)
    drop_narrow(run.products, tile.inner, Mask<T>{}, 0, 0, tile.rows, units, tile.dropped,
                tile.scales);
  multiply_gates(run, tile, narrow ? tile.dropped : tile.inner, 0, kEarly, Cell::kGates);
}

// Step t of a tile: the product of all gates, then the cell's function.
template <typename T, typename Cell>
void step_of(const Forward<T>& run, ForwardTile<T>& tile, int64_t t, const T* const* z_rows) {
  const int64_t units = run.sizes.units, batch = run.sizes.batch, width = Cell::kParts * units,
                c_width = Cell::kCells * units;
  if constexpr (Cell::kRecurrent) multiply_early(run, tile, Cell::kGates - Cell::kLateGates);
  if constexpr (Cell::kLateGates > 0) multiply_late<T, Cell>(run, tile, z_rows);
  for (int64_t r = 0; r < tile.rows; ++r) {
    const int64_t row = tile.first + r, before = t * batch + row;
    if (run.valid && !run.valid[before]) {
      copy_row(run, tile, t, r);
      continue;
    }
    const T *const z = z_rows[r], *const sums = Cell::kRecurrent
                                                    ? tile.sums + r * Cell::kGates * units
                                                    : nullptr;
    T *const h = tile.h_next + r * width, *const c =
                                              Cell::kCells ? run.final_c + row * c_width : nullptr;
    T* const all_h = run.all_h ? run.all_h + (batch + before) * width : nullptr;
    T* const all_c = Cell::kCells && run.all_c ? run.all_c + (batch + before) * c_width : nullptr;
    T* const all_kept = run.kept ? run.kept + before * Cell::kKept * units : nullptr;
    over_vectors<T>(0, units, [&](int64_t at, int count) __attribute__((always_inline)) {
      const Units<T> now{units, at,      count,  run.extras, nullptr, tile.h + r * width,
                         c,     nullptr, nullptr};
      Vec<T> x[Cell::kGates], u[Cell::kGates], kept[kMostKept], new_h[Cell::kParts],
          new_c[std::max(1, Cell::kCells)];
      load_x<T, Cell>(run, z, at, count, x);
      LSTM_UNROLL for (int g = 0; Cell::kRecurrent && g < Cell::kGates; ++g) u[g] =
          load(sums + g * units + at, count);
      Cell::forward(now, x, u, parts_of<T>(new_h), parts_of<T>(new_c), kept);
      LSTM_UNROLL for (int n = 0; n < Cell::kParts; ++n) store(h + n * units + at, new_h[n], count);
      LSTM_UNROLL for (int n = 0; n < Cell::kCells; ++n) store(c + n * units + at, new_c[n], count);
      LSTM_UNROLL for (int n = 0; all_h && n < Cell::kParts; ++n)
          stream(all_h + n * units + at, new_h[n], count, run.aligned);
      LSTM_UNROLL for (int n = 0; all_c && n < Cell::kCells; ++n)
          stream(all_c + n * units + at, new_c[n], count, run.aligned);
      if (!all_kept) return;
      LSTM_UNROLL for (int n = 0; n < Cell::kKept; ++n)
          stream(all_kept + n * units + at, kept[n], count, run.aligned);
    });
  }
}

// Write the outputs of step t, which are the first H numbers of h after it.
template <typename T>
void write_outputs(const Forward<T>& run, const ForwardTile<T>& tile, int64_t t) {
  const int64_t units = run.sizes.units, width = run.h_size();
  for (int64_t r = 0; r < tile.rows; ++r) {
    const T* const h = tile.h + r * width;
    T* const to = run.outputs + run.order.at(t, tile.first + r) * units;
    over_vectors<T>(0, units, [&](int64_t at, int count) __attribute__((always_inline)) {
      stream(to + at, load(h + at, count), count, run.aligned);
    });
  }
}

// All T steps of rows first..last-1.
template <typename T>
void run_forward_tile(const Forward<T>& run, int64_t first, int64_t last) {
  const auto [steps, batch, features, units, gates] = run.sizes;
  const int64_t rows = last - first, size = rows * units, width = run.h_size(),
                h_size = rows * width, c_width = run.c_size(), chunk = chunk_steps(rows, steps);
  ForwardTile<T> tile{first, rows};
  const int64_t z_size = run.ids ? 0 : chunk * gates * size;
  const Repeats<T> repeats(run.tokens, steps, batch, first, last, gates * units);
  const int64_t gathered_size = !run.ids && gathers(run, repeats) ? chunk * rows * features : 0;
  const bool pack_blocks =
      run.blocks.data && run.blocks.gate_stride != kLanes<T> && rows > 2 * kRows;
  const int64_t kinds = factor_kinds(run), sums_size = run.cell->recurrent ? gates * size : 0;
  const bool scaled = run.products == kQuads;
  Aligned<T> scales(scaled ? kinds * rows : 0), x_scales(scaled ? chunk * rows : 0);
  Aligned<T> state(2 * h_size), dropped(kinds * h_size), gathered(gathered_size), z(z_size);
  Aligned<T> sums(run.blocks.data ? partial_size<T>(depth_of(units, run.products), rows)
                                  : sums_size),
      packed(pack_blocks ? packed_size<T>(units) : 0);
  Aligned<T> inner(run.cell->late_gates ? size : 0);
  tile.h = state.get();
  tile.h_next = tile.h + h_size;
  tile.z = z.get();
  tile.dropped = dropped.get();
  tile.scales = scales.get();
  tile.x_scales = x_scales.get();
  tile.sums = sums.get();
  tile.inner = inner.get();
  tile.packed = pack_blocks ? packed.get() : nullptr;
  Prefetcher prefetcher;
  tile.prefetcher = &prefetcher;
  std::vector<const T*> z_rows(chunk * rows);
  tile.z_rows = z_rows.data();
  std::memcpy(tile.h, run.h + first * width, h_size * sizeof(T));
  if (run.final_c)
    std::memcpy(run.final_c + first * c_width, run.c + first * c_width, rows * c_width * sizeof(T));
  if (run.all_h) std::memcpy(run.all_h + first * width, tile.h, h_size * sizeof(T));
  if (run.all_c)
    std::memcpy(run.all_c + first * c_width, run.c + first * c_width, rows * c_width * sizeof(T));
  for (int64_t t0 = 0; t0 < steps; t0 += chunk) {
    const int64_t t1 = std::min(steps, t0 + chunk);
    prefetcher.clear();
    if (!run.ids && t1 < steps)
      prefetcher.add_steps(run.x, run.order, features, t1, std::min(steps, t1 + chunk), first,
                           rows);
    if (!run.ids) project(run, tile, repeats, t0, t1, gathered.get());
    for (int64_t k = 0; run.ids && k < (t1 - t0) * rows; ++k) {
      z_rows[k] = kernel_row(run.w, run.ids[(t0 + k / rows) * batch + first + k % rows], run.sizes);
    }
    for (int64_t t = t0; t < t1; ++t) {
      restart_rows(run, tile, t);
      tile.zero_h = t == 0 && all_zero(tile.h, h_size);
      set_factor(run, tile);
      run.step(run, tile, t, tile.z_rows + (t - t0) * rows);
      std::swap(tile.h, tile.h_next);
      if (run.outputs) write_outputs(run, tile, t);
    }
  }
  std::memcpy(run.final_h + first * width, tile.h, h_size * sizeof(T));
  flush_streams();
}

}  // namespace
