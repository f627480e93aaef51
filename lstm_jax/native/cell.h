// What a recurrent cell adds to the products of a step: the sizes of its arrays, and its functions
// between the products.
//
// A cell is a class like those in lstm_cells.h, for vectors of units. Its members are:
//   kGates      gates with columns in the kernels W (E, kGates H) and U (kParts H, kGates H)
//   kKept       numbers (H) kept for the backward pass in addition to the states, a step and row
//   kCells      arrays (H) that make up c, the part of the state that no product reads: 0 or 1 for
//   most cells kParts      arrays (H) that make up h, 1 for most cells. All enter the product with
//   U; with more than one, kDirect is false, and of gate
//               kFirstPartGate only the first H rows of U may differ from 0
//   kRecurrent  whether the cell has U; without it, kDirect is true and there are no late gates
//   kDirect     whether h of the step before also enters the step outside of the product with U
//   kExtras     further parameters (H)
//   kSlots      gradients (H) a step and row. The first kGates are those of x W;
//   kRecurrentSlots[gate] is the one of h U. Sums of slots over all
//               steps and rows are the gradients of the bias (kBiasSlots[gate]) and of further
//               parameter n (kExtraSlots[n]).
//   kLateGates  gates, the last ones, whose product with U has another factor than h: `inner` (H),
//   which depends on the other gates forward     x and u (kGates): x W + b and h U (unset without
//   U) -> the state after the step, and what is kept backward    d_h and d_c, of the state after
//   the step -> the slots, d of c before the step and, if kDirect, d of h before the step
//               (if kParts or kCells is more than 1, h and d_h, or c and d_c, are arrays of
//               vectors)
// and with late gates, for which kLateFactor is the number kept by which h is multiplied, and
// kDirect is true:
//   forward_inner   x and u -> `inner`, and u of the gates that are not late may be replaced
//   backward_inner  d of `inner` -> slot kInnerSlot, in which it finds what `backward` wrote, and
//   what it adds to d of h before the step
#pragma once

#include <cstdint>
#include <cstring>

#include "gates.h"
#include "vectors.h"

namespace {

// At most this many of each in a cell.
constexpr int kMostGates = 4, kMostKept = 12, kMostExtras = 10;

// What the engine knows of a cell.
struct CellShape {
  int gates, kept, slots, extras, late_gates, late_factor, parts, first_part_gate, cells;
  bool recurrent, direct;
  bool whole_rows;  // sums over the units of a row, as in layernorm.h: the bias is not added to x W
  bool shares_units;  // has code for few rows, few_forward.h and few_backward.h
  int recurrent_slots[kMostGates], bias_slots[kMostGates], extra_slots[kMostExtras];
};

// The vector of `count` units from `at` on of each number that a cell may read. An array is null if
// the cell has no such number.
template <typename T>
struct Units {
  int64_t units, at;
  int count;
  const T *extras, *kept, *h_before, *c_before, *h, *c;
  Vec<T> extra(int n) const { return load(extras + n * units + at, count); }
  Vec<T> kept_of(int n) const { return load(kept + n * units + at, count); }
  Vec<T> of(const T* array) const { return load(array + at, count); }
};

// The vectors that make up h or c, as a cell's functions have them: the only one, or the array of
// several.
template <typename T, size_t PARTS>
LSTM_INLINE decltype(auto) parts_of(Vec<T> (&parts)[PARTS]) {
  if constexpr (PARTS == 1)
    return (parts[0]);
  else
    return (parts);
}

template <typename Cell>
constexpr CellShape shape_of() {
  CellShape shape{
      Cell::kGates, Cell::kKept, Cell::kSlots, Cell::kExtras,    Cell::kLateGates, 0,
      Cell::kParts, -1,          Cell::kCells, Cell::kRecurrent, Cell::kDirect,    false,
      false};
  if constexpr (Cell::kLateGates > 0) shape.late_factor = Cell::kLateFactor;
  if constexpr (Cell::kParts > 1) {
    static_assert(Cell::kFirstPartGate > 0 && Cell::kFirstPartGate < Cell::kGates - 1,
                  "the first and the last gate begin and end a product");
    shape.first_part_gate = Cell::kFirstPartGate;
  }
  for (int gate = 0; gate < Cell::kGates; ++gate) {
    shape.recurrent_slots[gate] = Cell::kRecurrentSlots[gate];
    shape.bias_slots[gate] = Cell::kBiasSlots[gate];
  }
  for (int n = 0; n < Cell::kExtras; ++n) shape.extra_slots[n] = Cell::kExtraSlots[n];
  return shape;
}

}  // namespace
