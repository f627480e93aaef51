// The contracts of the two calls: their operands, results and attributes.
#pragma once

#include "call.h"
#include "operands.h"

namespace {

// Steps, rows of the batch, features and units.
constexpr Extent T = letter_of('T'), B = letter_of('B'), E = letter_of('E'), H = letter_of('H');

inline bool is_kind(int64_t kinds, int64_t gates) {
  return kinds == 0 || kinds == 1 || kinds == gates;
}

// Return whether this library has products of a kind.
inline bool has_products(int64_t products) {
  return products == kFull || (products == kPairs && kHasPairs) ||
         (products == kQuads && kHasQuads);
}

// Check the attributes of both calls.
inline ffi::Error check_attributes(const Contract& contract, ffi::DataType real,
                                   const Options& options, bool keep) {
  const auto [cell, ids, input_masks, recurrent_masks, masked, tokens, resets, batch_first,
              products, sequences, keep_or_d_x, threads] = options;
  const bool known = cell >= 0 && cell < kCellCount;
  const int64_t gates = known ? kShapes[cell].gates : 1;
  const std::string kinds = gates == 1 ? "give 0 or 1" : "give 0, 1 or " + std::to_string(gates),
                    numbers = "give 0 to " + std::to_string(kCellCount - 1);
  return contract.check_attributes({
      {"cell", double(cell), known, numbers.c_str()},
      {"input_masks", double(input_masks), is_kind(input_masks, gates), kinds.c_str()},
      {"input_masks", double(input_masks), !ids || input_masks == 0,
       "give 0 with ids, which have no features to drop"},
      {"recurrent_masks", double(recurrent_masks), is_kind(recurrent_masks, gates), kinds.c_str()},
      {"recurrent_masks", double(recurrent_masks),
       !known || kShapes[cell].recurrent || recurrent_masks == 0,
       "give 0 for a cell without a recurrent kernel"},
      {"products", double(products), products >= 0 && products < kProductsCount,
       "give 0, 1 (bfloat16) or 2 (int8)"},
      {"products", double(products), products != kQuads || !known || kShapes[cell].parts == 1,
       "give 0 or 1 for a cell with several parts of h"},
      {"products", double(products), has_products(products),
       "give 0, or build the library for a processor with AVX512-BF16 and AVX512-VNNI"},
      {"products", double(products), products == kFull || real == ffi::F32,
       "give 0 with parameters in float64"},
      {"products", double(products), products != kQuads || !keep, "give 0 or 1 for a gradient"},
      threads_attribute(threads),
  });
}

// Check the order of x, after the arrays have been checked: few_forward.h and few_backward.h have
// one order.
inline ffi::Error check_order(const Contract& contract, bool batch_first) {
  if (!batch_first || contract.number_of(B) > kMostFewRows) return ffi::Error::Success();
  return contract.invalid("batch_first", "1",
                          "give 0 for " + std::to_string(kMostFewRows) + " rows or fewer");
}

inline ffi::Error check_forward(const ffi::Buffers& args, const ffi::Buffers& rets,
                                const Options& options) {
  const auto [cell, ids, input_masks, recurrent_masks, masked, tokens, resets, batch_first,
              products, sequences, keep, threads] = options;
  const ffi::DataType real = real_type(args, 1);
  Contract contract("lstm_jax_forward", args, rets, 2);
  ffi::Error error = check_attributes(contract, real, options, keep);
  if (error.failure()) return error;
  const CellShape& of = kShapes[cell];
  const int gates = of.gates;
  error = contract.check_arrays(
      {{"x", real, {T, B, E}, !ids && !batch_first},
       {"x", real, {B, T, E}, !ids && batch_first},
       {"ids", ffi::S32, {T, B}, ids},
       {"kernel", real, {E, gates * H}},
       {"recurrent kernel", real, {of.parts * H, gates * H}, of.recurrent},
       {"bias", real, {gates * H}},
       {of.extra_name, real, {of.extras * H}, of.extras > 0},
       {"h", real, {B, of.parts * H}},
       {"c", real, {B, of.cells * H}, of.cells > 0},
       {"input mask", real, {B, E}, input_masks == 1},
       {"input mask", real, {gates, B, E}, input_masks > 1},
       {"recurrent mask", real, {B, of.parts * H}, recurrent_masks == 1},
       {"recurrent mask", real, {gates, B, of.parts * H}, recurrent_masks > 1},
       {"valid", ffi::PRED, {T, B}, masked},
       {"tokens", ffi::S32, {T, B}, tokens},
       {"resets", ffi::PRED, {T, B}, resets},
       {"h of resets", real, {B, of.parts * H}, resets},
       {"c of resets", real, {B, of.cells * H}, resets && of.cells > 0}},
      {{"final h", real, {B, of.parts * H}},
       {"final c", real, {B, of.cells * H}, of.cells > 0},
       {"h of all steps", real, {T + 1, B, of.parts * H}, keep || (sequences && !batch_first)},
       {"c of all steps", real, {T + 1, B, of.cells * H}, keep && of.cells > 0},
       {"kept", real, {T, B, of.kept * H}, keep && of.kept > 0},
       {"outputs", real, {B, T, H}, sequences && batch_first}});
  return error.failure() ? error : check_order(contract, batch_first);
}

inline ffi::Error check_backward(const ffi::Buffers& args, const ffi::Buffers& rets,
                                 const Options& options) {
  const auto [cell, ids, input_masks, recurrent_masks, masked, tokens, resets, batch_first,
              products, sequences, d_x, threads] = options;
  const ffi::DataType real = real_type(args, 1);
  Contract contract("lstm_jax_backward", args, rets, 2);
  ffi::Error error = check_attributes(contract, real, options, true);
  if (error.failure()) return error;
  if (ids && d_x) return contract.invalid("d_x", "1", "give 0 with ids, which have no gradient");
  const CellShape& of = kShapes[cell];
  const int gates = of.gates;
  const std::string d_extras = std::string("d of ") + of.extra_name;
  error = contract.check_arrays(
      {{"x", real, {T, B, E}, !ids && !batch_first},
       {"x", real, {B, T, E}, !ids && batch_first},
       {"ids", ffi::S32, {T, B}, ids},
       {"kernel", real, {E, gates * H}},
       {"recurrent kernel", real, {of.parts * H, gates * H}, of.recurrent},
       {of.extra_name, real, {of.extras * H}, of.extras > 0},
       {"kept", real, {T, B, of.kept * H}, of.kept > 0},
       {"h of all steps", real, {T + 1, B, of.parts * H}},
       {"c of all steps", real, {T + 1, B, of.cells * H}, of.cells > 0},
       {"d of final h", real, {B, of.parts * H}},
       {"d of final c", real, {B, of.cells * H}, of.cells > 0},
       {"d of outputs", real, {T, B, H}, sequences && !batch_first},
       {"d of outputs", real, {B, T, H}, sequences && batch_first},
       {"input mask", real, {B, E}, input_masks == 1},
       {"input mask", real, {gates, B, E}, input_masks > 1},
       {"recurrent mask", real, {B, of.parts * H}, recurrent_masks == 1},
       {"recurrent mask", real, {gates, B, of.parts * H}, recurrent_masks > 1},
       {"valid", ffi::PRED, {T, B}, masked},
       {"tokens", ffi::S32, {T, B}, tokens},
       {"resets", ffi::PRED, {T, B}, resets},
       {"h of resets", real, {B, of.parts * H}, resets},
       {"c of resets", real, {B, of.cells * H}, resets && of.cells > 0}},
      {{"d of h", real, {B, of.parts * H}},
       {"d of c", real, {B, of.cells * H}, of.cells > 0},
       {"d of kernel", real, {E, gates * H}},
       {"d of recurrent kernel", real, {of.parts * H, gates * H}, of.recurrent},
       {"d of bias", real, {gates * H}},
       {d_extras.c_str(), real, {of.extras * H}, of.extras > 0},
       {"d of x", real, {T, B, E}, d_x && !batch_first},
       {"d of x", real, {B, T, E}, d_x && batch_first},
       {"d of h of resets", real, {B, of.parts * H}, resets},
       {"d of c of resets", real, {B, of.cells * H}, resets && of.cells > 0}});
  return error.failure() ? error : check_order(contract, batch_first);
}

}  // namespace
