// A call of either pass, and its operands and results for one of its sets.
#pragma once

#include "cells.h"
#include "few_products.h"
#include "sets.h"
#include "team.h"
#include "threads.h"

namespace lstm_jax {

// contract.h has the names of the arrays. Those that may be left out are the options of a call: x
// or ids, masks of one kind or for each gate, what is kept, the outputs and the gradient of x.
struct Call {
  ffi::ThreadPool pool;
  ffi::Arrays args, rets;
  int64_t cell;
  bool batch_first;
  int64_t products, threads;
};

// Both passes of set number `set` in at most `threads` threads, in forward.cc and backward.cc.
template <typename T>
void forward(const Call& call, int64_t set, int64_t threads);
template <typename T>
void backward(const Call& call, int64_t set, int64_t threads);

}  // namespace lstm_jax

namespace {

using lstm_jax::Call;

// The operands of a call for one of its sets; null for one that it does not have.
struct Arguments {
  const Call& call;
  const Sets& sets;
  int64_t set;
  template <typename T>
  const T* take(std::string_view name) const {
    if (!call.args.has(name)) return nullptr;
    const ffi::Buffer buffer = call.args[name];
    return data_of<const T>(buffer) + sets.offset(buffer, set);
  }
  template <typename T>
  Mask<T> mask(std::string_view name, int64_t batch, int64_t size) const {
    if (!call.args.has(name)) return {};
    const auto extents = call.args[name].dimensions();
    const int64_t kinds = extents.size() == sets.rank() + 3 ? extents[sets.rank()] : 1;
    return {kinds, take<T>(name), batch, size};
  }
  template <typename T>
  Resets<T> resets(int64_t batch) const {
    if (!call.args.has("resets")) return {};
    return {take<uint8_t>("resets"), take<T>("h of resets"), take<T>("c of resets"), batch};
  }
};

// The results of a call for one of its sets; null for one that it does not have.
struct Results {
  const Call& call;
  const Sets& sets;
  int64_t set;
  template <typename T>
  T* take(std::string_view name) const {
    if (!call.rets.has(name)) return nullptr;
    const ffi::Buffer buffer = call.rets[name];
    if (set == 0) prefer_large_pages(buffer.untyped_data(), buffer.size_bytes());
    return data_of<T>(buffer) + sets.offset(buffer, set);
  }
};

inline Sizes sizes_of(const Call& call, const Sets& sets, int64_t gates) {
  const bool ids = call.args.has("ids"), batch_first = call.batch_first && !ids;
  const auto x = call.args[ids ? "ids" : "x"].dimensions();
  const auto kernel = call.args["kernel"].dimensions();
  const size_t n = sets.rank();
  return {x[n + batch_first], x[n + !batch_first], kernel[n], kernel[n + 1] / gates, gates};
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
