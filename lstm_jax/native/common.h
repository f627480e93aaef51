// Sizes, dropout masks, resets, chunks of steps and kernel rows, shared by the forward and the
// backward pass.
#pragma once

#include <algorithm>
#include <cstdint>

#include "products.h"

namespace {

// T, B, E, H, and the cell's number of gates G.
struct Sizes {
  int64_t steps, batch, features, units, gates;
};

// Most rows of a batch for which threads share the units instead of the rows. The number of threads
// does not enter the choice, since the two ways add up numbers in different orders.
constexpr int64_t kMostFewRows = 3;

// The order of x, d_x, the outputs and their gradient: (T, B, size), or (B, T, size). step, row:
// how many numbers lie from one step, or from one row of the batch, to the next, divided by the
// size.
struct Order {
  int64_t step, row;
  bool batch_first() const { return row != 1; }
  int64_t at(int64_t t, int64_t of_row) const { return t * step + of_row * row; }
};

inline Order order_of(const Sizes& sizes, bool batch_first) {
  return batch_first ? Order{1, sizes.steps} : Order{sizes.batch, 1};
}

// A dropout mask, constant over time: none (kinds 0), one for all gates (kinds 1, (B, size)), or
// one for each gate (kinds G, (G, B, size)).
template <typename T>
struct Mask {
  int64_t kinds = 0;
  const T* data = nullptr;
  int64_t batch = 0, size = 0;
  bool per_gate() const { return kinds > 1; }
  const T* row(int64_t gate, int64_t row) const {
    return data + ((per_gate() ? gate * batch : 0) + row) * size;
  }
};

// Resets of the state: where `at` (T, B) is not 0, the state of the row before the step is replaced
// by h (B, size of h) and c (B, H); c is null for a cell without c. None if `at` is null.
template <typename T>
struct Resets {
  const uint8_t* at = nullptr;
  const T *h = nullptr, *c = nullptr;
  int64_t batch = 0;
  bool starts(int64_t t, int64_t row) const { return at && at[t * batch + row]; }
};

// A thread processes its rows in tiles of at most kTileRows rows, each through all T, so that the
// data of a step stays in its cache.
constexpr int64_t kTileRows = 32;

// Rows times steps of a chunk.
constexpr int64_t kChunkRows = 64;

// Return the number of steps in a chunk for a tile with `rows` rows.
int64_t chunk_steps(int64_t rows, int64_t steps, int64_t chunk_rows = kChunkRows) {
  return std::min(steps, std::max<int64_t>(1, chunk_rows / rows));
}

// Return the row of the kernel (E, GH) for an id, or null for an id out of range. Negative ids
// count from the end.
template <typename T>
const T* kernel_row(const T* kernel, int64_t id, const Sizes& sizes) {
  id = id < 0 ? id + sizes.features : id;
  return id < 0 || id >= sizes.features ? nullptr : kernel + id * sizes.gates * sizes.units;
}

// Call f(k0, k1) for pieces of a product's inner dimension, at least once. Between two pieces the
// sums are stored and loaded; a piece is short enough that its part of the kernel stays in a near
// cache. experiments/LOG.md of 2026-11-29 has what other lengths take.
constexpr int64_t kDepthPiece = kVectorBytes == 64 ? 256 : 128;
template <typename F>
LSTM_INLINE void over_depth(int64_t depth, const F& f) {
  if (depth == 0) return f(int64_t{0}, int64_t{0});
  over_groups(depth, kDepthPiece, [&](int64_t k0, int64_t count) { f(k0, k0 + count); });
}

// Return whether `size` numbers are all 0, as at the start of a sequence. The product with such an
// h is skipped, so that a NaN in U shows up one step later.
template <typename T>
bool all_zero(const T* data, int64_t size) {
  return std::all_of(data, data + size, [](T value) { return value == 0; });
}

// Return whether `size` numbers times 0 are all 0.
template <typename T>
bool all_finite(const T* data, int64_t size) {
  Vec<T> sums{};
  over_vectors<T>(0, size, [&](int64_t at, int count) __attribute__((always_inline)) {
    sums += load(data + at, count) * T(0);
  });
  T lanes[kLanes<T>];
  store(lanes, sums);
  return all_zero(lanes, kLanes<T>);
}

}  // namespace
