// The contracts of the two calls: the names of their operands and results, by which all other code
// knows them, and their attributes.
#pragma once

#include "call.h"
#include "operands.h"

namespace {

// Steps, rows of the batch, features and units.
constexpr Extent T = letter_of('T'), B = letter_of('B'), E = letter_of('E'), H = letter_of('H');

// Return whether this library has products of a kind.
inline bool has_products(int64_t products) {
  return products == kFull || (products == kPairs && kHasPairs) ||
         (products == kQuads && kHasQuads);
}

// The dtype of the call's numbers: the kernel's decides.
inline ffi::DataType real_of(const Call& call) {
  return real_type(call.args.buffers(), call.args.find("kernel"));
}

// Check the attributes of both calls.
inline ffi::Error check_attributes(const Contract& contract, const Call& call, bool gradient) {
  const int64_t cell = call.cell, products = call.products;
  const bool known = cell >= 0 && cell < kCellCount;
  const std::string numbers = "give 0 to " + std::to_string(kCellCount - 1);
  return contract.check_attributes({
      {"cell", double(cell), known, numbers.c_str()},
      {"products", double(products), products >= 0 && products < kProductsCount,
       "give 0, 1 (bfloat16) or 2 (int8)"},
      {"products", double(products), products != kQuads || !known || kShapes[cell].parts == 1,
       "give 0 or 1 for a cell with several parts of h"},
      {"products", double(products), has_products(products),
       "give 0, or build the library for a processor with AVX512-BF16 and AVX512-VNNI"},
      {"products", double(products), products == kFull || real_of(call) == ffi::F32,
       "give 0 with parameters in float64"},
      {"products", double(products), products != kQuads || !gradient, "give 0 or 1 for a gradient"},
      threads_attribute(call.threads),
  });
}

// Check the order of x, after the arrays have been checked: few_forward.h and few_backward.h have
// one order.
inline ffi::Error check_order(const Contract& contract, bool batch_first) {
  if (!batch_first || contract.number_of(B) > kMostFewRows) return ffi::Error::Success();
  return contract.invalid("batch_first", "1",
                          "give 0 for " + std::to_string(kMostFewRows) + " rows or fewer");
}

// Whether a call has a mask, one for all gates or one for each.
struct MaskKinds {
  bool shared, per_gate;
};

inline MaskKinds mask_kinds(const Call& call, const char* name, int64_t gates) {
  if (!call.args.has(name)) return {false, false};
  const size_t rank = call.args[name].dimensions().size();
  const bool per_gate = gates > 1 && rank == Sets(call.args, call.rets).rank() + 3;
  return {!per_gate, per_gate};
}

inline ffi::Error check_forward(const Call& call) {
  const ffi::Arrays &in = call.args, &out = call.rets;
  const ffi::DataType real = real_of(call);
  Contract contract("lstm_jax_forward", in, out);
  const bool keep = out.has("c of all steps") || out.has("kept");
  ffi::Error error = check_attributes(contract, call, keep);
  if (error.failure()) return error;
  const CellShape& of = kShapes[call.cell];
  const int gates = of.gates;
  const bool ids = in.has("ids"), resets = in.has("resets"), batch_first = call.batch_first;
  const MaskKinds input = mask_kinds(call, "input mask", gates),
                  recurrent = mask_kinds(call, "recurrent mask", gates);
  error = contract.check_arrays(
      {{"x", real, {T, B, E}, !ids && !batch_first},
       {"x", real, {B, T, E}, !ids && batch_first},
       {"ids", ffi::S32, {T, B}, ids},
       {"kernel", real, {E, gates * H}},
       {"recurrent kernel", real, {of.parts * H, gates * H}, of.recurrent},
       {"bias", real, {gates * H}},
       {"extras", real, {of.extras * H}, of.extras > 0},
       {"h", real, {B, of.parts * H}},
       {"c", real, {B, of.cells * H}, of.cells > 0},
       {"input mask", real, {B, E}, !ids && input.shared},
       {"input mask", real, {gates, B, E}, !ids && input.per_gate},
       {"recurrent mask", real, {B, of.parts * H}, of.recurrent && recurrent.shared},
       {"recurrent mask", real, {gates, B, of.parts * H}, of.recurrent && recurrent.per_gate},
       {"valid", ffi::PRED, {T, B}, in.has("valid")},
       {"tokens", ffi::S32, {T, B}, in.has("tokens")},
       {"resets", ffi::PRED, {T, B}, resets},
       {"h of resets", real, {B, of.parts * H}, resets},
       {"c of resets", real, {B, of.cells * H}, resets && of.cells > 0}},
      {{"final h", real, {B, of.parts * H}},
       {"final c", real, {B, of.cells * H}, of.cells > 0},
       {"h of all steps", real, {T + 1, B, of.parts * H}, keep || out.has("h of all steps")},
       {"c of all steps", real, {T + 1, B, of.cells * H}, keep && of.cells > 0},
       {"kept", real, {T, B, of.kept * H}, keep && of.kept > 0},
       {"outputs", real, {B, T, H}, batch_first && out.has("outputs")}});
  return error.failure() ? error : check_order(contract, batch_first);
}

inline ffi::Error check_backward(const Call& call) {
  const ffi::Arrays &in = call.args, &out = call.rets;
  const ffi::DataType real = real_of(call);
  Contract contract("lstm_jax_backward", in, out);
  ffi::Error error = check_attributes(contract, call, true);
  if (error.failure()) return error;
  const CellShape& of = kShapes[call.cell];
  const int gates = of.gates;
  const bool ids = in.has("ids"), resets = in.has("resets"), batch_first = call.batch_first;
  const bool by_outputs = in.has("d of outputs"), by_x = !ids && out.has("d of x");
  const MaskKinds input = mask_kinds(call, "input mask", gates),
                  recurrent = mask_kinds(call, "recurrent mask", gates);
  error = contract.check_arrays(
      {{"x", real, {T, B, E}, !ids && !batch_first},
       {"x", real, {B, T, E}, !ids && batch_first},
       {"ids", ffi::S32, {T, B}, ids},
       {"kernel", real, {E, gates * H}},
       {"recurrent kernel", real, {of.parts * H, gates * H}, of.recurrent},
       {"extras", real, {of.extras * H}, of.extras > 0},
       {"kept", real, {T, B, of.kept * H}, of.kept > 0},
       {"h of all steps", real, {T + 1, B, of.parts * H}},
       {"c of all steps", real, {T + 1, B, of.cells * H}, of.cells > 0},
       {"d of final h", real, {B, of.parts * H}},
       {"d of final c", real, {B, of.cells * H}, of.cells > 0},
       {"d of outputs", real, {T, B, H}, by_outputs && !batch_first},
       {"d of outputs", real, {B, T, H}, by_outputs && batch_first},
       {"input mask", real, {B, E}, !ids && input.shared},
       {"input mask", real, {gates, B, E}, !ids && input.per_gate},
       {"recurrent mask", real, {B, of.parts * H}, of.recurrent && recurrent.shared},
       {"recurrent mask", real, {gates, B, of.parts * H}, of.recurrent && recurrent.per_gate},
       {"valid", ffi::PRED, {T, B}, in.has("valid")},
       {"tokens", ffi::S32, {T, B}, in.has("tokens")},
       {"resets", ffi::PRED, {T, B}, resets},
       {"h of resets", real, {B, of.parts * H}, resets},
       {"c of resets", real, {B, of.cells * H}, resets && of.cells > 0}},
      {{"d of h", real, {B, of.parts * H}},
       {"d of c", real, {B, of.cells * H}, of.cells > 0},
       {"d of kernel", real, {E, gates * H}},
       {"d of recurrent kernel", real, {of.parts * H, gates * H}, of.recurrent},
       {"d of bias", real, {gates * H}},
       {"d of extras", real, {of.extras * H}, of.extras > 0},
       {"d of x", real, {T, B, E}, by_x && !batch_first},
       {"d of x", real, {B, T, E}, by_x && batch_first},
       {"d of h of resets", real, {B, of.parts * H}, resets},
       {"d of c of resets", real, {B, of.cells * H}, resets && of.cells > 0}});
  return error.failure() ? error : check_order(contract, batch_first);
}

}  // namespace
