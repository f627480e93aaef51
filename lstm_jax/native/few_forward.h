// The forward pass for few rows of a batch, whose threads share the units instead of the rows.
//
// A step of few rows is bound by reading U. Each member of the team has the columns of all gates of
// its own units, so that the part of U that it reads stays in the cache of its core, and nothing
// but h passes between the members, once a step.
#pragma once

#include <algorithm>
#include <limits>

#include "few_products.h"
#include "forward.h"
#include "fused_lstm.h"
#include "lstm_cells.h"
#include "team.h"

namespace {

template <typename T>
struct FewForward;

// A cell's step for units first..last-1 of all rows; quads: the factors of U, in int8 only.
template <typename T>
using StepUnits = void (*)(const FewForward<T>& few, int64_t t, int64_t t0, int64_t first,
                           int64_t last, const T* quads);

// The buffers of a call, and what its members need of it. The numbers of a gate are padded(H) apart
// in z and sums.
template <typename T>
struct FewForward {
  const Forward<T>* run;
  const T* recurrent;
  StepUnits<T> step;
  int64_t chunk;     // steps
  bool zero_h;       // h before the first step is all zeros: skip the product, but not in int8
  T *z, *sums;       // of each row of a chunk (G padded(H)); of each row
  T* h[2];           // (rows, H) before even and odd steps
  T* factors[2];     // h times the masks (kinds, rows, H), if there are masks
  T* reset_factors;  // the same of the h of the resets
  T* dropped;        // x times the masks (kinds, rows of a chunk, E), if there are masks; in int8 x
                     // itself too, in quads
  T* x_scales;       // in int8: of the rows of `dropped`
  T* panels;         // a panel of W for each member
  T* blocks;         // U packed by `pack_units` or `pack_quad_blocks`, or null
  T* quads;  // in int8, of each member: the factors of U (kinds, rows) in quads, then their scales
  int64_t rows() const { return run->sizes.batch; }
  int64_t z_size() const { return run->sizes.gates * padded(run->sizes.units); }
  int64_t panel_size() const {
    return packed_depth(run->sizes.features, run->products) * width_of<T>(run->sizes.units);
  }
  int64_t block_size() const {
    return packed_depth(run->sizes.units, run->products) * run->sizes.gates * kUnitStep;
  }
  bool in_quads() const { return run->products == kQuads; }
  int64_t x_kinds() const { return std::max<int64_t>(in_quads(), run->input_mask.kinds); }
  int64_t x_depth() const { return depth_of(run->sizes.features, run->products); }
  int64_t factor_count() const { return std::max<int64_t>(1, run->mask.kinds) * rows(); }
  int64_t quads_size() const {
    return in_quads() ? padded(factor_count() * (depth_of(run->sizes.units, kQuads) + 1)) : 0;
  }

  const T* h_before(int64_t t, int64_t row) const {
    return (run->resets.starts(t, row) ? run->resets.h : h[t & 1]) + row * run->sizes.units;
  }
  const T* c_before(int64_t t, int64_t row) const {
    return (run->resets.starts(t, row) ? run->resets.c : run->final_c) + row * run->sizes.units;
  }
  // the row's factor of the product with U
  const T* factor(int64_t t, int64_t row, int64_t gate) const {
    if (!run->mask.kinds) return h_before(t, row);
    return (run->resets.starts(t, row) ? reset_factors : factors[t & 1]) +
           ((run->mask.per_gate() ? gate * rows() : 0) + row) * run->sizes.units;
  }
};

// The cell whose function starts from the sum of x W and h U, as in fused_lstm.h.
template <typename T, typename Cell>
constexpr bool kIsLSTM = std::is_same_v<Cell, LSTMCell<T, 0>>;

// x W + b of a row, at the number of its gate's first unit: the row's own sums, or with ids a row
// of W, to which the bias has to be added.
template <typename T>
LSTM_INLINE Vec<T> few_x(const FewForward<T>& few, const T* z, int64_t gate, int64_t at,
                         int count) {
  const int64_t units = few.run->sizes.units;
  if (!few.run->ids) return load(z + gate * padded(units) + at, count);
  return (z ? load(z + gate * units + at, count) : all<T>(std::numeric_limits<T>::quiet_NaN())) +
         load(few.run->bias + gate * units + at, count);
}

// Row r's x W at step t, without bias if there are ids; null for an id out of range.
template <typename T>
const T* few_z(const FewForward<T>& few, int64_t t, int64_t t0, int64_t r) {
  const Forward<T>& run = *few.run;
  return run.ids ? kernel_row(run.w, run.ids[t * few.rows() + r], run.sizes)
                 : few.z + ((t - t0) * few.rows() + r) * few.z_size();
}

// sums = h U for units first..last-1 of ROWS rows from `begin` on; the LSTM's sums have x W + b
// too.
template <typename T, int ROWS, bool IS_LSTM>
void multiply_few(const FewForward<T>& few, int64_t t, int64_t t0, int64_t begin, int64_t first,
                  int64_t last) {
  const auto [steps, batch, features, units, gates] = few.run->sizes;
  const bool per_gate = few.run->mask.per_gate();
  T* to[ROWS];
  for (int r = 0; r < ROWS; ++r) {
    to[r] = few.sums + (begin + r) * few.z_size();
    const T* const z = IS_LSTM ? few_z(few, t, t0, begin + r) : nullptr;
    for (int64_t gate = 0; gate < gates; ++gate) {
      over_vectors<T>(first, last, [&, units = units](int64_t at, int count) {
        store(to[r] + gate * padded(units) + at,
              IS_LSTM ? few_x(few, z, gate, at, count) : Vec<T>{});
      });
    }
  }
  if (t == 0 && few.zero_h) return;
  for (int64_t gate = 0; gate < gates; gate += per_gate ? 1 : gates) {
    const T* a[ROWS];
    for (int r = 0; r < ROWS; ++r) a[r] = few.factor(t, begin + r, gate);
    const int64_t end = per_gate ? gate + 1 : gates;
    if (few.blocks) {
      for (int64_t at = first; at < last; at += kUnitStep) {
        T* sums[ROWS];
        for (int r = 0; r < ROWS; ++r) sums[r] = to[r] + at;
        add_blocks<T, ROWS>(a, few.blocks + at / kUnitStep * few.block_size(), few.block_size(),
                            gates, units, gate, end, sums, padded(units));
      }
      continue;
    }
    add_few<T, ROWS>(a, {few.recurrent, gates * units, few.recurrent + gates * units * units},
                     units, {gate, end, units}, to, first, last);
  }
}

// quads = the factors of U at step t, then their scales.
template <typename T>
void quantize_few(const FewForward<T>& few, int64_t t, T* quads) {
  const int64_t units = few.run->sizes.units, depth = depth_of(units, kQuads);
  for (int64_t n = 0; n < few.factor_count(); ++n) {
    quads[few.factor_count() * depth + n] = quantize_row<T>(
        few.factor(t, n % few.rows(), n / few.rows()), nullptr, units, quads + n * depth);
  }
}

// `multiply_few` in int8.
template <typename T, int ROWS, bool IS_LSTM>
void multiply_few_quads(const FewForward<T>& few, int64_t t, int64_t t0, int64_t begin,
                        int64_t first, int64_t last, const T* quads) {
  const auto [steps, batch, features, units, gates] = few.run->sizes;
  const bool per_gate = few.run->mask.per_gate();
  const int64_t depth = depth_of(units, kQuads), stride = gates * kUnitStep;
  constexpr int kAtOnce = ROWS == 1   ? 4
                          : ROWS == 2 ? 2
                                      : 1;  // blocks; the sums of a single one wait for each other
  over_groups(padded(last - first) / kUnitStep, kAtOnce,
              [&, batch = batch, units = units, gates = gates](int64_t block, int64_t count) {
                const T* const packed = few.blocks + (first / kUnitStep + block) * few.block_size();
                T* sums[ROWS];
                for (int r = 0; r < ROWS; ++r)
                  sums[r] = few.sums + (begin + r) * few.z_size() + first + block * kUnitStep;
                for (int64_t gate = 0; gate < gates; gate += per_gate ? 1 : gates) {
                  const T* a[ROWS];
                  for (int r = 0; r < ROWS; ++r)
                    a[r] = quads + ((per_gate ? gate * batch : 0) + begin + r) * depth;
                  with_rows<kAtOnce>(count, [&](auto BLOCKS) {
                    add_blocks<T, ROWS, BLOCKS, kQuads>(a, packed, few.block_size(), gates, depth,
                                                        gate, per_gate ? gate + 1 : gates, sums,
                                                        padded(units));
                  });
                }
              });
  for (int r = 0; r < ROWS; ++r) {
    const T* const z = IS_LSTM ? few_z(few, t, t0, begin + r) : nullptr;
    for (int64_t gate = 0; gate < gates; ++gate) {
      const T row_scale =
          quads[few.factor_count() * depth + (per_gate ? gate * batch : 0) + begin + r];
      T* const sums = few.sums + (begin + r) * few.z_size() + gate * padded(units);
      over_vectors<T>(first, last, [&](int64_t n, int lanes) {
        const T* const scales =
            few.blocks + n / kUnitStep * few.block_size() + depth * stride + gate * kUnitStep;
        store(sums + n, (IS_LSTM ? few_x(few, z, gate, n, lanes) : Vec<T>{}) +
                            unscaled<T>(load(sums + n), row_scale, scales, stride));
      });
    }
  }
}

// The numbers that a step writes for a vector of units of a row.
template <typename T, int KEPT>
struct Written {
  Vec<T> h, c, kept[KEPT];
};

template <typename T, int KEPT>
LSTM_INLINE void write_few(const FewForward<T>& few, int64_t t, int64_t r, int64_t at, int count,
                           const Written<T, KEPT>& now) {
  const Forward<T>& run = *few.run;
  const int64_t units = run.sizes.units, batch = few.rows(), before = t * batch + r;
  store(few.h[(t + 1) & 1] + r * units + at, now.h, count);
  if (run.final_c) store(run.final_c + r * units + at, now.c, count);
  if (run.all_h) store(run.all_h + (before + batch) * units + at, now.h, count);
  if (run.all_c) store(run.all_c + (before + batch) * units + at, now.c, count);
  for (int n = 0; run.kept && n < run.cell->kept; ++n)
    store(run.kept + (before * run.cell->kept + n) * units + at, now.kept[n], count);
  for (int64_t kind = 0; kind < run.mask.kinds; ++kind) {
    store(few.factors[(t + 1) & 1] + (kind * batch + r) * units + at,
          now.h * load(run.mask.row(kind, r) + at, count), count);
  }
}

// Step t of a row from its sums, for units first..last-1.
template <typename T, typename Cell>
void finish_few(const FewForward<T>& few, int64_t t, int64_t t0, int64_t r, int64_t first,
                int64_t last) {
  const Forward<T>& run = *few.run;
  const int64_t units = run.sizes.units;
  const T *const sums = few.sums + r * few.z_size(), *const z = few_z(few, t, t0, r),
                 *const h_before = few.h_before(t, r);
  const T* const c_before = Cell::kCells ? few.c_before(t, r) : nullptr;
  const bool valid = !run.valid || run.valid[t * few.rows() + r];
  over_vectors<T>(first, last, [&](int64_t at, int count) __attribute__((always_inline)) {
    using Numbers = Written<T, std::max(1, Cell::kKept)>;
    Numbers now;
    if (!valid) {
      now = Numbers{};
      now.h = load(h_before + at, count);
      if (Cell::kCells) now.c = load(c_before + at, count);
    } else if constexpr (kIsLSTM<T, Cell>) {
      LSTM_UNROLL for (int g = 0; g < Cell::kGates; ++g) {
        const Vec<T> sum = load(sums + g * padded(units) + at);
        now.kept[g] = g == 2 ? hyperbolic_tangent<T>(sum) : sigmoid<T>(sum);
      }
      now.c = new_c_of<T>(now.kept, load(c_before + at, count));
      now.h = now.kept[3] * hyperbolic_tangent<T>(now.c);
    } else {
      const Units<T> cell{units,    at,       count,   run.extras, nullptr,
                          h_before, c_before, nullptr, nullptr};
      Vec<T> x[Cell::kGates], u[Cell::kGates];
      LSTM_UNROLL for (int g = 0; g < Cell::kGates; ++g) {
        x[g] = few_x(few, z, g, at, count);
        u[g] = load(sums + g * padded(units) + at);
      }
      Cell::forward(cell, x, u, now.h, now.c, now.kept);
    }
    write_few(few, t, r, at, count, now);
  });
}

template <typename T, typename Cell>
void step_units(const FewForward<T>& few, int64_t t, int64_t t0, int64_t first, int64_t last,
                const T* quads) {
  over_groups(few.rows(), kFewRows, [&](int64_t begin, int64_t count) {
    with_rows<kFewRows>(count, [&](auto ROWS) {
      if constexpr (kHasQuads && std::is_same_v<T, float>) {
        if (quads)
          return multiply_few_quads<T, ROWS, kIsLSTM<T, Cell>>(few, t, t0, begin, first, last,
                                                               quads);
      }
      multiply_few<T, ROWS, kIsLSTM<T, Cell>>(few, t, t0, begin, first, last);
    });
  });
  for (int64_t r = 0; r < few.rows(); ++r) finish_few<T, Cell>(few, t, t0, r, first, last);
}

// x times the masks, for rows of the chunk that begins with row k0 (of all steps); in int8 in
// quads.
template <typename T>
void drop_few(const FewForward<T>& few, int64_t k0, int64_t count, int64_t k) {
  const Forward<T>& run = *few.run;
  const int64_t features = run.sizes.features;
  const T* const x = run.x + (k0 + k) * features;
  for (int64_t kind = 0; kind < few.x_kinds(); ++kind) {
    const T* const mask =
        run.input_mask.kinds ? run.input_mask.row(kind, (k0 + k) % few.rows()) : nullptr;
    T* const to = few.dropped + (kind * count + k) * few.x_depth();
    if (few.in_quads())
      few.x_scales[kind * count + k] = quantize_row<T>(x, mask, features, to);
    else
      for (int64_t n = 0; n < features; ++n) to[n] = x[n] * mask[n];
  }
}

// The rows of a chunk that W multiplies for a gate, from row k0 (of all steps) on.
template <typename T>
const T* few_inputs(const FewForward<T>& few, int64_t k0, int64_t count, int64_t gate) {
  const Forward<T>& run = *few.run;
  if (!few.x_kinds()) return run.x + k0 * run.sizes.features;
  return few.dropped + (run.input_mask.per_gate() ? gate * count : 0) * few.x_depth();
}

// z = x W + b of `count` rows from row k0 (of all steps) on, for panel `n` of all gates.
template <typename T>
void project_panel(const FewForward<T>& few, int64_t k0, int64_t count, int64_t n, T* packed) {
  const Forward<T>& run = *few.run;
  const auto [steps, batch, features, units, gates] = run.sizes;
  const int64_t panels = panels_of<T>(units), width = width_of<T>(units), gate = n / panels,
                column = n % panels * width;
  Prefetcher none;
  pack_panel(run.w, features, units, gates, packed, n, run.products);
  const T *const inputs = few_inputs(few, k0, count, gate), *const scales =
                                                                few.x_scales +
                                                                (run.input_mask.per_gate()
                                                                     ? gate * count
                                                                     : 0);
  with_products<T, true>(units, run.products, [&, units = units](auto VECTORS, auto P) {
    with_used<T, VECTORS>(units - column, [&, units = units](auto USED) {
      multiply_panel<T, USED, P>(packed, width, run.bias + gate * units + column, units - column,
                                 few.x_depth(), inputs, 0, few.x_depth(), 1, count,
                                 few.z + gate * padded(units) + column, few.z_size(), scales, none);
    });
  });
}

// The same for at most kFewRows rows and units first..last-1, without packing.
template <typename T>
void project_units(const FewForward<T>& few, int64_t k0, int64_t count, int64_t first,
                   int64_t last) {
  const Forward<T>& run = *few.run;
  const auto [steps, batch, features, units, gates] = run.sizes;
  for (int64_t gate = 0; gate < gates; ++gate) {
    with_rows<kFewRows>(count, [&, features = features, units = units, gates = gates](auto ROWS) {
      const T* a[ROWS];
      T* to[ROWS];
      for (int r = 0; r < ROWS; ++r) {
        a[r] = few_inputs(few, k0, count, gate) + r * features;
        to[r] = few.z + r * few.z_size();
        over_vectors<T>(first, last, [&](int64_t at, int lanes) {
          store(to[r] + gate * padded(units) + at, load(run.bias + gate * units + at, lanes));
        });
      }
      add_few<T, ROWS>(a, {run.w, gates * units, run.w + features * gates * units}, features,
                       {gate, gate + 1, units}, to, first, last);
    });
  }
}

// x W + b of a chunk.
template <typename T>
void project_few(const FewForward<T>& few, int64_t k0, int64_t count, Team::Member& member) {
  const Sizes& sizes = few.run->sizes;
  if (few.x_kinds()) member.pieces(count, [&](int64_t k, int64_t) { drop_few(few, k0, count, k); });
  if (count > kFewRows || few.in_quads()) {
    return member.pieces(sizes.gates * panels_of<T>(sizes.units), [&](int64_t n, int64_t index) {
      project_panel(few, k0, count, n, few.panels + index * few.panel_size());
    });
  }
  member.share([&](int64_t index, int64_t size) {
    over_share(sizes.units, index, size,
               [&](int64_t first, int64_t last) { project_units(few, k0, count, first, last); });
  });
}

// Pack blocks first..last-1 of U.
template <typename T>
void pack_few(const FewForward<T>& few, int64_t first, int64_t last) {
  static_assert(kUnitStep == kLanes<T> || !kHasQuads || !std::is_same_v<T, float>,
                "blocks of one vector a gate");
  const int64_t units = few.run->sizes.units, gates = few.run->sizes.gates;
  if (few.in_quads()) {
    for (int64_t gate = 0; gate < gates; ++gate)
      pack_quad_blocks(few.recurrent, units, units, gates, gate, first, last, few.blocks);
  } else {
    for (int64_t n = first; n < last; ++n)
      pack_units(few.recurrent, units, units, gates, n, few.blocks + n * few.block_size());
  }
}

// All steps, as one member of the team.
template <typename T>
void run_few_forward(const FewForward<T>& few, Team::Member& member) {
  const Forward<T>& run = *few.run;
  const auto [steps, batch, features, units, gates] = run.sizes;
  for (int64_t t0 = 0; t0 < steps; t0 += few.chunk) {
    const int64_t t1 = std::min(steps, t0 + few.chunk);
    if (t0 == 0 && few.blocks) {
      member.share([&, units = units](int64_t index, int64_t size) {
        over_share(units, index, size, [&](int64_t first, int64_t last) {
          pack_few(few, first / kUnitStep, padded(last) / kUnitStep);
        });
      });
    }
    if (!run.ids) project_few(few, t0 * batch, (t1 - t0) * batch, member);
    for (int64_t t = t0; t < t1; ++t) {
      member.share([&, units = units](int64_t index, int64_t size) {
        over_share(units, index, size, [&](int64_t first, int64_t last) {
          T* const quads = few.in_quads() ? few.quads + index * few.quads_size() : nullptr;
          if (quads) quantize_few(few, t, quads);
          few.step(few, t, t0, first, last, quads);
        });
      });
    }
  }
}

// Copy the initial state to where the first step reads it.
template <typename T>
void start_few_forward(FewForward<T>& few) {
  const Forward<T>& run = *few.run;
  const int64_t size = few.rows() * run.sizes.units;
  std::copy_n(run.h, size, few.h[0]);
  if (run.final_c) std::copy_n(run.c, size, run.final_c);
  if (run.all_h) std::copy_n(run.h, size, run.all_h);
  if (run.all_c) std::copy_n(run.c, size, run.all_c);
  for (int64_t kind = 0; kind < run.mask.kinds; ++kind) {
    drop(few.h[0], run.mask, kind, 0, few.rows(), few.factors[0] + kind * size);
    if (run.resets.at)
      drop(run.resets.h, run.mask, kind, 0, few.rows(), few.reset_factors + kind * size);
  }
  few.zero_h = true;
  for (int64_t r = 0; r < few.rows(); ++r)
    few.zero_h = few.zero_h && all_zero(few.h_before(0, r), run.sizes.units);
}

// Whether U is packed: always in int8, else where it pays, as a large U is read faster from one
// place, which takes as long as some steps.
inline bool packs_few(const Sizes& sizes, Products products) {
  constexpr int64_t kLarge = 1 << 18, kSteps = 48;
  return products == kQuads ||
         (sizes.gates * sizes.units * sizes.units >= kLarge && sizes.steps >= kSteps);
}

// The whole pass.
template <typename T>
void forward_few(ffi::ThreadPool pool, const Forward<T>& run, const T* recurrent, StepUnits<T> step,
                 int64_t threads) {
  const auto [steps, batch, features, units, gates] = run.sizes;
  FewForward<T> few{&run, recurrent, step, chunk_steps(batch, steps)};
  const int64_t size = batch * units, kinds = run.mask.kinds, rows = few.chunk * batch,
                z_rows = run.ids ? 0 : rows;
  const int64_t panels = run.ids ? 0 : threads * few.panel_size(),
                blocks = packs_few(run.sizes, run.products)
                             ? padded(units) / kUnitStep * few.block_size()
                             : 0;
  const int64_t inputs = run.ids ? 0 : few.x_kinds() * rows, quads = threads * few.quads_size();
  Aligned<T> room(few.z_size() * (z_rows + batch) + (2 + 3 * kinds) * padded(size) + panels +
                  blocks + quads + inputs * (few.x_depth() + 1));
  T* next = room.get();
  const auto take = [&](int64_t count) { return std::exchange(next, next + count); };
  few.blocks = blocks ? next : nullptr;
  next += blocks;
  few.z = take(few.z_size() * z_rows);
  few.sums = take(few.z_size() * batch);
  for (int n = 0; n < 2; ++n) few.h[n] = take(padded(size));
  for (int n = 0; n < 2; ++n) few.factors[n] = take(kinds * padded(size));
  few.reset_factors = take(kinds * padded(size));
  few.quads = take(quads);
  few.panels = take(panels);
  few.dropped = take(inputs * few.x_depth());
  few.x_scales = next;
  start_few_forward(few);
  Team::run(pool, threads, [&](Team::Member& member) { run_few_forward(few, member); });
  std::copy_n(few.h[steps & 1], size, run.final_h);
}

}  // namespace
