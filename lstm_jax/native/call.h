// A call for one of its sets: its options, and its operands and results, taken in order.
#pragma once

#include "cells.h"
#include "few_products.h"
#include "sets.h"
#include "team.h"
#include "threads.h"

namespace lstm_jax {

// The attributes of both calls.
struct Options {
  int64_t cell;
  bool ids;
  int64_t input_masks, recurrent_masks;
  bool masked, tokens, resets, batch_first;
  int64_t products;
  bool sequences;
  bool keep_or_d_x;  // `keep` of the forward call, `d_x` of the backward call
  int64_t threads;
};

// Both passes of set number `set`, in forward.cc and backward.cc.
template <typename T>
void forward(ffi::ThreadPool pool, ffi::Buffers args, ffi::Buffers rets, int64_t set,
             const Options& options);
template <typename T>
void backward(ffi::ThreadPool pool, ffi::Buffers args, ffi::Buffers rets, int64_t set,
              const Options& options);

}  // namespace lstm_jax

namespace {

using lstm_jax::Options;

// The operands of a call for one of its sets, taken in order.
struct Arguments {
  const ffi::Buffers& args;
  const Sets& sets;
  int64_t set;
  size_t next = 0;
  template <typename T>
  const T* take() {
    const auto buffer = args[next++];
    return data_of<const T>(buffer) + sets.offset(buffer, set);
  }
  template <typename T>
  Mask<T> mask(int64_t kinds, int64_t batch, int64_t size) {
    return kinds ? Mask<T>{kinds, take<T>(), batch, size} : Mask<T>{};
  }
  template <typename T>
  const T* take_if(bool present) {
    return present ? take<T>() : nullptr;
  }
  template <typename T>
  Resets<T> resets(bool present, bool cell_state, int64_t batch) {
    if (!present) return {};
    const uint8_t* const at = take<uint8_t>();
    const T* const h = take<T>();
    return {at, h, take_if<T>(cell_state), batch};
  }
};

// The results of a call for one of its sets, taken in order.
struct Results {
  const ffi::Buffers& rets;
  const Sets& sets;
  int64_t set;
  size_t next = 0;
  template <typename T>
  T* take() {
    const auto buffer = rets[next++];
    if (set == 0) prefer_large_pages(buffer.untyped_data(), buffer.size_bytes());
    return data_of<T>(buffer) + sets.offset(buffer, set);
  }
  template <typename T>
  T* take_if(bool present) {
    return present ? take<T>() : nullptr;
  }
};

// x (T, B, E), or (B, T, E) if `x_batch_first`, or ids (T, B) is operand 0, the kernel (E, GH)
// operand 1.
inline Sizes sizes_of(const ffi::Buffers& args, const Sets& sets, int64_t gates,
                      bool x_batch_first) {
  const auto x = args[0].dimensions(), kernel = args[1].dimensions();
  const size_t n = sets.rank();
  return {x[n + x_batch_first], x[n + !x_batch_first], kernel[n], kernel[n + 1] / gates, gates};
}

// Whether a call has no steps, rows or units: its final state is the initial one.
inline bool is_empty(const Sizes& sizes) {
  return sizes.steps == 0 || sizes.batch == 0 || sizes.units == 0;
}

// Whether a call takes few_forward.h and few_backward.h.
inline bool shares_units(const CellShape& cell, const Sizes& sizes, bool tokens,
                         Products products) {
  return cell.shares_units && sizes.batch <= kMostFewRows && !tokens && products != kPairs;
}

// Numbers in the part of U that is worth a thread that shares the units.
constexpr int64_t kMemberKernel = 1 << 15;

// Return the number of threads that share the units.
inline int64_t unit_threads(ffi::ThreadPool pool, int64_t threads, const Sizes& sizes) {
  const int64_t most = std::min(Team::kMost, padded(sizes.units) / kUnitStep);
  return threads_for(pool, threads,
                     std::min(most, sizes.gates * sizes.units * sizes.units / kMemberKernel));
}

}  // namespace
