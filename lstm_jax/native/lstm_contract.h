// The contracts of the LSTM's two calls: their operands, results and attributes.
#pragma once

#include "operands.h"
#include "products.h"

namespace {

// Steps, rows of the batch, features and units.
constexpr Extent T = letter_of('T'), B = letter_of('B'), E = letter_of('E'), H = letter_of('H');

inline bool is_kind(int64_t kinds) { return kinds == 0 || kinds == 1 || kinds == kGates; }

// Check the attributes of both calls.
inline ffi::Error check_attributes(const Contract& contract, bool ids, int64_t input_masks, int64_t recurrent_masks, int64_t threads) {
  return contract.check_attributes({
      {"input_masks", double(input_masks), is_kind(input_masks), "give 0, 1 or 4"},
      {"input_masks", double(input_masks), !ids || input_masks == 0, "give 0 with ids, which have no features to drop"},
      {"recurrent_masks", double(recurrent_masks), is_kind(recurrent_masks), "give 0, 1 or 4"},
      threads_attribute(threads),
  });
}

inline ffi::Error check_forward(const ffi::RemainingArgs& args, const ffi::RemainingRets& rets, bool ids, int64_t input_masks,
                                int64_t recurrent_masks, bool masked, bool tokens, bool resets, bool sequences, bool keep, int64_t threads) {
  const ffi::DataType real = real_type(args, 1);
  Contract contract("lstm_jax_forward", args, rets, 2);
  ffi::Error error = check_attributes(contract, ids, input_masks, recurrent_masks, threads);
  if (error.failure()) return error;
  return contract.check_arrays(
      {{"x", real, {T, B, E}, !ids},
       {"ids", ffi::S32, {T, B}, ids},
       {"kernel", real, {E, 4 * H}},
       {"recurrent kernel", real, {H, 4 * H}},
       {"bias", real, {4 * H}},
       {"h", real, {B, H}},
       {"c", real, {B, H}},
       {"input mask", real, {B, E}, input_masks == 1},
       {"input mask", real, {kGates, B, E}, input_masks == kGates},
       {"recurrent mask", real, {B, H}, recurrent_masks == 1},
       {"recurrent mask", real, {kGates, B, H}, recurrent_masks == kGates},
       {"valid", ffi::PRED, {T, B}, masked},
       {"tokens", ffi::S32, {T, B}, tokens},
       {"resets", ffi::PRED, {T, B}, resets},
       {"h of resets", real, {B, H}, resets},
       {"c of resets", real, {B, H}, resets}},
      {{"final h", real, {B, H}},
       {"final c", real, {B, H}},
       {"h of all steps", real, {T + 1, B, H}, sequences || keep},
       {"c of all steps", real, {T + 1, B, H}, keep},
       {"gates", real, {T, B, 4 * H}, keep}});
}

inline ffi::Error check_backward(const ffi::RemainingArgs& args, const ffi::RemainingRets& rets, bool ids, int64_t input_masks,
                                 int64_t recurrent_masks, bool masked, bool tokens, bool resets, bool sequences, bool d_x, int64_t threads) {
  const ffi::DataType real = real_type(args, 1);
  Contract contract("lstm_jax_backward", args, rets, 2);
  ffi::Error error = check_attributes(contract, ids, input_masks, recurrent_masks, threads);
  if (error.failure()) return error;
  if (ids && d_x) return contract.invalid("d_x", "1", "give 0 with ids, which have no gradient");
  return contract.check_arrays(
      {{"x", real, {T, B, E}, !ids},
       {"ids", ffi::S32, {T, B}, ids},
       {"kernel", real, {E, 4 * H}},
       {"recurrent kernel", real, {H, 4 * H}},
       {"gates", real, {T, B, 4 * H}},
       {"h of all steps", real, {T + 1, B, H}},
       {"c of all steps", real, {T + 1, B, H}},
       {"d of final h", real, {B, H}},
       {"d of final c", real, {B, H}},
       {"d of outputs", real, {T, B, H}, sequences},
       {"input mask", real, {B, E}, input_masks == 1},
       {"input mask", real, {kGates, B, E}, input_masks == kGates},
       {"recurrent mask", real, {B, H}, recurrent_masks == 1},
       {"recurrent mask", real, {kGates, B, H}, recurrent_masks == kGates},
       {"valid", ffi::PRED, {T, B}, masked},
       {"tokens", ffi::S32, {T, B}, tokens},
       {"resets", ffi::PRED, {T, B}, resets},
       {"h of resets", real, {B, H}, resets},
       {"c of resets", real, {B, H}, resets}},
      {{"d of h", real, {B, H}},
       {"d of c", real, {B, H}},
       {"d of kernel", real, {E, 4 * H}},
       {"d of recurrent kernel", real, {H, 4 * H}},
       {"d of bias", real, {4 * H}},
       {"d of x", real, {T, B, E}, d_x},
       {"d of h of resets", real, {B, H}, resets},
       {"d of c of resets", real, {B, H}, resets}});
}

}  // namespace
