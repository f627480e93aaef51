// The table of the cells.
#pragma once

#include "backward.h"
#include "few_backward.h"
#include "few_forward.h"
#include "forward.h"
#include "fused_lstm.h"
#include "gate_recurrent.h"
#include "hidden_cells.h"
#include "layernorm.h"
#include "lstm_cells.h"
#include "minimal_cells.h"

namespace {

// A cell's functions for numbers of type T.
template <typename T>
struct CellCode {
  CellShape shape;
  decltype(Forward<T>::step) step;
  decltype(Backward<T>::through) through, through_inner;
  // for few rows; null for a cell that has no such code
  StepUnits<T> step_units;
  ThroughUnits<T> through_units;
};

template <typename T, typename Cell>
constexpr CellCode<T> code_of() {
  static_assert(Cell::kRecurrent || (Cell::kDirect && Cell::kLateGates == 0), "without U, d of h has to pass outside of the product with U");
  CellCode<T> code{shape_of<Cell>(), &step_of<T, Cell>, &through_cell<T, Cell>, nullptr, nullptr, nullptr};
  if constexpr (Cell::kLateGates > 0) {
    code.through_inner = &through_inner<T, Cell>;
  } else if constexpr (Cell::kRecurrent && Cell::kParts == 1) {
    code.step_units = &step_units<T, Cell>;
    code.through_units = &through_units<T, Cell>;
  }
  return code;
}

template <typename T>
constexpr CellCode<T> code_of_lstm() {
  CellCode<T> code = code_of<T, LSTMCell<T, 0>>();
  code.step = &step_lstm<T>;
  return code;
}

template <typename T>
constexpr CellCode<T> code_of_layernorm() {
  CellCode<T> code{shape_of<LayerNormCell>(), &step_layernorm<T>, &through_layernorm<T>, nullptr, nullptr, nullptr};
  code.shape.whole_rows = true;
  return code;
}

// The attribute `cell` of a call is a number in this table; compiled_cells.py has the cells in the same order.
template <typename T>
constexpr CellCode<T> kCells[] = {
    code_of_lstm<T>(),  // lstm
    code_of<T, GRUCell<T>>(),  // gru
    code_of<T, SimpleRNNCell<T>>(),  // simple_rnn
    code_of<T, ResetBeforeCell<T>>(),  // gru_reset_before
    code_of_layernorm<T>(),  // lstm_layernorm
    code_of<T, LSTMCell<T, kPeepholes>>(),  // lstm_peephole
    code_of<T, LSTMCell<T, kNoInputGate>>(),  // lstm_no_input_gate
    code_of<T, LSTMCell<T, kNoForgetGate>>(),  // lstm_no_forget_gate
    code_of<T, LSTMCell<T, kNoOutputGate>>(),  // lstm_no_output_gate
    code_of<T, LSTMCell<T, kCoupled>>(),  // lstm_coupled
    code_of<T, LSTMCell<T, kLinearInput>>(),  // lstm_no_input_activation
    code_of<T, LSTMCell<T, kLinearOutput>>(),  // lstm_no_output_activation
    code_of<T, MinLSTMCell<T>>(),  // min_lstm
    code_of<T, MinGRUCell<T>>(),  // min_gru
    code_of<T, GateRecurrentCell<T>>(),  // lstm_full_gate_recurrence
};
constexpr int64_t kCellCount = sizeof(kCells<float>) / sizeof(kCells<float>[0]);

}  // namespace
