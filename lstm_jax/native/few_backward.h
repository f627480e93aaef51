// The backward pass for few rows of a batch, whose threads share the units, as in few_forward.h.
//
// In a step, each member computes the slots of its own units; then d of h before the step needs the
// slots of all units, but only the rows of U of the member's own units. Once a chunk of steps is
// done, its gradients of the kernels and of x are products over the whole chunk.
#pragma once

#include <algorithm>
#include <utility>

#include "backward.h"
#include "few_products.h"
#include "team.h"

namespace {

// The gradients of the parameters: (E, GH), (H, GH), (GH) and, unless null, (extras H).
template <typename T>
struct Gradients {
  T *kernel, *recurrent, *bias, *extras;
};

template <typename T>
struct FewBackward;

// `Backward::through` for units first..last-1 of all rows.
template <typename T>
using ThroughUnits = void (*)(const FewBackward<T>& few, int64_t t, int64_t t0, int64_t first,
                              int64_t last);

// The buffers of a call, and what its members need of it.
template <typename T>
struct FewBackward {
  const Backward<T>* run;
  const T *kernel, *recurrent;
  ThroughUnits<T> through;
  Gradients<T> to;
  int64_t chunk;           // steps
  T* d;                    // the slots of each row of a chunk (slots, H)
  T *turned_h, *turned_x;  // h before each step and x, transposed as `transpose_rows` does it
  T* panels;               // a panel of slots of a chunk for each member
  T* sums;                 // of the slots over steps and rows (slots, panels, width)
  int32_t* numbers;        // 0, 1, 2, ...
  bool zero_h;             // h before the first step is all zeros: skip the product
  int64_t rows() const { return run->sizes.batch; }
  int64_t d_size() const { return run->cell->slots * run->sizes.units; }
  int64_t panel_size() const { return chunk * rows() * width_of<T>(run->sizes.units); }
  T* slots(int64_t k) const { return d + k * d_size(); }
};

// The slots of step t, and d of c before it, for units first..last-1; d of h before it without the
// product with U.
template <typename T, typename Cell>
void through_units(const FewBackward<T>& few, int64_t t, int64_t t0, int64_t first, int64_t last) {
  const Backward<T>& run = *few.run;
  const int64_t units = run.sizes.units, batch = few.rows();
  for (int64_t r = 0; r < batch; ++r) {
    const int64_t before = t * batch + r;
    const bool valid = !run.valid || run.valid[before], starts = run.resets.starts(t, r);
    T *const d_h = run.d_first_h + r * units, *const d_c = Cell::kCells ? run.d_first_c + r * units
                                                                        : nullptr;
    const T* const d_output = run.d_h ? run.d_h + before * units : nullptr;
    const T* const kept = Cell::kKept ? run.kept + before * Cell::kKept * units : nullptr;
    const T* const h_before = starts ? run.resets.h + r * units : run.all_h + before * units;
    const T* const c_before = !Cell::kCells ? nullptr
                              : starts      ? run.resets.c + r * units
                                            : run.all_c + before * units;
    const T *const h = run.all_h + (before + batch) * units, *const c =
                                                                 Cell::kCells
                                                                     ? run.all_c +
                                                                           (before + batch) * units
                                                                     : nullptr;
    T* const slots = few.slots((t - t0) * batch + r);
    over_vectors<T>(first, last, [&](int64_t at, int count) __attribute__((always_inline)) {
      Vec<T> d = load(d_h + at, count);
      if (d_output) d += load(d_output + at, count);
      Vec<T> d_slots[Cell::kSlots] = {}, d_h_before = d, d_c_before;
      if (valid) {
        const Units<T> now{units, at, count, run.extras, kept, h_before, c_before, h, c};
        Cell::backward(now, d, Cell::kCells ? load(d_c + at, count) : Vec<T>{}, d_slots, d_h_before,
                       d_c_before);
        if (Cell::kCells) store(d_c + at, d_c_before, count);
      }
      store(d_h + at, d_h_before, count);
      for (int n = 0; n < Cell::kSlots; ++n) store(slots + n * units + at, d_slots[n], count);
    });
  }
}

// d of h before step t for units first..last-1, whose slots all members have computed, and the
// resets before it.
template <typename T>
void finish_step_back(const FewBackward<T>& few, int64_t t, int64_t t0, int64_t first,
                      int64_t last) {
  const Backward<T>& run = *few.run;
  const int64_t units = run.sizes.units, batch = few.rows();
  const Segments<T> segments(run.sizes, run.cell->recurrent_slots, run.mask);
  over_groups(batch, kFewRowsBack, [&](int64_t begin, int64_t count) {
    with_rows<kFewRowsBack>(count, [&](auto ROWS) {
      const T* d[ROWS];
      int64_t numbers[ROWS];
      T* out[ROWS];
      for (int r = 0; r < ROWS; ++r) {
        numbers[r] = begin + r;
        d[r] = few.slots((t - t0) * batch + begin + r);
        out[r] = run.valid && !run.valid[t * batch + begin + r]
                     ? nullptr
                     : run.d_first_h + (begin + r) * units;
      }
      back_few<T, ROWS>(segments, few.recurrent, run.sizes.gates * units, d, numbers, first, last,
                        run.cell->direct, out);
    });
  });
  for (int64_t r = 0; run.resets.at && r < batch; ++r) {
    for (int64_t n = r * units + first; run.resets.starts(t, r) && n < r * units + last; ++n) {
      run.d_reset_h[n] += std::exchange(run.d_first_h[n], T(0));
      if (run.d_first_c) run.d_reset_c[n] += std::exchange(run.d_first_c[n], T(0));
    }
  }
}

// to (size, GH) = turned^T d for a panel of columns of a gate, or added to it, over `depth` rows;
// `d` is the panel of slots of these rows, in whose rows of WIDTH vectors VECTORS are used.
// `turned` is grouped by the rows of a block of whole panels.
template <typename T, int WIDTH, int VECTORS>
void outer_panel(const T* turned, int64_t size, const T* d, int64_t depth, T* to, int64_t to_stride,
                 int64_t columns, bool first) {
  constexpr int kMax = max_rows(WIDTH);
  int lanes[VECTORS];
  for (int v = 0; v < VECTORS; ++v)
    lanes[v] = std::clamp<int64_t>(columns - v * kLanes<T>, 0, kLanes<T>);
  over_groups(size, kMax, [&](int64_t begin, int64_t count) {
    with_rows<kMax>(count, [&](auto ROWS) {
      T* const at = to + begin * to_stride;
      Vec<T> sums[ROWS][VECTORS];
      LSTM_UNROLL for (int r = 0; r < ROWS; ++r) {
        LSTM_UNROLL for (int v = 0; v < VECTORS; ++v) sums[r][v] =
            first ? Vec<T>{} : load(at + r * to_stride + v * kLanes<T>, lanes[v]);
      }
      multiply<T, ROWS, VECTORS>(sums, turned, 1, kMax, d, depth, WIDTH * kLanes<T>);
      LSTM_UNROLL for (int r = 0; r < ROWS; ++r) {
        LSTM_UNROLL for (int v = 0; v < VECTORS; ++v) {
          if (lanes[v]) store(at + r * to_stride + v * kLanes<T>, sums[r][v], lanes[v]);
        }
      }
    });
    turned += depth * kMax;
  });
}

// A chunk of steps t0..t1-1.
struct Chunk {
  int64_t t0, t1;
  bool first;  // of the backward pass: gradients are overwritten
};

// Panel n of a kernel's gradient; without `turned`, the rows of ids get it.
template <typename T>
void add_panel(const FewBackward<T>& few, const Chunk& chunk, int64_t n, const int* slots,
               const T* turned, int64_t size, int64_t skipped, T* to, T* packed) {
  const Backward<T>& run = *few.run;
  const auto [steps, batch, features, units, gates] = run.sizes;
  const int64_t width = width_of<T>(units), panels = panels_of<T>(units), gate = n / panels,
                column = n % panels * width;
  const int64_t depth = (chunk.t1 - chunk.t0) * batch, columns = std::min(width, units - column);
  pack_panel(few.d, depth, units, run.cell->slots, packed, slots[gate] * panels + n % panels,
             kFull);
  to += gate * units + column;
  if (turned) {
    return with_vectors<T>(units, [&, units = units, gates = gates](auto VECTORS) {
      constexpr int kWidth = VECTORS;
      with_used<T, VECTORS>(columns, [&](auto USED) {
        outer_panel<T, kWidth, USED>(turned, size, packed + skipped * width, depth - skipped, to,
                                     gates * units, columns, chunk.first);
      });
    });
  }
  for (int64_t row = 0; chunk.first && row < features; ++row)
    std::fill_n(to + row * gates * units, columns, T(0));
  for (int64_t k = 0; k < depth; ++k) {
    T* const row = const_cast<T*>(kernel_row<T>(to, run.ids[chunk.t0 * batch + k], run.sizes));
    for (int64_t j = 0; row && j < columns; ++j) row[j] += packed[k * width + j];
  }
}

// The sums of panel n of the slots over the chunk.
template <typename T>
void add_slots(const FewBackward<T>& few, const Chunk& chunk, int64_t n, T* packed) {
  const Sizes& sizes = few.run->sizes;
  const int64_t depth = (chunk.t1 - chunk.t0) * few.rows(), width = width_of<T>(sizes.units);
  pack_panel(few.d, depth, sizes.units, few.run->cell->slots, packed, n, kFull);
  if (chunk.first) std::fill_n(few.sums + n * width, width, T(0));
  with_vectors<T>(sizes.units,
                  [&](auto VECTORS) { add_rows<T, VECTORS>(packed, depth, few.sums + n * width); });
}

// Features whose d_x is one piece of work.
constexpr int64_t kFeaturePiece = 16;

// d_x of the chunk for a piece of the features.
template <typename T>
void back_to_features(const FewBackward<T>& few, const Chunk& chunk, int64_t piece) {
  const Backward<T>& run = *few.run;
  const int64_t features = run.sizes.features, first = piece * kFeaturePiece,
                last = std::min(features, first + kFeaturePiece);
  const Segments<T> segments(run.sizes, kInputSlots, run.input_mask);
  over_groups((chunk.t1 - chunk.t0) * few.rows(), kFewRowsBack, [&](int64_t begin, int64_t count) {
    with_rows<kFewRowsBack>(count, [&](auto ROWS) {
      const T* d[ROWS];
      int64_t numbers[ROWS];
      T* out[ROWS];
      for (int r = 0; r < ROWS; ++r) {
        numbers[r] = (begin + r) % few.rows();
        d[r] = few.slots(begin + r);
        out[r] = run.d_x + (chunk.t0 * few.rows() + begin + r) * features;
      }
      back_few<T, ROWS>(segments, few.kernel, run.sizes.gates * run.sizes.units, d, numbers, first,
                        last, false, out);
    });
  });
}

// Transpose h before the chunk's steps and x for a gate, for piece `n` of `pieces` of the rows;
// those that are skipped are the first ones of h.
template <typename T>
void turn_rows(const FewBackward<T>& few, const Chunk& chunk, int64_t gate, int64_t skipped,
               int64_t n, int64_t pieces) {
  const Backward<T>& run = *few.run;
  const int64_t depth = (chunk.t1 - chunk.t0) * few.rows();
  const auto turn = [&](const OuterRows<T>& of, T* to, int64_t begin) {
    const int64_t count = depth - begin;
    BackwardTile<T> tile{};
    tile.rows = few.rows();
    tile.transposed = to;
    with_vectors<T>(run.sizes.units, [&](auto VECTORS) {
      constexpr int kMax = max_rows(VECTORS);
      transpose_rows<T, kMax>(run, tile, of, gate, chunk.t0, {few.numbers + begin, count},
                              n * count / pieces, (n + 1) * count / pieces);
    });
  };
  if (gate == 0 || run.mask.per_gate())
    turn({run.all_h, run.order, run.mask, run.resets, run.sizes.units, run.sizes.gates},
         few.turned_h, skipped);
  if (!run.ids && (gate == 0 || run.input_mask.per_gate()))
    turn({run.x, run.order, run.input_mask, Resets<T>{}, run.sizes.features, run.sizes.gates},
         few.turned_x, 0);
}

// The gradients of the kernels, the sums of the slots and d_x of a chunk.
template <typename T>
void add_chunk(const FewBackward<T>& few, const Chunk& chunk, Team::Member& member) {
  const Backward<T>& run = *few.run;
  const auto [steps, batch, features, units, gates] = run.sizes;
  const int64_t panels = panels_of<T>(units),
                skipped =
                    chunk.t0 == 0 && few.zero_h && all_finite(few.slots(0), few.d_size() * batch)
                        ? batch
                        : 0;
  const int64_t parts = run.mask.per_gate() || run.input_mask.per_gate() ? gates : 1,
                turns = std::min<int64_t>(8, chunk.t1 - chunk.t0);
  const int64_t by_x = run.d_x ? (features + kFeaturePiece - 1) / kFeaturePiece : 0;
  for (int64_t part = 0; part < parts; ++part) {
    member.pieces(turns,
                  [&](int64_t n, int64_t) { turn_rows(few, chunk, part, skipped, n, turns); });
    // the panels of this part's gates: of U, of W; once, d_x and the sums
    const auto panels_for = [&, gates = gates](bool per_gate) {
      return per_gate ? panels : part == 0 ? gates * panels : 0;
    };
    const int64_t of_u = panels_for(run.mask.per_gate()),
                  of_w = panels_for(run.input_mask.per_gate());
    const int64_t once = part == 0 ? by_x + run.cell->slots * panels : 0;
    member.pieces(
        of_u + of_w + once, [&, units = units, features = features](int64_t n, int64_t index) {
          T* const packed = few.panels + index * few.panel_size();
          const auto add = [&](int64_t panel, bool per_gate, const int* slots, const T* turned,
                               int64_t size, int64_t rows_skipped, T* to) {
            add_panel(few, chunk, panel + (per_gate ? part * panels : 0), slots, turned, size,
                      rows_skipped, to, packed);
          };
          if (n < of_u)
            return add(n, run.mask.per_gate(), run.cell->recurrent_slots, few.turned_h, units,
                       skipped, few.to.recurrent);
          n -= of_u;
          if (n < of_w)
            return add(n, run.input_mask.per_gate(), kInputSlots, run.ids ? nullptr : few.turned_x,
                       features, 0, few.to.kernel);
          n -= of_w;
          if (n < by_x) return back_to_features(few, chunk, n);
          add_slots(few, chunk, n - by_x, packed);
        });
  }
}

// All steps, as one member of the team.
template <typename T>
void run_few_backward(const FewBackward<T>& few, Team::Member& member) {
  const int64_t steps = few.run->sizes.steps, units = few.run->sizes.units;
  for (int64_t t1 = steps; t1 > 0; t1 -= std::min(few.chunk, t1)) {
    const Chunk chunk{std::max<int64_t>(0, t1 - few.chunk), t1, t1 == steps};
    for (int64_t t = t1; t >= chunk.t0; --t) {  // finish step t, and begin step t - 1
      member.share([&](int64_t index, int64_t size) {
        over_share(units, index, size, [&](int64_t first, int64_t last) {
          if (t < t1) finish_step_back(few, t, chunk.t0, first, last);
          if (t > chunk.t0) few.through(few, t - 1, chunk.t0, first, last);
        });
      });
    }
    add_chunk(few, chunk, member);
  }
}

// Return the sums of the slots of `count` gates or further parameters.
template <typename T>
void take_sums(const FewBackward<T>& few, const int* slots, int64_t count, T* to) {
  const int64_t units = few.run->sizes.units, width = width_of<T>(units),
                panels = panels_of<T>(units);
  for (int64_t n = 0; n < count; ++n)
    std::copy_n(few.sums + slots[n] * panels * width, units, to + n * units);
}

// Return the number of steps in a chunk: its slots stay in a cache, and a panel of them in the L1
// cache.
template <typename T>
int64_t few_chunk(const Sizes& sizes, int64_t slots) {
  constexpr int64_t kBytes = 1 << 20, kMostRows = 256, kLeastRows = 32;
  const int64_t fit = kBytes / (slots * sizes.units * static_cast<int64_t>(sizeof(T)));
  const int64_t most = std::max<int64_t>(1, std::clamp(fit, kLeastRows, kMostRows) / sizes.batch),
                chunks = (sizes.steps + most - 1) / most;
  return (sizes.steps + chunks - 1) / chunks;
}

// The whole pass.
template <typename T>
void backward_few(ffi::ThreadPool pool, const Backward<T>& run, const T* kernel, const T* recurrent,
                  ThroughUnits<T> through, const Gradients<T>& to, int64_t threads) {
  const auto [steps, batch, features, units, gates] = run.sizes;
  FewBackward<T> few{&run,    kernel, recurrent,
                     through, to,     few_chunk<T>(run.sizes, run.cell->slots)};
  const int64_t rows = few.chunk * batch,
                sums = run.cell->slots * panels_of<T>(units) * width_of<T>(units),
                size = batch * units;
  const auto turned = [rows](int64_t count) { return (count + 2 * kRows) * rows; };
  const int64_t of_x = run.ids ? 0 : turned(features);
  Aligned<T> room(few.d_size() * rows + turned(units) + of_x + threads * few.panel_size() + sums);
  std::vector<int32_t> numbers(rows);
  std::iota(numbers.begin(), numbers.end(), 0);
  T* next = room.get();
  const auto take = [&](int64_t count) { return std::exchange(next, next + count); };
  few.panels = take(threads * few.panel_size());
  few.sums = take(sums);
  few.d = take(few.d_size() * rows);
  few.turned_h = take(turned(units));
  few.turned_x = take(of_x);
  few.numbers = numbers.data();
  few.zero_h = all_zero(run.all_h, size) && (!run.resets.at || all_zero(run.resets.h, size));
  std::copy_n(run.d_final_h, size, run.d_first_h);
  if (run.d_first_c) std::copy_n(run.d_final_c, size, run.d_first_c);
  if (run.d_reset_h) std::fill_n(run.d_reset_h, size, T(0));
  if (run.d_reset_c) std::fill_n(run.d_reset_c, size, T(0));
  Team::run(pool, threads, [&](Team::Member& member) { run_few_backward(few, member); });
  take_sums(few, run.cell->bias_slots, gates, to.bias);
  if (to.extras) take_sums(few, run.cell->extra_slots, run.cell->extras, to.extras);
}

}  // namespace
