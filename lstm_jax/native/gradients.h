// Gradients of the kernels, the bias and further parameters, which are sums over steps and rows,
// from the cell's slots of a chunk of steps.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <numeric>

#include "common.h"
#include "prefetch.h"
#include "repeats.h"
#include "vectors.h"

namespace {

template <typename T>
struct BackwardTile;

// Operands and results of one backward call, but for the gradients of the kernels, the bias and
// further parameters.
template <typename T>
struct Backward {
  Sizes sizes;
  const CellShape* cell;
  // the slots of step t, and d of the state before it but for the product with U, from d of the
  // state after it; t0 is the chunk's first step
  void (*through)(const Backward<T>& run, const BackwardTile<T>& tile, int64_t t, int64_t t0);
  // for a cell with late gates: the slot of the gate in `inner` and what it adds to d of h before
  // the step, from d of `inner`
  void (*through_inner)(const Backward<T>& run, const BackwardTile<T>& tile, int64_t t, int64_t t0);
  Order order;  // of x, d_h and d_x
  const T* x;
  const int32_t *ids, *tokens;
  const T *extras, *transposed_kernel,
      *transposed_recurrent;  // kernels packed by `pack_backward` or `pack_backward_pairs`
  Products products;          // kFull or kPairs
  Mask<T> input_mask, mask;
  const T *kept, *all_h, *all_c, *d_h, *d_final_h,
      *d_final_c;  // d_h may be null; c is null for a cell without c, here and below
  const uint8_t* valid;
  Resets<T> resets;
  T *d_first_h, *d_first_c, *d_reset_h, *d_reset_c,
      *d_x;  // d_x may be null, and d_reset_h and d_reset_c if there are no resets
  int64_t h_size() const { return cell->parts * sizes.units; }  // numbers of h in a row
  int64_t c_size() const { return cell->cells * sizes.units; }
};

// Gradients summed over the rows of one thread, in panels of `width` columns: d_kernel (G, panels,
// E, width), d_recurrent (G, panels, size of h, width), and the sums of the cell's slots, d_slots
// (slots, panels, width). With ids d_kernel is (E, GH).
template <typename T>
struct Sums {
  Sums(const Sizes& sizes, const CellShape& cell, bool ids)
      : width(width_of<T>(sizes.units)),
        panels(panels_of<T>(sizes.units)),
        kernel_size(sizes.features * sizes.gates * (ids ? sizes.units : panels * width)),
        recurrent_size((cell.recurrent ? sizes.gates : 0) * panels * cell.parts * sizes.units *
                       width),
        data(kernel_size + recurrent_size + cell.slots * panels * width) {
    d_kernel = data.get();
    d_recurrent = d_kernel + kernel_size;
    d_slots = d_recurrent + recurrent_size;
    if (ids)
      std::fill(d_kernel, d_recurrent,
                T(0));  // without ids, the first chunk overwrites the sums that are used
    std::fill(d_slots, d_slots + cell.slots * panels * width, T(0));
  }
  int64_t width, panels, kernel_size, recurrent_size;
  Aligned<T> data;
  T *d_kernel, *d_recurrent, *d_slots;
};

// Numbers of some rows of a chunk. Row number k is row k % rows of the tile at step k / rows of the
// chunk.
struct ChunkRows {
  const int32_t* numbers;
  int64_t count;
};

// The buffers of one tile of rows: the cell's slots of a chunk, d_z (slots, panels, rows of the
// chunk, width); x or h transposed (groups of columns, rows of the chunk, columns of a group); and
// the sums of `back_block`, twice (rows of the chunk, at most kVectors vectors).
template <typename T>
struct BackwardTile {
  int64_t first, rows, chunk, width, panels;
  T *d_z, *transposed, *partial, *d_inner;
  T* row;            // the slots of one row (slots, H), for layernorm.h only
  int32_t* numbers;  // room for the numbers of the chunk's rows
  T *pairs,
      *pair_rows;  // for products of bfloat16 numbers: room for d_z, and for the rows of x or h
  Prefetcher* prefetcher;
  T* panel(int64_t slot, int64_t number) const {
    return d_z + (slot * panels + number) * chunk * rows * width;
  }
  T* pair_panel(int64_t slot, int64_t number) const {
    return pairs + (slot * panels + number) * chunk * rows * width / 2;
  }
};

// The factors of a product's rows (T, B, size) or (B, T, size): data, after a reset the row of
// `resets` instead; times the mask of the gate; and for late gates, times the kept number
// `late_factor` of the step.
template <typename T>
struct OuterRows {
  const T* data;
  Order order;
  const Mask<T>& mask;
  const Resets<T>& resets;
  int64_t size, first_late;
  int64_t first_part_gate = -1,
          first_part = 0;  // of this gate, only the first `first_part` columns are multiplied; -1
                           // if there is no such gate
};

// One of these rows; mask and factor may be null.
template <typename T>
struct OuterRow {
  const T *from, *mask, *factor;
  OuterRow(const Backward<T>& run, const BackwardTile<T>& tile, const OuterRows<T>& of,
           int64_t gate, int64_t t0, int64_t k) {
    const int64_t t = t0 + k / tile.rows, row = tile.first + k % tile.rows,
                  at = t * run.sizes.batch + row;
    from = of.resets.starts(t, row) ? of.resets.h + row * of.size
                                    : of.data + of.order.at(t, row) * of.size;
    mask = of.mask.kinds ? of.mask.row(gate, row) : nullptr;
    factor = gate >= of.first_late
                 ? run.kept + (at * run.cell->kept + run.cell->late_factor) * of.size
                 : nullptr;
  }
  Vec<T> vector(int64_t n, int count) const {
    Vec<T> numbers = load(from + n, count);
    if (mask) numbers *= load(mask + n, count);
    if (factor) numbers *= load(factor + n, count);
    return numbers;
  }
};

// Copy rows first..last-1 of `rows` to tile.transposed, in groups of at most MAX columns. t0 is the
// chunk's first step.
template <typename T, int MAX>
LSTM_INLINE void transpose_rows(const Backward<T>& run, const BackwardTile<T>& tile,
                                const OuterRows<T>& of, int64_t gate, int64_t t0, ChunkRows rows,
                                int64_t first, int64_t last) {
  const int64_t size = of.size, groups = (size + MAX - 1) / MAX;
  if (size == 0) return;
  // the groups of `over_groups`, without a division for each: they have COUNT columns or one more
  with_rows<MAX>(size / groups, [&](auto COUNT) {
    const int64_t longer = size % groups;
    for (int64_t n = first; n < last; ++n) {
      const auto [from, mask, factor] = OuterRow<T>(run, tile, of, gate, t0, rows.numbers[n]);
      T* to = tile.transposed + n * MAX;
      for (int64_t at = 0, rest = 0; at < size; to += rows.count * MAX) {
        rest += longer;
        const bool one_more = rest >= groups;
        if (one_more) {
          rest -= groups;
          to[COUNT] = from[at + COUNT];
          if (mask) to[COUNT] *= mask[at + COUNT];
          if (factor) to[COUNT] *= factor[at + COUNT];
        }
        T group[COUNT];
        std::memcpy(group, from + at, sizeof(group));
        for (int j = 0; mask && j < COUNT; ++j) group[j] *= mask[at + j];
        for (int j = 0; factor && j < COUNT; ++j) group[j] *= factor[at + j];
        std::memcpy(to, group, sizeof(group));
        at += COUNT + one_more;
      }
    }
  });
}

// `transpose_rows` for pairs of rows; a last single row is paired with zeros.
template <typename T, int MAX>
LSTM_INLINE void transpose_pairs(const Backward<T>& run, const BackwardTile<T>& tile,
                                 const OuterRows<T>& of, int64_t gate, int64_t t0, ChunkRows rows) {
  const int64_t size = of.size, depth = depth_of(rows.count, kPairs);
  for (int64_t n = 0; n < rows.count; n += 2) {
    const bool both = n + 1 < rows.count;
    const OuterRow<T> first(run, tile, of, gate, t0, rows.numbers[n]),
        second(run, tile, of, gate, t0, rows.numbers[both ? n + 1 : n]);
    T* const to = tile.pair_rows + n / 2 * size;
    over_vectors<T>(0, size, [&](int64_t at, int count) __attribute__((always_inline)) {
      store(to + at,
            pairs_of<T>(first.vector(at, count), both ? second.vector(at, count) : Vec<T>{}),
            count);
    });
  }
  T* to = tile.transposed;
  over_groups(size, MAX, [&](int64_t begin, int64_t count) {
    with_rows<MAX>(count, [&](auto COUNT) {
      for (int64_t n = 0; n < depth; ++n, to += MAX)
        std::memcpy(to, tile.pair_rows + n * size + begin, COUNT * sizeof(T));
    });
  });
}

// The slots of x W are those of the gates' own numbers.
constexpr int kInputSlots[kMostGates] = {0, 1, 2, 3};

// sums[gate] += (rows * mask of the gate)^T d_z of slots[gate] over the chunk's rows `rows` of data
// (T, B, size) or (B, T, size); if `first`, sums[gate] is overwritten. d_z of these rows lie in the
// order of `rows` from number `begin` on. t0 is the chunk's first step. The sums of vectors that
// are not in use stay as they are, and `gather` does not read them. kMax is that of whole panels,
// by which `transposed` is grouped.
template <typename T, int VECTORS, Products P>
void add_outer(const Backward<T>& run, const BackwardTile<T>& tile, const OuterRows<T>& of,
               const int* slots, int64_t t0, ChunkRows rows, int64_t begin, bool first, T* sums) {
  constexpr int kMax = max_rows(VECTORS);
  const int64_t depth = depth_of(rows.count, P), offset = begin * tile.width;
  for (int64_t gate = 0; gate < run.sizes.gates; ++gate) {
    if (gate == 0 || gate == of.first_late || of.mask.per_gate()) {
      if constexpr (P == kPairs)
        transpose_pairs<T, kMax>(run, tile, of, gate, t0, rows);
      else
        transpose_rows<T, kMax>(run, tile, of, gate, t0, rows, 0, depth);
    }
    for (int64_t panel = 0; panel < tile.panels; ++panel) {
      const T* d_z = tile.panel(slots[gate], panel) + offset;
      if constexpr (P == kPairs) {
        const int64_t width = tile.width;
        for (int64_t n = 0; n < depth; ++n)
          pack_pairs(d_z + 2 * n * width, width, 2 * n + 1 < rows.count, width, width,
                     tile.pairs + n * width);
        d_z = tile.pairs;
      }
      const T* a = tile.transposed;
      const int64_t used_rows = gate == of.first_part_gate ? of.first_part : of.size;
      over_groups(of.size, kMax, [&](int64_t begin, int64_t count) {
        tile.prefetcher->fetch();
        if (begin < used_rows)
          with_rows<kMax>(count, [&](auto ROWS) {
            constexpr int kCount = ROWS;
            with_used<T, VECTORS>(run.sizes.units - panel * tile.width, [&](auto USED) {
              Vec<T> part[kCount][USED];
              LSTM_UNROLL for (int r = 0; r < kCount; ++r) {
                LSTM_UNROLL for (int v = 0; v < USED; ++v) part[r][v] =
                    first ? Vec<T>{} : load(sums + r * tile.width + v * kLanes<T>);
              }
              multiply<T, kCount, USED, P>(part, a, 1, kMax, d_z, depth, tile.width);
              LSTM_UNROLL for (int r = 0; r < kCount; ++r) {
                LSTM_UNROLL for (int v = 0; v < USED; ++v)
                    store(sums + r * tile.width + v * kLanes<T>, part[r][v]);
              }
            });
          });
        a += depth * kMax;
        const int64_t unused = std::clamp<int64_t>(begin + count - used_rows, 0, count);
        if (first || begin < used_rows)
          std::fill_n(sums + (count - unused) * tile.width, unused * tile.width, T(0));
        sums += count * tile.width;
      });
    }
  }
}

// sums += the rows of a panel of d_z.
template <typename T, int VECTORS>
void add_rows(const T* d_z, int64_t rows, T* sums) {
  Vec<T> part[VECTORS];
  for (int v = 0; v < VECTORS; ++v) part[v] = load(sums + v * kLanes<T>);
  for (int64_t n = 0; n < rows; ++n, d_z += VECTORS * kLanes<T>) {
    for (int v = 0; v < VECTORS; ++v) part[v] += load(d_z + v * kLanes<T>);
  }
  for (int v = 0; v < VECTORS; ++v) store(sums + v * kLanes<T>, part[v]);
}

// Add d_z of each row of the chunk to the row of d_kernel of its id.
template <typename T>
void add_by_id(const Backward<T>& run, const BackwardTile<T>& tile, int64_t t0, int64_t depth,
               T* d_kernel) {
  const int64_t batch = run.sizes.batch, units = run.sizes.units;
  for (int64_t k = 0; k < depth; ++k) {
    const int32_t id = run.ids[(t0 + k / tile.rows) * batch + tile.first + k % tile.rows];
    T* const row = const_cast<T*>(kernel_row<T>(d_kernel, id, run.sizes));
    for (int64_t panel = 0; row && panel < run.sizes.gates * tile.panels; ++panel) {
      const int64_t column = panel % tile.panels * tile.width,
                    end = std::min(tile.width, units - column);
      T* const to = row + panel / tile.panels * units + column;
      const T* const d_z = tile.panel(0, panel) + k * tile.width;
      for (int64_t n = 0; n < end; n += kLanes<T>) {
        const int count = std::min<int64_t>(kLanes<T>, end - n);
        store(to + n, load(to + n, count) + load(d_z + n), count);
      }
    }
  }
}

// Add d_z of rows with a repeated x to the row that has this x first, which is processed last, and
// move the other rows up. Returns the number of rows left; their numbers are in tile.numbers.
template <typename T>
int64_t add_repeats(const BackwardTile<T>& tile, const Repeats<T>& repeats, int64_t gates,
                    int64_t t0) {
  const int64_t depth = tile.chunk * tile.rows, before = t0 * tile.rows,
                panels = gates * tile.panels, width = tile.width;
  int64_t count = 0;
  for (int64_t k = 0; k < depth; ++k) {
    T* const kept = repeats.repeated(before + k);
    if (!kept) tile.numbers[count++] = k;
    for (int64_t panel = 0; kept && panel < panels; ++panel) {
      const T* const d_z = tile.panel(0, panel) + k * width;
      for (int64_t n = 0; n < width; n += kLanes<T>)
        store(kept + panel * width + n, load(kept + panel * width + n) + load(d_z + n));
    }
  }
  for (int64_t n = 0; n < count; ++n) {
    const T* const kept = repeats.begins(before + tile.numbers[n]);
    if (!kept && tile.numbers[n] == n) continue;
    for (int64_t panel = 0; panel < panels; ++panel) {
      T* const rows = tile.panel(0, panel);
      for (int64_t at = 0; at < width; at += kLanes<T>) {
        const Vec<T> d_z = load(rows + tile.numbers[n] * width + at);
        store(rows + n * width + at, kept ? d_z + load(kept + panel * width + at) : d_z);
      }
    }
  }
  return count;
}

// Add the gradients of the kernels and the sums of the slots from d_z of steps t0..t1-1; return the
// rows whose d_z are left for d_x, moved to the front.
template <typename T>
ChunkRows add_gradients(const Backward<T>& run, const BackwardTile<T>& tile,
                        const Repeats<T>& repeats, int64_t t0, int64_t t1, bool first,
                        const Sums<T>& sums) {
  const auto [steps, batch, features, units, gates] = run.sizes;
  const int64_t depth = (t1 - t0) * tile.rows;
  const auto outer = [&](const OuterRows<T>& of, const int* slots, ChunkRows rows, int64_t begin,
                         T* to) {
    with_products<T, false>(run.sizes.units, run.products, [&](auto VECTORS, auto P) {
      add_outer<T, VECTORS, P>(run, tile, of, slots, t0, rows, begin, first, to);
    });
  };
  for (int64_t panel = 0; panel < run.cell->slots * tile.panels; ++panel) {
    with_vectors<T>(units, [&](auto VECTORS) {
      add_rows<T, VECTORS>(tile.panel(0, panel), depth, sums.d_slots + panel * tile.width);
    });
  }
  if (run.ids) add_by_id(run, tile, t0, depth, sums.d_kernel);
  std::iota(tile.numbers, tile.numbers + depth, 0);
  const int64_t start = tile.first * run.h_size(), size = tile.rows * run.h_size();
  const bool zero_h = t0 == 0 && all_zero(run.all_h + start, size) &&
                      (!run.resets.at || all_zero(run.resets.h + start, size));
  const int64_t begin =
      zero_h && all_finite(sums.d_slots, run.cell->slots * tile.panels * tile.width) ? tile.rows
                                                                                     : 0;
  const OuterRows<T> of_h{run.all_h,
                          order_of(run.sizes, false),
                          run.mask,
                          run.resets,
                          run.h_size(),
                          gates - run.cell->late_gates,
                          run.cell->first_part_gate,
                          units};
  const OuterRows<T> of_x{run.x, run.order, run.input_mask, Resets<T>{}, features, gates};
  if (run.cell->recurrent)
    outer(of_h, run.cell->recurrent_slots, {tile.numbers + begin, depth - begin}, begin,
          sums.d_recurrent);
  if (!run.x) return {tile.numbers, 0};
  const ChunkRows rows{tile.numbers, repeats.any() ? add_repeats(tile, repeats, gates, t0) : depth};
  outer(of_x, kInputSlots, rows, 0, sums.d_kernel);
  return rows;
}

}  // namespace
