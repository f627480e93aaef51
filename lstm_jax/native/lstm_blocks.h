// Products of the LSTM's four gates at a time, and the kernel in the order in which they read it.
#pragma once

#include "common.h"
#include "products.h"

namespace {

constexpr int kLSTMGates = 4;

// A kernel (K, 4H) and its strides as the forward products read it: block of units, k, gate.
template <typename T>
struct Kernel {
  const T* data;
  int64_t block_stride, k_stride, gate_stride;
};

// z[block][r][gate] += the sum over k in k0..k1-1 of a[gate][r, k] kernel[k, gate, block].
// PER_GATE: `a` differs between the gates. As many gates are computed at a time as there are
// registers for their sums; with two blocks (PER_GATE only), each number of `a` is used for two
// vectors. P: `a` and the kernel are in groups.
template <typename T, int ROWS, int BLOCKS, bool PER_GATE, Products P = kFull>
LSTM_INLINE void add_products(Vec<T> (&z)[BLOCKS][ROWS][kLSTMGates], const T* const* a,
                              int64_t row_stride, const Kernel<T>& kernel, int64_t block,
                              int64_t k0, int64_t k1) {
  constexpr int kAtOnce = kVectors / BLOCKS;
  for (int first = 0; first < kLSTMGates; first += kAtOnce) {
    const T* b = kernel.data + block * kernel.block_stride + k0 * kernel.k_stride +
                 first * kernel.gate_stride;
    Vec<T> sums[ROWS][kAtOnce][BLOCKS];
    LSTM_UNROLL for (int r = 0; r < ROWS; ++r) {
      LSTM_UNROLL for (int n = 0; n < kVectors; ++n) sums[r][n / BLOCKS][n % BLOCKS] =
          z[n % BLOCKS][r][first + n / BLOCKS];
    }
    for (int64_t k = k0; k < k1; ++k, b += kernel.k_stride) {
      Vec<T> weights[kAtOnce][BLOCKS];
      LSTM_UNROLL for (int n = 0; n < kVectors; ++n) {
        weights[n / BLOCKS][n % BLOCKS] =
            load(b + (n / BLOCKS) * kernel.gate_stride + (n % BLOCKS) * kernel.block_stride);
      }
      LSTM_UNROLL for (int r = 0; r < ROWS; ++r) {
        LSTM_UNROLL for (int g = 0; g < kAtOnce; ++g) {
          const T* const a_k = a[PER_GATE ? first + g : 0] + r * row_stride + k;
          LSTM_UNROLL for (int n = 0; n < BLOCKS; ++n)
              add_product<T, P>(sums[r][g][n], a_k, weights[g][n]);
        }
      }
    }
    LSTM_UNROLL for (int r = 0; r < ROWS; ++r) {
      LSTM_UNROLL for (int n = 0; n < kVectors; ++n) z[n % BLOCKS][r][first + n / BLOCKS] =
          sums[r][n / BLOCKS][n % BLOCKS];
    }
  }
}

// Pack blocks first..last-1 of a kernel: (K, 4H) -> (H / lanes, K, 4, lanes), padded with zeros; K
// is half as long for pairs. `pack_quad_piece` packs quads.
template <typename T>
void pack_forward(const T* kernel, int64_t depth, int64_t units, T* packed, int64_t first,
                  int64_t last, Products products = kFull) {
  for (int64_t block = first; block < last; ++block) {
    const int count = std::min<int64_t>(kLanes<T>, units - block * kLanes<T>);
    for (int64_t k = 0; k < depth; k += products == kPairs ? 2 : 1) {
      for (int gate = 0; gate < kLSTMGates; ++gate, packed += kLanes<T>) {
        const T* const from = kernel + (k * kLSTMGates + gate) * units + block * kLanes<T>;
        if (products == kPairs)
          pack_pairs(from, kLSTMGates * units, k + 1 < depth, count, kLanes<T>, packed);
        else
          store(packed, load(from, count));
      }
    }
  }
}

// Numbers in the partial sums of two blocks for `rows` rows, for a product of the given depth, and
// in two packed blocks.
template <typename T>
int64_t partial_size(int64_t depth, int64_t rows) {
  return depth > kDepthPiece ? 2 * rows * kLSTMGates * kLanes<T> : 0;
}
template <typename T>
int64_t packed_size(int64_t units) {
  return 2 * kLSTMGates * kLanes<T> * units;
}

}  // namespace
