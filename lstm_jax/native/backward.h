// The backward pass over time, for some rows of the batch.
#pragma once

#include <cstring>
#include <vector>

#include "cell.h"
#include "gradients.h"

namespace {

// Partial results of `back` for one panel of columns: (rows, columns of the vectors in use) sums
// over the part of the inner dimension done so far, and, for masks that differ between the gates,
// the total over gates.
template <typename T>
struct BackPartial {
  T *sums, *total;
};

// A product of the slots d_z with a transposed kernel: for h before the step, or for x.
template <typename T>
struct BackProduct {
  const Mask<T>& mask;
  const int* slots;  // of each gate
  int64_t gates, units, size;
  const T* kernel;
  int64_t first_gate, last_gate;  // gates first_gate..last_gate-1 are added
  bool adds;                      // to what `out` has
  Products products;              // kFull or kPairs
  int64_t first_part_gate = -1,
          first_part = 0;  // the gate, if any, that has zeros in the columns from `first_part` on
  int64_t count() const { return last_gate - first_gate; }
};

// out[r] = the sum over gates of mask * (d_z kernel^T), VECTORS vectors from `column` on, for ROWS
// rows of the chunk from `row` on. Only panels first..last-1 of all gates are added; the last ones
// complete the result. width: numbers in a row of `kernel`, of which these VECTORS vectors come
// first. numbers: the rows' numbers in the batch. A row whose `out` is null is skipped.
template <typename T, int ROWS, int VECTORS, Products P>
void back_block(const BackwardTile<T>& tile, const BackProduct<T>& product, int64_t row,
                int64_t column, const T* kernel, int64_t width, int64_t first, int64_t last,
                const BackPartial<T>& partial, const int64_t* numbers, T* const* out) {
  constexpr int64_t kUsed = VECTORS * kLanes<T>;
  const Mask<T>& mask = product.mask;
  const bool per_gate = mask.per_gate();
  const int64_t units = product.units, gate = first / tile.panels,
                start = product.first_gate * tile.panels,
                count = per_gate ? tile.panels : product.count() * tile.panels,
                row_size = depth_of(tile.width, P);
  Vec<T> sums[ROWS][VECTORS];
  LSTM_UNROLL for (int r = 0; r < ROWS; ++r) {
    LSTM_UNROLL for (int v = 0; v < VECTORS; ++v) sums[r][v] =
        (first - start) % count == 0 ? Vec<T>{} : load(partial.sums + r * kUsed + v * kLanes<T>);
  }
  int64_t of_gate = gate,
          number = first - gate * tile.panels;  // kept up to date, since a division takes as long
                                                // as some steps of the product
  for (int64_t panel = first; panel < last; ++panel) {
    tile.prefetcher->fetch();
    const int64_t from = number * tile.width,
                  depth = depth_of(std::min(tile.width, units - from), P);
    const T* const a = P == kPairs ? tile.pair_panel(product.slots[of_gate], number)
                                   : tile.panel(product.slots[of_gate], number);
    const T* const b = kernel + (of_gate * depth_of(units, P) + depth_of(from, P)) * width;
    multiply<T, ROWS, VECTORS, P>(sums, a + row * row_size, row_size, 1, b, depth, width);
    if (++number == tile.panels) number = 0, ++of_gate;
  }
  if ((last - start) % count != 0) {
    LSTM_UNROLL for (int r = 0; r < ROWS; ++r) {
      LSTM_UNROLL for (int v = 0; v < VECTORS; ++v)
          store(partial.sums + r * kUsed + v * kLanes<T>, sums[r][v]);
    }
    return;
  }
  const bool complete = last == product.last_gate * tile.panels;
  const auto finish = [&](int r, int v, Vec<T> d, int lanes) __attribute__((always_inline)) {
    const int64_t at = column + v * kLanes<T>;
    if (mask.kinds) d *= load(mask.row(gate, numbers[r]) + at, lanes);
    T* const total = partial.total + r * kUsed + v * kLanes<T>;
    if (per_gate && gate > product.first_gate) d += load(total);
    if (complete && product.adds) d += load(out[r] + at, lanes);
    if (complete) store(out[r] + at, d, lanes);
    if (!complete) store(total, d);
  };
  if (column + kUsed <= product.size) {
    LSTM_UNROLL for (int r = 0; r < ROWS; ++r) {
      if (!out[r]) continue;
      LSTM_UNROLL for (int v = 0; v < VECTORS; ++v) finish(r, v, sums[r][v], kLanes<T>);
    }
    return;
  }
  Vec<T> part[ROWS]
             [VECTORS];  // a copy, so that `sums` has constant indices only and stays in registers
  LSTM_UNROLL for (int r = 0; r < ROWS; ++r) {
    LSTM_UNROLL for (int v = 0; v < VECTORS; ++v) part[r][v] = sums[r][v];
  }
  for (int r = 0; r < ROWS; ++r) {
    for (int v = 0; out[r] && column + v * kLanes<T> < product.size; ++v) {
      finish(r, v, part[r][v], std::min<int64_t>(product.size - column - v * kLanes<T>, kLanes<T>));
    }
  }
}

// `back_block` for `rows` rows of the chunk from `row` on and all columns; address(n, number, out)
// gives row n's number in the batch and its `out`.
template <typename T, int VECTORS, Products P, typename Address>
void back_rows(const BackwardTile<T>& tile, const BackProduct<T>& product, int64_t row,
               int64_t rows, const Address& address) {
  constexpr int64_t kWidth = VECTORS * kLanes<T>;
  const int64_t piece = product.units > kDepthPiece ? std::max<int64_t>(1, kDepthPiece / tile.width)
                                                    : product.count() * tile.panels;
  const T* kernel = product.kernel;
  for (int64_t gate = product.first_gate; P == kPairs && gate < product.last_gate; ++gate) {
    for (int64_t number = 0; number < tile.panels; ++number) {
      const int64_t slot = product.slots[gate], at = row * tile.width;
      round_row<T>(tile.panel(slot, number) + at, nullptr, rows * tile.width,
                   tile.pair_panel(slot, number) + at / 2);
    }
  }
  const auto panels = [&](auto USED, int64_t column, int64_t begin_panel, int64_t end_panel) {
    constexpr int kVectorsUsed = USED, kMax = max_rows(kVectorsUsed);
    constexpr int64_t kUsed = kVectorsUsed * kLanes<T>;
    over_groups(end_panel - begin_panel, piece, [&](int64_t first, int64_t panel_count) {
      first += begin_panel;
      over_groups(rows, kMax, [&](int64_t begin, int64_t count) {
        int64_t numbers[kMax];
        T* out[kMax];
        for (int64_t n = 0; n < count; ++n) address(row + begin + n, numbers[n], out[n]);
        const BackPartial<T> partial{tile.partial + begin * kUsed,
                                     tile.partial + (rows + begin) * kUsed};
        with_rows<kMax>(count, [&](auto ROWS) {
          back_block<T, ROWS, kVectorsUsed, P>(tile, product, row + begin, column, kernel, kWidth,
                                               first, first + panel_count, partial, numbers, out);
        });
      });
    });
  };
  for (int64_t column = 0; column < product.size;
       column += kWidth, kernel += product.gates * depth_of(product.units, P) * kWidth) {
    const int64_t groups = product.mask.per_gate() ? product.count() : 1,
                  count = product.count() / groups * tile.panels;
    const int64_t start = product.first_gate * tile.panels;
    const int64_t skipped = column < product.first_part ? -1 : product.first_part_gate,
                  skip = skipped * tile.panels;
    with_used<T, VECTORS>(product.size - column, [&](auto USED) {
      for (int64_t n = 0; n < groups; ++n) {
        const int64_t first = start + n * count, last = first + count;
        if (skipped < 0 || skip < first || skip >= last) {
          panels(USED, column, first, last);
        } else if (groups == 1) {
          panels(USED, column, first, skip);
          panels(USED, column, skip + tile.panels, last);
        }
      }
    });
  }
}

template <typename T, typename Address>
void back(const BackwardTile<T>& tile, const BackProduct<T>& product, int64_t row, int64_t rows,
          const Address& address) {
  with_products<T, false>(product.size, product.products, [&](auto VECTORS, auto P) {
    back_rows<T, VECTORS, P>(tile, product, row, rows, address);
  });
}

// Call f(r, valid, now, d_h, d_c, slots) for each vector of each row of the tile at step t: `now`
// has the numbers of the cell; d_h and d_c are the vector's addresses in d of the state, and slots
// the one of slot 0.
template <typename T, typename Cell, typename F>
LSTM_INLINE void over_tile(const Backward<T>& run, const BackwardTile<T>& tile, int64_t t,
                           int64_t t0, const F& f) {
  const int64_t batch = run.sizes.batch, units = run.sizes.units, width = Cell::kParts * units,
                c_width = Cell::kCells * units, panel = tile.chunk * tile.rows * tile.width;
  for (int64_t r = 0; r < tile.rows; ++r) {
    const int64_t row = tile.first + r, before = t * batch + row, after = before + batch;
    const bool valid = !run.valid || run.valid[before], starts = run.resets.starts(t, row);
    T *const d_h = run.d_first_h + row * width, *const d_c = Cell::kCells
                                                                 ? run.d_first_c + row * c_width
                                                                 : nullptr;
    const T* const kept = Cell::kKept ? run.kept + before * Cell::kKept * units : nullptr;
    const T* const h_before = starts ? run.resets.h + row * width : run.all_h + before * width;
    const T* const c_before = !Cell::kCells ? nullptr
                              : starts      ? run.resets.c + row * c_width
                                            : run.all_c + before * c_width;
    const T *const h = run.all_h + after * width, *const c = Cell::kCells
                                                                 ? run.all_c + after * c_width
                                                                 : nullptr;
    T* const slots = tile.d_z + ((t - t0) * tile.rows + r) * tile.width;
    for (int64_t number = 0; number < tile.panels; ++number) {
      const int64_t column = number * tile.width, end = std::min(tile.width, units - column);
      over_vectors<T>(0, end, [&](int64_t n, int count) __attribute__((always_inline)) {
        const Units<T> now{units, column + n, count, run.extras, kept, h_before, c_before, h, c};
        f(r, valid, now, d_h + column + n, d_c + column + n, slots + number * panel + n);
      });
    }
  }
}

// `Backward::through` of a cell. d of the state is in d_first_h and d_first_c.
template <typename T, typename Cell>
void through_cell(const Backward<T>& run, const BackwardTile<T>& tile, int64_t t, int64_t t0) {
  static_assert(Cell::kParts == 1 || !Cell::kDirect, "one d of h before the step");
  const int64_t units = run.sizes.units, slot = tile.panels * tile.chunk * tile.rows * tile.width;
  const T* const d_outputs = run.d_h ? run.d_h + run.order.at(t, tile.first) * units : nullptr;
  over_tile<T, Cell>(
      run, tile, t, t0,
      [&](int64_t r, bool valid, const Units<T>& now, T* d_h, T* d_c,
          T* slots) __attribute__((always_inline)) {
        Vec<T> d[Cell::kParts];
        LSTM_UNROLL for (int n = 0; n < Cell::kParts; ++n) d[n] = load(d_h + n * units, now.count);
        if (d_outputs) d[0] += load(d_outputs + r * run.order.row * units + now.at, now.count);
        constexpr int kCells = std::max(1, Cell::kCells);
        Vec<T> d_slots[Cell::kSlots] = {}, d_h_before = d[0], by_c[kCells] = {}, d_c_before[kCells];
        if (valid) {
          LSTM_UNROLL for (int n = 0; n < Cell::kCells; ++n) by_c[n] =
              load(d_c + n * units, now.count);
          Cell::backward(now, parts_of<T>(d), parts_of<T>(by_c), d_slots, d_h_before,
                         parts_of<T>(d_c_before));
          LSTM_UNROLL for (int n = 0; n < Cell::kCells; ++n)
              store(d_c + n * units, d_c_before[n], now.count);
        }
        // without kDirect, the product with U will overwrite d_h of a step that is not padding
        if (Cell::kDirect || d_outputs) store(d_h, d_h_before, now.count);
        for (int n = 0; n < Cell::kSlots; ++n) store(slots + n * slot, d_slots[n]);
      });
}

// `Backward::through_inner` of a cell with late gates. d of `inner` is in tile.d_inner.
template <typename T, typename Cell>
void through_inner(const Backward<T>& run, const BackwardTile<T>& tile, int64_t t, int64_t t0) {
  const int64_t units = run.sizes.units, slot = tile.panels * tile.chunk * tile.rows * tile.width;
  over_tile<T, Cell>(run, tile, t, t0,
                     [&](int64_t r, bool valid, const Units<T>& now, T* d_h, T*,
                         T* slots) __attribute__((always_inline)) {
                       if (!valid) return;
                       T* const inner_slot = slots + Cell::kInnerSlot * slot;
                       Vec<T> d_slot = load(inner_slot), d_h_before = load(d_h, now.count);
                       Cell::backward_inner(now, load(tile.d_inner + r * units + now.at, now.count),
                                            d_slot, d_h_before);
                       store(d_h, d_h_before, now.count);
                       store(inner_slot, d_slot);
                     });
}

// Move d_h and d_c of the tile's rows that are reset before step t from the step before to the
// reset state.
template <typename T>
void back_to_resets(const Backward<T>& run, const BackwardTile<T>& tile, int64_t t) {
  const auto move = [](int64_t row, int64_t size, T* from, T* to) {
    for (int64_t n = row * size; n < (row + 1) * size; ++n) {
      to[n] += from[n];
      from[n] = 0;
    }
  };
  for (int64_t row = tile.first; run.resets.at && row < tile.first + tile.rows; ++row) {
    if (!run.resets.starts(t, row)) continue;
    move(row, run.h_size(), run.d_first_h, run.d_reset_h);
    if (run.d_first_c) move(row, run.c_size(), run.d_first_c, run.d_reset_c);
  }
}

// Add what step t reads to the ranges to prefetch; h after it was added with step t + 1.
template <typename T>
void prefetch_step(const Backward<T>& run, const BackwardTile<T>& tile, int64_t t) {
  const int64_t units = run.sizes.units, width = run.h_size(), kept = run.cell->kept,
                row = t * run.sizes.batch + tile.first;
  const auto add = [&](const T* array, int64_t size) {
    if (array) tile.prefetcher->add(array + row * size, tile.rows * size * sizeof(T));
  };
  add(run.kept, kept * units);
  add(run.all_c, run.c_size());
  if (run.d_h)
    tile.prefetcher->add_steps(run.d_h, run.order, units, t, t + 1, tile.first, tile.rows);
  add(run.all_h, width);
}

// Set the ranges to prefetch while the gradients of steps t0..t1-1 are added: x, and what the step
// before reads. Without U, all products of a chunk come after its steps, so that x has been read;
// then what the chunk before reads, as far as the cache has room.
template <typename T>
void prefetch_chunk(const Backward<T>& run, const BackwardTile<T>& tile, int64_t t0, int64_t t1) {
  const int64_t features = run.sizes.features;
  Prefetcher& prefetcher = *tile.prefetcher;
  const auto add_x = [&](int64_t from, int64_t to) {
    if (run.x) prefetcher.add_steps(run.x, run.order, features, from, to, tile.first, tile.rows);
  };
  prefetcher.clear();
  if (run.cell->recurrent) {
    add_x(t0, t1);
    if (t0 > 0) prefetch_step(run, tile, t0 - 1);
    return;
  }
  for (int64_t t = t0 - 1;
       t >= std::max<int64_t>(0, t0 - tile.chunk) && prefetcher.bytes() < kPrefetchedBytes; --t) {
    prefetch_step(run, tile, t);
    add_x(t, t + 1);
  }
}

// Step t: d_z, and d_h of the step before.
template <typename T>
void backward_step(const Backward<T>& run, const BackwardTile<T>& tile, int64_t t, int64_t t0) {
  const int64_t batch = run.sizes.batch, units = run.sizes.units, width = run.h_size(),
                first = tile.first, rows = tile.rows;
  run.through(run, tile, t, t0);
  if (t > 0 && run.cell->recurrent) {  // without U, the products that fetch come after the chunk
    tile.prefetcher->clear();
    prefetch_step(run, tile, t - 1);
  }
  // d_h of the step before; if `inner`, of the late gates' factor instead. At a step that is not
  // valid, d_h stays as it is.
  const auto product = [&](int64_t first_gate, int64_t last_gate, bool inner) {
    const BackProduct<T> of_h{run.mask,
                              run.cell->recurrent_slots,
                              run.sizes.gates,
                              units,
                              width,
                              run.transposed_recurrent,
                              first_gate,
                              last_gate,
                              run.cell->direct && !inner,
                              run.products,
                              run.cell->first_part_gate,
                              units};
    back(tile, of_h, (t - t0) * rows, rows, [&](int64_t k, int64_t& number, T*& out) {
      number = first + k - (t - t0) * rows;
      const bool valid = !run.valid || run.valid[t * batch + number];
      out = !valid  ? nullptr
            : inner ? tile.d_inner + (number - first) * units
                    : run.d_first_h + number * width;
    });
  };
  const int64_t early = run.sizes.gates - run.cell->late_gates;
  if (run.cell->late_gates) {
    product(early, run.sizes.gates, true);
    run.through_inner(run, tile, t, t0);
  }
  if (run.cell->recurrent) product(0, early, false);
  back_to_resets(run, tile, t);
}

// d_x of steps t0..t1-1 from d_z of `chunk_rows`; zeros at the other rows, which repeat an x.
template <typename T>
void back_to_x(const Backward<T>& run, const BackwardTile<T>& tile, const Repeats<T>& repeats,
               int64_t t0, int64_t t1, ChunkRows chunk_rows) {
  const auto [steps, batch, features, units, gates] = run.sizes;
  const int64_t first = tile.first, rows = tile.rows;
  for (int64_t k = 0; k < (t1 - t0) * rows && chunk_rows.count < (t1 - t0) * rows; ++k) {
    if (repeats.repeated(t0 * rows + k))
      std::fill_n(run.d_x + run.order.at(t0 + k / rows, first + k % rows) * features, features,
                  T(0));
  }
  const BackProduct<T> product{run.input_mask,        kInputSlots, gates, units, features,
                               run.transposed_kernel, 0,           gates, false, run.products};
  back(tile, product, 0, chunk_rows.count,
       [&, first = first, rows = rows, features = features](int64_t n, int64_t& number, T*& out) {
         const int64_t k = chunk_rows.numbers[n];
         number = first + k % rows;
         out = run.d_x + run.order.at(t0 + k / rows, number) * features;
       });
}

// All T steps of rows first..last-1. `begins`: these are the first rows added to `sums`.
template <typename T>
void run_backward_tile(const Backward<T>& run, const Sums<T>& sums, int64_t first, int64_t last,
                       bool begins) {
  const auto [steps, batch, features, units, gates] = run.sizes;
  // the gradients of large kernels do not stay in the cache: longer chunks, so that there are fewer
  // passes over them
  const int64_t chunk_rows =
      std::max({kChunkRows, std::min<int64_t>(96, units * 3 / 4), units / 2});
  const int64_t rows = last - first, size = rows * units, width = run.h_size(),
                c_width = run.c_size(), chunk = chunk_steps(rows, steps, chunk_rows);
  const int64_t largest = std::max(width, run.x ? features : 0),
                d_z_size = run.cell->slots * sums.panels * sums.width * chunk * rows;
  Aligned<T> partial(2 * chunk * rows * kVectors * kLanes<T>);
  Aligned<T> d_z(d_z_size), transposed((largest + 2 * kRows) * chunk * rows);
  Aligned<T> d_inner(run.cell->late_gates ? size : 0),
      row(run.cell->whole_rows ? run.cell->slots * units : 0);
  const bool narrow = run.products == kPairs;
  Aligned<T> pairs(narrow ? d_z_size / 2 + sums.width : 0),
      pair_rows(narrow ? largest * depth_of(chunk * rows, kPairs) : 0);
  Prefetcher prefetcher;
  std::vector<int32_t> numbers(chunk * rows);
  BackwardTile<T> tile{first,
                       rows,
                       chunk,
                       sums.width,
                       sums.panels,
                       d_z.get(),
                       transposed.get(),
                       partial.get(),
                       d_inner.get(),
                       row.get(),
                       numbers.data(),
                       pairs.get(),
                       pair_rows.get(),
                       &prefetcher};
  const Repeats<T> repeats(run.tokens, steps, batch, first, last, gates * sums.panels * sums.width);
  std::fill(d_z.get(), d_z.get() + d_z_size, T(0));  // columns that fill up a panel enter no result
  std::memcpy(run.d_first_h + first * width, run.d_final_h + first * width,
              rows * width * sizeof(T));
  if (run.d_first_c)
    std::memcpy(run.d_first_c + first * c_width, run.d_final_c + first * c_width,
                rows * c_width * sizeof(T));
  if (run.resets.at) {
    std::fill_n(run.d_reset_h + first * width, rows * width, T(0));
    if (run.d_reset_c) std::fill_n(run.d_reset_c + first * c_width, rows * c_width, T(0));
  }
  for (int64_t t1 = steps; t1 > 0; t1 -= std::min(chunk, t1)) {
    const int64_t t0 = std::max<int64_t>(0, t1 - chunk);
    tile.chunk = t1 - t0;
    for (int64_t t = t1 - 1; t >= t0; --t) backward_step(run, tile, t, t0);
    prefetch_chunk(run, tile, t0, t1);
    const ChunkRows left = add_gradients(run, tile, repeats, t0, t1, begins && t1 == steps, sums);
    if (run.d_x) back_to_x(run, tile, repeats, t0, t1, left);
  }
}

}  // namespace
