// The LSTM over time for CPUs, forward and backward, each in one call through XLA's foreign function interface. Same values as hoisted.py.
//
// Rows of a batch do not depend on each other, so threads take rows and never wait for each other; only the gradients of the kernels are
// sums over all of them. A thread goes through time in stretches of some steps, short enough for what passes between the products of a
// stretch to stay in its cache: forward x W for the stretch and then its steps, backward its steps and then the gradients of x, W and U.
// Of each step's product h U the four gates of a vector of units stay in registers, where the gates' functions follow at once.
// Where tokens say that a row reads the same x again, forward takes over its product, and backward adds up d_z before products with it.
// Kept for the backward pass are the gates, h and c; writing more costs more than computing it again. They are more than the caches hold, so
// they are written past them, and fetched ahead of their step.

#include <numeric>

#include "gates.h"
#include "lstm_contract.h"
#include "products.h"
#include "repeats.h"
#include "threads.h"
#include "vectors.h"

namespace {

struct Sizes {
  int64_t steps, batch, features, units;
};

// A dropout mask, constant over time: none, one for all gates (B, size), or one a gate (4, B, size).
template <typename T>
struct Mask {
  int64_t kinds = 0;
  const T* data = nullptr;
  int64_t batch = 0, size = 0;
  const T* row(int64_t gate, int64_t row) const { return data + ((kinds == kGates ? gate * batch : 0) + row) * size; }
};

// Steps in a stretch for a thread with so many rows.
constexpr int64_t kStretch = 64;
int64_t stretch_of(int64_t rows, int64_t steps, int64_t together = kStretch) {
  return std::min(steps, std::max<int64_t>(1, together / rows));
}

template <typename T>
struct Forward {
  Sizes sizes;
  const T* x;             // (T, B, E), or null with
  const int32_t* ids;     // (T, B): x W is a row of W
  const int32_t* tokens;  // (T, B) or null: where equal within a row, x is
  const T *w, *bias;
  Kernel<T> recurrent;
  const T* kernel;  // W as `pack_panels` has it, or itself
  int64_t by_panel, by_k, by_gate;
  Mask<T> input_mask, mask;
  const T *h, *c;
  const uint8_t* valid;  // (T, B) or null; any byte but 0 is true
  T *final_h, *final_c;
  // null where nobody asks; h and c have T + 1 times, the initial ones first; gates is (T, B, 4H)
  T *h_trail, *c_trail, *gates;
  bool aligned;  // whether all vectors of the three are
};

// A thread's own.
template <typename T>
struct ForwardPlace {
  int64_t first, rows;  // of the batch
  T *h, *h_next;        // (rows, H)
  T* z;                 // of the stretch's steps and rows, (4H) each
  const T** z_rows;     // where that of each step and row is
  Kernel<T> kernel;     // U, or of it
  int64_t offset;       // blocks that it leaves out in front
  T* part;              // (rows, blocks, 4, lanes): the sums of a block of units, or two, of the depth so far
  bool still;           // h is all zeros: no product
};

// The row of W of an id: negative ones count from the end; null for one that is not there.
template <typename T>
const T* row_of(const T* w, int64_t id, const Sizes& sizes) {
  id = id < 0 ? id + sizes.features : id;
  return id < 0 || id >= sizes.features ? nullptr : w + id * kGates * sizes.units;
}

constexpr int kMostRows = 12;

// The depth of a product in pieces, one at least, such that the kernel's part for it stays in the first cache: f(k0, k1).
constexpr int64_t kDepth = 128;
template <typename F>
LSTM_INLINE void in_depths(int64_t depth, const F& f) {
  if (depth == 0) return f(int64_t{0}, int64_t{0});
  in_groups(depth, kDepth, [&](int64_t k0, int64_t count) { f(k0, k0 + count); });
}

// A step of a group of rows from `begin` on, `BLOCKS` blocks of units, all of them WHOLE vectors; of the depth of its product k0..k1-1.
template <typename T, int ROWS, int BLOCKS, bool PER_GATE, bool WHOLE>
void step_block(const Forward<T>& run, const ForwardPlace<T>& place, int64_t t, int64_t begin, const T* const* z, const T* const* a, int64_t block,
                int64_t k0, int64_t k1) {
  const int64_t units = run.sizes.units, batch = run.sizes.batch, row = place.first + begin;
  const auto lanes = [&](int64_t column) { return WHOLE ? kLanes<T> : static_cast<int>(std::min<int64_t>(kLanes<T>, units - column)); };
  Vec<T> sums[BLOCKS][ROWS][kGates];
  T* const part = place.part + begin * BLOCKS * kGates * kLanes<T>;
  for (int n = 0; n < BLOCKS; ++n) {
    const int64_t column = (block + n) * kLanes<T>;
    const int count = lanes(column);
    if (k0 > 0) {
#pragma GCC unroll 8
      for (int r = 0; r < ROWS; ++r) {
#pragma GCC unroll 4
        for (int g = 0; g < kGates; ++g) sums[n][r][g] = load(part + ((n * ROWS + r) * kGates + g) * kLanes<T>);
      }
      continue;
    }
    Vec<T> bias[kGates] = {};
    for (int g = 0; run.ids && g < kGates; ++g) bias[g] = load(run.bias + g * units + column, count);
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; ++r) {
#pragma GCC unroll 4
      for (int g = 0; g < kGates; ++g) {
        sums[n][r][g] = z[r] ? load(z[r] + g * units + column, count) : all<T>(std::numeric_limits<T>::quiet_NaN());
        if (run.ids) sums[n][r][g] += bias[g];
      }
    }
  }
  if (!place.still) add_products<T, ROWS, BLOCKS, PER_GATE>(sums, a, units, place.kernel, block - place.offset, k0, k1);
  for (int n = 0; n < BLOCKS; ++n) {
    if (k1 < units) {
#pragma GCC unroll 8
      for (int r = 0; r < ROWS; ++r) {
#pragma GCC unroll 4
        for (int g = 0; g < kGates; ++g) store(part + ((n * ROWS + r) * kGates + g) * kLanes<T>, sums[n][r][g]);
      }
      continue;
    }
    const int64_t column = (block + n) * kLanes<T>;
    const int count = lanes(column);
    Vec<T>(&gates)[ROWS][kGates] = sums[n];
    // a loop for each function's chain of dependent operations, so that the chains of several rows overlap
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; ++r) {
#pragma GCC unroll 4
      for (int g = 0; g < kGates; ++g) gates[r][g] = g == 2 ? hyperbolic_tangent<T>(gates[r][g]) : sigmoid<T>(gates[r][g]);
    }
    T *c = run.final_c + row * units + column, *h = place.h_next + begin * units + column;
    Vec<T> h_new[ROWS], c_new[ROWS];
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; ++r) {
      c_new[r] = gates[r][1] * load(c + r * units, count) + gates[r][0] * gates[r][2];
      h_new[r] = gates[r][3] * hyperbolic_tangent<T>(c_new[r]);
    }
    for (int r = 0; run.valid && r < ROWS; ++r) {
      if (run.valid[t * batch + row + r]) continue;
      h_new[r] = load(place.h + (begin + r) * units + column, count);
      c_new[r] = load(c + r * units, count);
      for (int g = 0; g < kGates; ++g) gates[r][g] = Vec<T>{};
    }
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; ++r) {
      store(c + r * units, c_new[r], count);
      store(h + r * units, h_new[r], count);
    }
    const int64_t before = t * batch + row;
    if (run.h_trail) {
      T* to = run.h_trail + (batch + before) * units + column;
#pragma GCC unroll 8
      for (int r = 0; r < ROWS; ++r, to += units) stream(to, h_new[r], count, run.aligned);
    }
    if (run.gates) {
      T* to = run.c_trail + (batch + before) * units + column;
#pragma GCC unroll 8
      for (int r = 0; r < ROWS; ++r, to += units) stream(to, c_new[r], count, run.aligned);
      to = run.gates + before * kGates * units + column;
#pragma GCC unroll 8
      for (int r = 0; r < ROWS; ++r) {
#pragma GCC unroll 4
        for (int g = 0; g < kGates; ++g, to += units) stream(to, gates[r][g], count, run.aligned);
      }
    }
  }
}

// f(ROWS, BLOCKS, PER_GATE, WHOLE, block, begin, k0, k1) over all blocks of units, pieces of the depth and groups of rows.
template <typename T, typename F>
LSTM_INLINE void over_blocks(int64_t units, int64_t rows, bool per_gate, const F& f) {
  const int64_t blocks = blocks_of<T>(units);
  for (int64_t block = 0; block < blocks; ++block) {
    const bool two = per_gate && block + 1 < blocks;
    in_depths(units, [&](int64_t k0, int64_t k1) {
      in_groups(rows, kRows, [&](int64_t begin, int64_t count) {
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

// to = from * mask of the gate, for rows that begin with the batch's row number `row`.
template <typename T>
void drop(const T* from, const Mask<T>& mask, int64_t gate, int64_t row, int64_t rows, T* to) {
  const T* m = mask.row(gate, row);
  for (int64_t n = 0; n < rows * mask.size; ++n) to[n] = from[n] * m[n];
}

// A gate's z = x W + b; x (steps, rows, E) with so much from a step to the next.
template <typename T, int VECTORS>
void project_gate(const Forward<T>& run, T* to, int64_t gate, const T* x, int64_t by_step, int64_t steps, int64_t rows) {
  const int64_t units = run.sizes.units, features = run.sizes.features, width = VECTORS * kLanes<T>;
  constexpr int kMost = std::min(kSums / VECTORS, kMostRows);
  for (int64_t column = 0, panel = 0; column < units; column += width, ++panel) {
    int count[VECTORS];
    Vec<T> bias[VECTORS];
    for (int v = 0; v < VECTORS; ++v) {
      count[v] = std::clamp<int64_t>(units - column - v * kLanes<T>, 0, kLanes<T>);
      bias[v] = load(run.bias + gate * units + column + v * kLanes<T>, count[v]);
    }
    const T* kernel = run.kernel + gate * run.by_gate + panel * run.by_panel;
    in_depths(features, [&](int64_t k0, int64_t k1) {
      for (int64_t s = 0; s < steps; ++s) {
        in_groups(rows, kMost, [&](int64_t begin, int64_t some) {
          with_rows<kMost>(some, [&](auto ROWS) {
            T* const z = to + ((s * rows + begin) * kGates + gate) * units + column;
            Vec<T> sums[ROWS][VECTORS];
#pragma GCC unroll 24
            for (int r = 0; r < ROWS; ++r) {
#pragma GCC unroll 4
              for (int v = 0; v < VECTORS; ++v) sums[r][v] = k0 == 0 ? bias[v] : load(z + r * kGates * units + v * kLanes<T>, count[v]);
            }
            const T* a = x + s * by_step + begin * features + k0;
            multiply<T, ROWS, VECTORS>(sums, a, features, 1, kernel + k0 * run.by_k, k1 - k0, run.by_k);
#pragma GCC unroll 24
            for (int r = 0; r < ROWS; ++r) {
#pragma GCC unroll 4
              for (int v = 0; v < VECTORS; ++v) {
                if (count[v]) store(z + r * kGates * units + v * kLanes<T>, sums[r][v], count[v]);
              }
            }
          });
        });
      }
    });
  }
}

// z of steps t0..t1-1, a gate at a time: of its panel of W and its masked x, one at least stays in the first cache. Of repeated x but one, in
// rows of `gathered` one behind the other.
template <typename T>
void project(const Forward<T>& run, const ForwardPlace<T>& place, const Repeats<T>& repeats, int64_t t0, int64_t t1, T* gathered) {
  const auto [steps, batch, features, units] = run.sizes;
  const int64_t size = kGates * units, kinds = run.input_mask.kinds;
  std::vector<int32_t> fresh;
  for (int64_t k = 0; k < (t1 - t0) * place.rows; ++k) {
    const T* kept = repeats.repeated(t0 * place.rows + k);
    place.z_rows[k] = kept ? kept : place.z + fresh.size() * size;
    if (!kept) fresh.push_back(k);
  }
  const bool in_place = !kinds && !repeats.any();
  const auto from = [&](int64_t k) { return run.x + ((t0 + k / place.rows) * batch + place.first + k % place.rows) * features; };
  for (int64_t gate = 0; gate < kGates; ++gate) {
    if (!in_place && gate < std::max<int64_t>(1, kinds)) {
      T* to = gathered;
      for (const int32_t k : fresh) {
        const T* const x = from(k);
        const T* const mask = kinds ? run.input_mask.row(gate, place.first + k % place.rows) : nullptr;
        for (int64_t n = 0; n < features; ++n) to[n] = mask ? x[n] * mask[n] : x[n];
        to += features;
      }
    }
    const T* const a = in_place ? from(0) : gathered;
    const int64_t together = in_place ? t1 - t0 : 1, rows = in_place ? place.rows : fresh.size();
    with_vectors<T>(units, [&](auto VECTORS) { project_gate<T, VECTORS>(run, place.z, gate, a, batch * features, together, rows); });
  }
  for (const int32_t k : fresh) {
    if (T* const kept = repeats.begins(t0 * place.rows + k)) std::memcpy(kept, place.z_rows[k], size * sizeof(T));
  }
}

// Whether so many numbers are all 0, as where a sequence begins; their product is left out, so that a NaN in U shows a step later.
template <typename T>
bool zeros(const T* from, int64_t size) {
  return std::all_of(from, from + size, [](T value) { return value == 0; });
}

// A thread takes its rows in tiles, each through all T, so that what a step touches stays in its cache.
constexpr int64_t kTile = 32;

// Rows first..last-1, all T.
template <typename T>
void forward_tile(const Forward<T>& run, int64_t first, int64_t last) {
  const auto [steps, batch, features, units] = run.sizes;
  const int64_t rows = last - first, size = rows * units, stretch = stretch_of(rows, steps);
  ForwardPlace<T> place{first, rows};
  const int64_t z_size = run.ids ? 0 : stretch * kGates * size;
  const Repeats<T> repeats(run.tokens, steps, batch, first, last, kGates * units);
  const bool gathers = run.input_mask.kinds || repeats.any();
  Aligned<T> state(2 * size), dropped(run.mask.kinds * size), gathered(gathers ? stretch * rows * features : 0), z(z_size);
  Aligned<T> part(units > kDepth ? 2 * rows * kGates * kLanes<T> : 0);
  place.part = part.get();
  place.kernel = run.recurrent;
  place.offset = 0;
  constexpr int64_t kBlock = kGates * kLanes<T>;
  const bool by_block = run.recurrent.by_gate != kLanes<T> && rows > 2 * kRows;
  Aligned<T> blocks(by_block ? 2 * kBlock * units : 0);
  place.h = state.get();
  place.h_next = place.h + size;
  place.z = z.get();
  std::vector<const T*> z_rows(stretch * rows);
  place.z_rows = z_rows.data();
  std::memcpy(place.h, run.h + first * units, size * sizeof(T));
  std::memcpy(run.final_c + first * units, run.c + first * units, size * sizeof(T));
  if (run.h_trail) std::memcpy(run.h_trail + first * units, place.h, size * sizeof(T));
  if (run.c_trail) std::memcpy(run.c_trail + first * units, run.c + first * units, size * sizeof(T));
  for (int64_t t0 = 0; t0 < steps; t0 += stretch) {
    const int64_t t1 = std::min(steps, t0 + stretch);
    if (!run.ids) project(run, place, repeats, t0, t1, gathered.get());
    for (int64_t k = 0; run.ids && k < (t1 - t0) * rows; ++k) {
      z_rows[k] = row_of(run.w, run.ids[(t0 + k / rows) * batch + first + k % rows], run.sizes);
    }
    for (int64_t t = t0; t < t1; ++t) {
      const int64_t kinds = run.mask.kinds;
      place.still = t == 0 && zeros(place.h, size);
      for (int64_t gate = 0; gate < kinds; ++gate) drop(place.h, run.mask, gate, first, rows, dropped.get() + gate * size);
      over_blocks<T>(units, rows, kinds == kGates, [&](auto ROWS, auto BLOCKS, auto PER_GATE, auto WHOLE, int64_t block, int64_t begin, int64_t k0, int64_t k1) {
        if (by_block && begin == 0 && k0 == 0) {
          pack_forward(run.recurrent.data, units, units, blocks.get(), block, block + BLOCKS);
          place.kernel = {blocks.get(), kBlock * units, kBlock, kLanes<T>};
          place.offset = block;
        }
        const T* a[kGates];
        for (int g = 0; g < kGates; ++g) {
          a[g] = (kinds ? dropped.get() + (kinds == kGates ? g * size : 0) : place.h) + begin * units;
        }
        step_block<T, ROWS, BLOCKS, PER_GATE, WHOLE>(run, place, t, begin, place.z_rows + (t - t0) * rows + begin, a, block, k0, k1);
      });
      std::swap(place.h, place.h_next);
    }
  }
  std::memcpy(run.final_h + first * units, place.h, size * sizeof(T));
  flush_streams();
}

template <typename T>
struct Backward {
  Sizes sizes;
  const T* x;
  const int32_t *ids, *tokens;
  const T *transposed_kernel, *transposed_recurrent;  // packed by `pack_backward`
  Mask<T> input_mask, mask;
  const T *gates, *h_trail, *c_trail, *d_h, *d_final_h, *d_final_c;  // d_h may be null
  const uint8_t* valid;
  T *d_first_h, *d_first_c, *d_x;  // d_x may be null
};

// The sums over a thread's rows. Panels of `width` columns: by_kernel (4, panels, E, width), by_recurrent (4, panels, H, width),
// by_bias (4, panels, width); by_ids (V, 4H) in place of by_kernel.
template <typename T>
struct Sums {
  Sums(const Sizes& sizes, bool ids)
      : width(width_of<T>(sizes.units)),
        panels(panels_of<T>(sizes.units)),
        kernel_size(ids ? sizes.features * kGates * sizes.units : kGates * panels * padded(sizes.features) * width),
        recurrent_size(kGates * panels * padded(sizes.units) * width),
        data(kernel_size + recurrent_size + kGates * panels * width) {
    by_kernel = data.get();
    by_recurrent = by_kernel + kernel_size;
    by_bias = by_recurrent + recurrent_size;
    if (ids) std::fill(by_kernel, by_recurrent, T(0));  // the others are written before they are added to
    std::fill(by_bias, by_bias + kGates * panels * width, T(0));
  }
  static int64_t padded(int64_t size) { return blocks_of<T>(size) * kLanes<T>; }
  int64_t width, panels, kernel_size, recurrent_size;
  Aligned<T> data;
  T *by_kernel, *by_recurrent, *by_bias;
};

// What the step before reads, fetched into the second cache some lines at a time while this one's products run.
struct Ahead {
  struct Range {
    const char *at = nullptr, *end = nullptr;
  } ranges[3];
  int range = 0;
  void expect(int number, const void* from, int64_t bytes) {
    ranges[number] = {static_cast<const char*>(from), static_cast<const char*>(from) + bytes};
    range = 0;
  }
  void fetch() {
    constexpr int kLines = 16, kLine = 64;
    while (range < 3 && ranges[range].at >= ranges[range].end) ++range;
    if (range == 3) return;
    Range& one = ranges[range];
    for (int n = 0; n < kLines; ++n, one.at += kLine) __builtin_prefetch(one.at, 0, 2);
  }
};

// Rows of a stretch, each a step's row of the tile: step of the stretch * rows of the tile + row.
struct Which {
  const int32_t* rows;
  int64_t count;
};

// A thread's own: d_z of a stretch, (4, panels, rows of the stretch, width); rows of x or h, (size / lanes, rows of the stretch, lanes); and
// what `back_block` sums up, twice (rows of the stretch, 4 vectors).
template <typename T>
struct BackwardPlace {
  int64_t first, rows, stretch, width, panels;
  T *d_z, *turned, *part;
  int32_t* which;  // room for the stretch's rows
  Ahead* ahead;
  T* panel(int64_t gate, int64_t number) const { return d_z + (gate * panels + number) * stretch * rows * width; }
};

// What `back` sums up for a panel of columns: (rows, width) over the depth so far, and for masks that differ between the gates over gates.
template <typename T>
struct BackPart {
  T *sums, *total;
};

// out[r], VECTORS vectors from `column` on: the sum over gates of mask * (d_z kernel^T), for ROWS rows of the stretch from `row` on; of the sum
// panels first..last-1 of all gates'. numbers: the rows' places in the batch. A row whose `out` is null is left out.
template <typename T, int ROWS, int VECTORS>
void back_block(const BackwardPlace<T>& place, const Mask<T>& mask, int64_t units, int64_t row, int64_t column, int64_t size,
                const T* kernel, int64_t first, int64_t last, const BackPart<T>& part, const int64_t* numbers, T* const* out) {
  constexpr int64_t kWidth = VECTORS * kLanes<T>;
  const bool per_gate = mask.kinds == kGates;
  const int64_t gate = first / place.panels, count = per_gate ? place.panels : kGates * place.panels;
  Vec<T> sums[ROWS][VECTORS];
#pragma GCC unroll 24
  for (int r = 0; r < ROWS; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < VECTORS; ++v) sums[r][v] = first % count == 0 ? Vec<T>{} : load(part.sums + r * kWidth + v * kLanes<T>);
  }
  for (int64_t panel = first; panel < last; ++panel) {
    place.ahead->fetch();
    const int64_t from = panel % place.panels * place.width, depth = std::min(place.width, units - from);
    const T* b = kernel + (panel / place.panels * units + from) * kWidth;
    multiply<T, ROWS, VECTORS>(sums, place.panel(panel / place.panels, panel % place.panels) + row * place.width, place.width, 1, b, depth);
  }
  if (last % count != 0) {
#pragma GCC unroll 24
    for (int r = 0; r < ROWS; ++r) {
#pragma GCC unroll 4
      for (int v = 0; v < VECTORS; ++v) store(part.sums + r * kWidth + v * kLanes<T>, sums[r][v]);
    }
    return;
  }
  const bool whole = last == kGates * place.panels;
  for (int r = 0; r < ROWS; ++r) {
    if (!out[r]) continue;
    for (int v = 0; v < VECTORS; ++v) {
      const int64_t at = column + v * kLanes<T>;
      const int lanes = std::clamp<int64_t>(size - at, 0, kLanes<T>);
      if (lanes == 0) continue;
      Vec<T> d = sums[r][v];
      if (mask.kinds) d *= load(mask.row(gate, numbers[r]) + at, lanes);
      T* const total = part.total + r * kWidth + v * kLanes<T>;
      if (per_gate && gate > 0) d += load(total);
      if (whole) store(out[r] + at, d, lanes);
      if (!whole) store(total, d);
    }
  }
}

// The same for `rows` rows of the stretch from `row` on; at(n) gives row n's place in the batch and in `out`.
template <typename T, int VECTORS, typename At>
void back_rows(const BackwardPlace<T>& place, const Mask<T>& mask, int64_t units, int64_t row, int64_t rows, int64_t size,
               const T* kernel, const At& at) {
  constexpr int kMost = std::min(kSums / VECTORS, kMostRows);
  constexpr int64_t kWidth = VECTORS * kLanes<T>;
  const int64_t together = units > kDepth ? std::max<int64_t>(1, kDepth / place.width) : kGates * place.panels;
  const auto panels = [&](int64_t column, int64_t begin_panel, int64_t end_panel) {
    in_groups(end_panel - begin_panel, together, [&](int64_t first, int64_t some) {
      first += begin_panel;
      in_groups(rows, kMost, [&](int64_t begin, int64_t count) {
        int64_t numbers[kMost];
        T* out[kMost];
        for (int64_t n = 0; n < count; ++n) at(row + begin + n, numbers[n], out[n]);
        const BackPart<T> part{place.part + begin * kWidth, place.part + (rows + begin) * kWidth};
        with_rows<kMost>(count, [&](auto ROWS) {
          back_block<T, ROWS, VECTORS>(place, mask, units, row + begin, column, size, kernel, first, first + some, part, numbers, out);
        });
      });
    });
  };
  for (int64_t column = 0; column < size; column += kWidth, kernel += kGates * units * kWidth) {
    const int64_t parts = mask.kinds == kGates ? kGates : 1, count = kGates / parts * place.panels;
    for (int64_t n = 0; n < parts; ++n) panels(column, n * count, (n + 1) * count);
  }
}

template <typename T, typename At>
void back(const BackwardPlace<T>& place, const Mask<T>& mask, int64_t units, int64_t row, int64_t rows, int64_t size, const T* kernel,
          const At& at) {
  with_vectors<T>(size, [&](auto VECTORS) { back_rows<T, VECTORS>(place, mask, units, row, rows, size, kernel, at); });
}

// sums[gate] += (rows * mask of the gate)^T d_z over the stretch's rows `which`, whose d_z lie in the order of `which` from `begin` on, or the
// first of these sums; t0: the stretch's first step; data: (T, B, size).
template <typename T, int VECTORS>
void add_outer(const Backward<T>& run, const BackwardPlace<T>& place, const T* data, const Mask<T>& mask, int64_t size, int64_t t0,
               Which which, int64_t begin, bool first, T* sums) {
  const int64_t depth = which.count, blocks = blocks_of<T>(size), offset = begin * place.width;
  for (int64_t gate = 0; gate < kGates; ++gate) {
    for (int64_t n = 0; n < depth && (gate == 0 || mask.kinds == kGates); ++n) {
      const int64_t k = which.rows[n], row = place.first + k % place.rows;
      const T* from = data + ((t0 + k / place.rows) * run.sizes.batch + row) * size;
      const T* m = mask.kinds ? mask.row(gate, row) : nullptr;
      for (int64_t block = 0; block < blocks; ++block) {
        const int64_t column = block * kLanes<T>;
        const int count = std::min<int64_t>(kLanes<T>, size - column);
        const Vec<T> value = load(from + column, count);
        store(place.turned + (block * depth + n) * kLanes<T>, m ? value * load(m + column, count) : value);
      }
    }
    for (int64_t panel = 0; panel < place.panels; ++panel) {
      const T* d_z = place.panel(gate, panel) + offset;
      for (int64_t block = 0; block < blocks; ++block, sums += kLanes<T> * place.width) {
        in_groups(kLanes<T>, kSums / VECTORS, [&](int64_t begin, int64_t count) {
          with_rows<std::min(kSums / VECTORS, kLanes<T>)>(count, [&](auto ROWS) {
            T* const to = sums + begin * place.width;
            Vec<T> part[ROWS][VECTORS];
#pragma GCC unroll 24
            for (int r = 0; r < ROWS; ++r) {
#pragma GCC unroll 4
              for (int v = 0; v < VECTORS; ++v) part[r][v] = first ? Vec<T>{} : load(to + r * place.width + v * kLanes<T>);
            }
            multiply<T, ROWS, VECTORS>(part, place.turned + block * depth * kLanes<T> + begin, 1, kLanes<T>, d_z, depth);
#pragma GCC unroll 24
            for (int r = 0; r < ROWS; ++r) {
#pragma GCC unroll 4
              for (int v = 0; v < VECTORS; ++v) store(to + r * place.width + v * kLanes<T>, part[r][v]);
            }
          });
        });
      }
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

// d_z of step t from d_h and d_c, which lie in d_first_h and d_first_c; d_c of the step before.
template <typename T>
void back_through_gates(const Backward<T>& run, const BackwardPlace<T>& place, int64_t t, int64_t t0) {
  const auto [steps, batch, features, units] = run.sizes;
  const int64_t panel = place.stretch * place.rows * place.width;
  for (int64_t r = 0; r < place.rows; ++r) {
    const int64_t row = place.first + r, step = (t * batch + row) * units;
    const bool valid = !run.valid || run.valid[t * batch + row];
    T *d_h = run.d_first_h + row * units, *d_c = run.d_first_c + row * units;
    const T* const given = run.d_h ? run.d_h + step : nullptr;
    const T *kept = run.gates + kGates * step, *c_before = run.c_trail + step, *c = c_before + batch * units;
    T* const own = place.d_z + ((t - t0) * place.rows + r) * place.width;
    const auto vector = [&](int64_t at, T* to, int count) __attribute__((always_inline)) {
      Vec<T> d = load(d_h + at, count);
      if (given) {
        d += load(given + at, count);
        store(d_h + at, d, count);
      }
      Vec<T> d_z[kGates] = {};
      if (valid) {
        Vec<T> gates[kGates];
        for (int g = 0; g < kGates; ++g) gates[g] = load(kept + g * units + at, count);
        const auto& [i, f, g, o] = gates;
        const Vec<T> tanh_c = hyperbolic_tangent<T>(load(c + at, count));
        const Vec<T> by_c = load(d_c + at, count) + d * o * (T(1) - tanh_c * tanh_c);
        d_z[0] = by_c * g * i * (T(1) - i);
        d_z[1] = by_c * load(c_before + at, count) * f * (T(1) - f);
        d_z[2] = by_c * i * (T(1) - g * g);
        d_z[3] = d * tanh_c * o * (T(1) - o);
        store(d_c + at, by_c * f, count);
      }
      for (int g = 0; g < kGates; ++g) store(to + g * place.panels * panel, d_z[g]);
    };
    for (int64_t number = 0; number < place.panels; ++number) {
      const int64_t column = number * place.width, end = std::min(place.width, units - column);
      int64_t n = 0;
      for (; n + kLanes<T> <= end; n += kLanes<T>) vector(column + n, own + number * panel + n, kLanes<T>);
      if (n < end) vector(column + n, own + number * panel + n, end - n);
    }
  }
}

// Rows that repeat an x leave their d_z to the one that has it first, which goes last; the others move up. Returns how many these are, their
// numbers in place.which.
template <typename T>
int64_t add_repeats(const BackwardPlace<T>& place, const Repeats<T>& repeats, int64_t t0) {
  const int64_t depth = place.stretch * place.rows, before = t0 * place.rows, panels = kGates * place.panels, width = place.width;
  int64_t count = 0;
  for (int64_t k = 0; k < depth; ++k) {
    T* const kept = repeats.repeated(before + k);
    if (!kept) place.which[count++] = k;
    for (int64_t panel = 0; kept && panel < panels; ++panel) {
      const T* const d_z = place.panel(0, panel) + k * width;
      for (int64_t n = 0; n < width; n += kLanes<T>) store(kept + panel * width + n, load(kept + panel * width + n) + load(d_z + n));
    }
  }
  for (int64_t n = 0; n < count; ++n) {
    const T* const kept = repeats.begins(before + place.which[n]);
    if (!kept && place.which[n] == n) continue;
    for (int64_t panel = 0; panel < panels; ++panel) {
      T* const rows = place.panel(0, panel);
      for (int64_t at = 0; at < width; at += kLanes<T>) {
        const Vec<T> d_z = load(rows + place.which[n] * width + at);
        store(rows + n * width + at, kept ? d_z + load(kept + panel * width + at) : d_z);
      }
    }
  }
  return count;
}

// The gradients by the kernels and the bias, from a stretch's d_z; returns the rows whose d_z are left for x, in front.
template <typename T>
Which add_gradients(const Backward<T>& run, const BackwardPlace<T>& place, const Repeats<T>& repeats, int64_t t0, int64_t t1, bool first,
                    const Sums<T>& sums) {
  const auto [steps, batch, features, units] = run.sizes;
  const int64_t depth = (t1 - t0) * place.rows;
  const auto outer = [&](const T* data, const Mask<T>& mask, int64_t size, Which which, int64_t begin, T* to) {
    with_vectors<T>(units, [&](auto VECTORS) { add_outer<T, VECTORS>(run, place, data, mask, size, t0, which, begin, first, to); });
  };
  for (int64_t panel = 0; panel < kGates * place.panels; ++panel) {
    with_vectors<T>(units, [&](auto VECTORS) { add_rows<T, VECTORS>(place.panel(0, panel), depth, sums.by_bias + panel * place.width); });
  }
  for (int64_t k = 0; run.ids && k < depth; ++k) {
    T* const row = const_cast<T*>(row_of(sums.by_kernel, run.ids[(t0 + k / place.rows) * batch + place.first + k % place.rows], run.sizes));
    for (int64_t panel = 0; row && panel < kGates * place.panels; ++panel) {
      const int64_t column = panel % place.panels * place.width, end = std::min(place.width, units - column);
      T* const to = row + panel / place.panels * units + column;
      const T* const d_z = place.panel(0, panel) + k * place.width;
      for (int64_t n = 0; n < end; n += kLanes<T>) {
        const int count = std::min<int64_t>(kLanes<T>, end - n);
        store(to + n, load(to + n, count) + load(d_z + n), count);
      }
    }
  }
  std::iota(place.which, place.which + depth, 0);
  const bool still = t0 == 0 && zeros(run.h_trail + place.first * units, place.rows * units);
  const int64_t begin = still ? place.rows : 0;
  outer(run.h_trail, run.mask, units, {place.which + begin, depth - begin}, begin, sums.by_recurrent);
  if (!run.x) return {place.which, 0};
  const Which which{place.which, repeats.any() ? add_repeats(place, repeats, t0) : depth};
  outer(run.x, run.input_mask, features, which, 0, sums.by_kernel);
  return which;
}

// Rows first..last-1, all T; `begins`: the first that these sums get.
template <typename T>
void backward_tile(const Backward<T>& run, const Sums<T>& sums, int64_t first, int64_t last, bool begins) {
  const auto [steps, batch, features, units] = run.sizes;
  // the gradients of large kernels do not stay in the cache: fewer passes over them
  const int64_t together = std::max({kStretch, std::min<int64_t>(96, units * 3 / 4), units / 2});
  const int64_t rows = last - first, size = rows * units, stretch = stretch_of(rows, steps, together);
  const int64_t wide = std::max(units, run.x ? features : 0);
  Aligned<T> part(2 * stretch * rows * 4 * kLanes<T>);
  Aligned<T> d_z(kGates * sums.panels * sums.width * stretch * rows), turned(blocks_of<T>(wide) * kLanes<T> * stretch * rows);
  Ahead ahead;
  std::vector<int32_t> numbers(stretch * rows);
  BackwardPlace<T> place{first, rows, stretch, sums.width, sums.panels, d_z.get(), turned.get(), part.get(), numbers.data(), &ahead};
  const Repeats<T> repeats(run.tokens, steps, batch, first, last, kGates * sums.panels * sums.width);
  std::fill(d_z.get(), d_z.get() + kGates * sums.panels * sums.width * stretch * rows, T(0));  // columns that fill a panel up stay so
  std::memcpy(run.d_first_h + first * units, run.d_final_h + first * units, size * sizeof(T));
  std::memcpy(run.d_first_c + first * units, run.d_final_c + first * units, size * sizeof(T));
  for (int64_t t1 = steps; t1 > 0; t1 -= std::min(stretch, t1)) {
    const int64_t t0 = std::max<int64_t>(0, t1 - stretch);
    place.stretch = t1 - t0;
    for (int64_t t = t1 - 1; t >= t0; --t) {
      back_through_gates(run, place, t, t0);
      if (t > 0) {
        ahead.expect(0, run.gates + ((t - 1) * batch + first) * kGates * units, size * kGates * sizeof(T));
        ahead.expect(1, run.c_trail + ((t - 1) * batch + first) * units, size * sizeof(T));
        ahead.expect(2, run.h_trail + (t * batch + first) * units, size * sizeof(T));
      }
      back(place, run.mask, units, (t - t0) * rows, rows, units, run.transposed_recurrent, [&](int64_t k, int64_t& number, T*& out) {
        number = first + k - (t - t0) * rows;
        const bool valid = !run.valid || run.valid[t * batch + number];
        out = valid ? run.d_first_h + number * units : nullptr;  // else d_h goes on as it is
      });
    }
    const Which which = add_gradients(run, place, repeats, t0, t1, begins && t1 == steps, sums);
    if (run.d_x) {
      for (int64_t k = 0; k < (t1 - t0) * rows && which.count < (t1 - t0) * rows; ++k) {
        if (repeats.repeated(t0 * rows + k)) std::fill_n(run.d_x + ((t0 + k / rows) * batch + first + k % rows) * features, features, T(0));
      }
      back(place, run.input_mask, units, 0, which.count, features, run.transposed_kernel, [&](int64_t n, int64_t& number, T*& out) {
        const int64_t k = which.rows[n];
        number = first + k % rows;
        out = run.d_x + ((t0 + k / rows) * batch + number) * features;
      });
    }
  }
}

// The arguments or results of a call for one of its sets, in order.
struct Arguments {
  const ffi::RemainingArgs& args;
  const Sets& sets;
  int64_t set;
  size_t next = 0;
  template <typename T>
  const T* take() {
    const auto buffer = *args.get<ffi::AnyBuffer>(next++);
    return data_of<const T>(buffer) + sets.offset(buffer, set);
  }
  template <typename T>
  Mask<T> mask(int64_t kinds, int64_t batch, int64_t size) {
    return kinds ? Mask<T>{kinds, take<T>(), batch, size} : Mask<T>{};
  }
};

struct Results {
  const ffi::RemainingRets& rets;
  const Sets& sets;
  int64_t set;
  size_t next = 0;
  template <typename T>
  T* take() {
    const auto buffer = **rets.get<ffi::AnyBuffer>(next++);
    if (set == 0) prefer_large_pages(buffer.untyped_data(), buffer.size_bytes());
    return data_of<T>(buffer) + sets.offset(buffer, set);
  }
};

// Numbers in a kernel from which moving it about is worth waking threads for.
constexpr int64_t kLargeKernel = 1 << 18;

// x (T, B, E) or ids (T, B) first, kernel (E, 4H) second.
Sizes sizes_of(const ffi::RemainingArgs& args, const Sets& sets) {
  const auto x = args.get<ffi::AnyBuffer>(0)->dimensions(), kernel = args.get<ffi::AnyBuffer>(1)->dimensions();
  const size_t n = sets.rank();
  return {x[n], x[n + 1], kernel[n], kernel[n + 1] / kGates};
}

// A call with no steps, rows or units: its final state is the first one.
bool nothing(const Sizes& sizes) { return sizes.steps == 0 || sizes.batch == 0 || sizes.units == 0; }

// In order: x or ids, kernel, recurrent kernel, bias, h, c, input mask (unless `input_masks` is 0), recurrent mask (likewise), valid if
// `masked`, tokens if `tokens`.
// Results: final h, final c, the trail of h (if `sequences` or `keep`), and if `keep` that of c and the gates (T, B, 4H).
template <typename T>
void forward(ffi::ThreadPool pool, ffi::RemainingArgs args, ffi::RemainingRets rets, const Sets& sets, int64_t set, bool ids,
                   int64_t input_masks, int64_t recurrent_masks, bool masked, bool tokens, bool sequences, bool keep, int64_t threads) {
  Arguments in{args, sets, set};
  Results out{rets, sets, set};
  Forward<T> run{sizes_of(args, sets)};
  const auto [steps, batch, features, units] = run.sizes;
  if (ids) run.ids = in.take<int32_t>();
  if (!ids) run.x = in.take<T>();
  run.w = in.take<T>();
  const T* recurrent = in.take<T>();
  run.bias = in.take<T>();
  run.h = in.take<T>();
  run.c = in.take<T>();
  run.input_mask = in.mask<T>(input_masks, batch, features);
  run.mask = in.mask<T>(recurrent_masks, batch, units);
  if (masked) run.valid = in.take<uint8_t>();
  if (tokens) run.tokens = in.take<int32_t>();
  run.final_h = out.take<T>();
  run.final_c = out.take<T>();
  if (sequences || keep) run.h_trail = out.take<T>();
  if (keep) {
    run.c_trail = out.take<T>();
    run.gates = out.take<T>();
  }
  if (nothing(run.sizes)) {
    std::copy_n(run.h, batch * units, run.final_h);
    std::copy_n(run.c, batch * units, run.final_c);
    if (run.h_trail) std::copy_n(run.h, batch * units, run.h_trail);
    if (run.c_trail) std::copy_n(run.c, batch * units, run.c_trail);
    return;
  }
  run.aligned = units % kLanes<T> == 0 && aligned(run.h_trail) && aligned(run.c_trail) && aligned(run.gates);
  // packing costs about as much as two rows' step; for a single one each block is packed when it is its turn
  const int64_t width = width_of<T>(units), panels = panels_of<T>(units);
  const bool packed = units % width != 0 || (steps > 1 && steps * batch > 4 * kRows);
  const int64_t recurrent_size = packed ? blocks_of<T>(units) * kLanes<T> * kGates * units : 0;
  Aligned<T> room(recurrent_size + (packed && !ids ? kGates * panels * width * features : 0));
  threads = threads_for(pool, threads, batch);
  run.recurrent = Kernel<T>{recurrent, kLanes<T>, kGates * units, units};
  run.kernel = run.w;
  run.by_panel = width, run.by_k = kGates * units, run.by_gate = units;
  if (packed) run.recurrent = Kernel<T>{room.get(), units * kGates * kLanes<T>, kGates * kLanes<T>, kLanes<T>};
  const int64_t blocks = packed ? blocks_of<T>(units) : 0, all_panels = packed && !ids ? kGates * panels : 0;
  T* const to = room.get() + recurrent_size;
  if (all_panels) {
    run.kernel = to;
    run.by_panel = features * width, run.by_k = width, run.by_gate = panels * run.by_panel;
  }
  Together pack(blocks + all_panels);
  share_out(pool, threads, threads, batch, [&](int64_t, int64_t first, int64_t last) {
    pack([&](int64_t n) {
      if (n < blocks) return pack_forward(recurrent, units, units, room.get() + n * run.recurrent.by_block, n, n + 1);
      pack_panels(run.w, features, units, to, n - blocks, n - blocks + 1);
    });
    in_groups(last - first, kTile, [&](int64_t begin, int64_t count) { forward_tile(run, first + begin, first + begin + count); });
  });
}

// In order: x or ids, kernel, recurrent kernel, gates, trail of h, that of c, d of final h, d of final c, d of outputs (if `sequences`),
// input mask, recurrent mask, valid, tokens. Results: d of h, c, kernel, recurrent kernel, bias, and if `d_x` of x.
template <typename T>
void backward(ffi::ThreadPool pool, ffi::RemainingArgs args, ffi::RemainingRets rets, const Sets& sets, int64_t set, bool ids,
                    int64_t input_masks, int64_t recurrent_masks, bool masked, bool tokens, bool sequences, bool d_x, int64_t threads) {
  Arguments in{args, sets, set};
  Results out{rets, sets, set};
  Backward<T> run{sizes_of(args, sets)};
  const auto [steps, batch, features, units] = run.sizes;
  if (ids) run.ids = in.take<int32_t>();
  if (!ids) run.x = in.take<T>();
  const T *kernel = in.take<T>(), *recurrent = in.take<T>();
  run.gates = in.take<T>();
  run.h_trail = in.take<T>();
  run.c_trail = in.take<T>();
  run.d_final_h = in.take<T>();
  run.d_final_c = in.take<T>();
  if (sequences) run.d_h = in.take<T>();
  run.input_mask = in.mask<T>(input_masks, batch, features);
  run.mask = in.mask<T>(recurrent_masks, batch, units);
  if (masked) run.valid = in.take<uint8_t>();
  if (tokens) run.tokens = in.take<int32_t>();
  run.d_first_h = out.take<T>();
  run.d_first_c = out.take<T>();
  T *by_kernel = out.take<T>(), *by_recurrent = out.take<T>(), *by_bias = out.take<T>();
  if (d_x) run.d_x = out.take<T>();
  if (nothing(run.sizes)) {
    std::copy_n(run.d_final_h, batch * units, run.d_first_h);
    std::copy_n(run.d_final_c, batch * units, run.d_first_c);
    const int64_t columns = kGates * units;
    std::fill_n(by_kernel, features * columns, T(0));
    std::fill_n(by_recurrent, units * columns, T(0));
    std::fill_n(by_bias, columns, T(0));
    if (run.d_x) std::fill_n(run.d_x, steps * batch * features, T(0));
    return;
  }
  const auto size_of = [&](int64_t size) { return panels_of<T>(size) * width_of<T>(size) * kGates * units; };
  Aligned<T> room(size_of(units) + (d_x ? size_of(features) : 0));
  run.transposed_recurrent = room.get();
  run.transposed_kernel = room.get() + size_of(units);
  const int64_t parts = threads_for(pool, threads, batch);
  const auto shared = [&](int64_t depth, int64_t size, const auto& work) {
    const int64_t some = depth * units < kLargeKernel / kGates ? 1 : parts;
    share_out(pool, some, some, size, [&](int64_t, int64_t first, int64_t last) { work(first, last); });
  };
  const int64_t of_units = panels_of<T>(units), of_features = d_x ? panels_of<T>(features) : 0;
  Together transpose(of_units + of_features);

  std::vector<std::unique_ptr<Sums<T>>> sums(parts);
  share_out(pool, parts, parts, batch, [&](int64_t part, int64_t first, int64_t last) {
    sums[part] = std::make_unique<Sums<T>>(run.sizes, ids);
    transpose([&](int64_t n) {
      if (n < of_units) return pack_backward(recurrent, units, units, room.get(), n, n + 1);
      n -= of_units;
      pack_backward(kernel, features, units, room.get() + size_of(units), n, n + 1);
    });
    in_groups(last - first, kTile, [&](int64_t begin, int64_t count) {
      backward_tile(run, *sums[part], first + begin, first + begin + count, begin == 0);
    });
  });
  const int64_t width = sums[0]->width, panels = sums[0]->panels;
  // (4, panels, padded size, width), a part each -> (size, 4H)
  const auto gather = [&](T* Sums<T>::* member, int64_t size, int64_t padded, T* to) {
    shared(size, size, [&](int64_t first, int64_t last) {
      for (int64_t row = first; row < last; ++row) {
        for (int64_t panel = 0; panel < kGates * panels; ++panel) {
          const int64_t column = panel % panels * width, count = std::min(width, units - column);
          T* const place = to + row * kGates * units + panel / panels * units + column;
          for (int64_t part = 0; part < parts; ++part) {
            const T* from = (*sums[part]).*member + (panel * padded + row) * width;
            for (int64_t n = 0; n < count; ++n) place[n] = part == 0 ? from[n] : place[n] + from[n];
          }
        }
      }
    });
  };
  gather(&Sums<T>::by_recurrent, units, Sums<T>::padded(units), by_recurrent);
  gather(&Sums<T>::by_bias, 1, 1, by_bias);
  if (!ids) gather(&Sums<T>::by_kernel, features, Sums<T>::padded(features), by_kernel);
  for (int64_t n = 0; ids && n < features * kGates * units; ++n) {
    by_kernel[n] = 0;
    for (int64_t part = 0; part < parts; ++part) by_kernel[n] += sums[part]->by_kernel[n];
  }
}

// The type of the numbers is the kernel's.
bool wide(const ffi::RemainingArgs& args) { return args.get<ffi::AnyBuffer>(1)->element_type() == ffi::F64; }

// work(set, threads) for all sets: side by side, or where they are fewer than threads one after the other.
template <typename Work>
ffi::Error over_sets(ffi::ThreadPool pool, const Sets& sets, int64_t threads, const Work& work) {
  if (sets.count < threads_for(pool, threads, threads)) {
    for (int64_t set = 0; set < sets.count; ++set) work(set, threads);
    return ffi::Error::Success();
  }
  const int64_t some = threads_for(pool, threads, sets.count);
  share_out(pool, some, sets.count, sets.count, [&](int64_t, int64_t first, int64_t last) {
    for (int64_t set = first; set < last; ++set) work(set, int64_t{1});
  });
  return ffi::Error::Success();
}

template <typename... Rest>
ffi::Error any_forward(ffi::ThreadPool pool, ffi::RemainingArgs args, ffi::RemainingRets rets, Rest... rest, int64_t threads) {
  return guarded("lstm_jax_forward", [&] {
    ffi::Error error = check_forward(args, rets, rest..., threads);
    if (error.failure()) return error;
    const Sets sets(args, rets, 2);
    return over_sets(pool, sets, threads, [&](int64_t set, int64_t some) {
      if (wide(args)) return forward<double>(pool, args, rets, sets, set, rest..., some);
      forward<float>(pool, args, rets, sets, set, rest..., some);
    });
  });
}

template <typename... Rest>
ffi::Error any_backward(ffi::ThreadPool pool, ffi::RemainingArgs args, ffi::RemainingRets rets, Rest... rest, int64_t threads) {
  return guarded("lstm_jax_backward", [&] {
    ffi::Error error = check_backward(args, rets, rest..., threads);
    if (error.failure()) return error;
    const Sets sets(args, rets, 2);
    return over_sets(pool, sets, threads, [&](int64_t set, int64_t some) {
      if (wide(args)) return backward<double>(pool, args, rets, sets, set, rest..., some);
      backward<float>(pool, args, rets, sets, set, rest..., some);
    });
  });
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(lstm_jax_forward,
                              (any_forward<bool, int64_t, int64_t, bool, bool, bool, bool>),
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .RemainingArgs()
                                  .RemainingRets()
                                  .Attr<bool>("ids")
                                  .Attr<int64_t>("input_masks")
                                  .Attr<int64_t>("recurrent_masks")
                                  .Attr<bool>("masked")
                                  .Attr<bool>("tokens")
                                  .Attr<bool>("sequences")
                                  .Attr<bool>("keep")
                                  .Attr<int64_t>("threads"));

XLA_FFI_DEFINE_HANDLER_SYMBOL(lstm_jax_backward,
                              (any_backward<bool, int64_t, int64_t, bool, bool, bool, bool>),
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .RemainingArgs()
                                  .RemainingRets()
                                  .Attr<bool>("ids")
                                  .Attr<int64_t>("input_masks")
                                  .Attr<int64_t>("recurrent_masks")
                                  .Attr<bool>("masked")
                                  .Attr<bool>("tokens")
                                  .Attr<bool>("sequences")
                                  .Attr<bool>("d_x")
                                  .Attr<int64_t>("threads"));
