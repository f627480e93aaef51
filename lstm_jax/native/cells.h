// The cells that the engine runs, in the order of the attribute `cell` of a call; compiled_cells.py
// has them in the same order.
#pragma once

#include <type_traits>

#include "gate_recurrent.h"
#include "hidden_cells.h"
#include "layernorm.h"
#include "lstm_cells.h"
#include "minimal_cells.h"
#include "slstm.h"

namespace {

// The table made of a row for each cell, for numbers of type T.
template <typename T, template <typename, typename...> class Table>
using OfCells = Table<T, LSTMCell<T, 0>,           // lstm
                      GRUCell<T>,                  // gru
                      SimpleRNNCell<T>,            // simple_rnn
                      ResetBeforeCell<T>,          // gru_reset_before
                      LayerNormCell,               // lstm_layernorm
                      LSTMCell<T, kPeepholes>,     // lstm_peephole
                      LSTMCell<T, kNoInputGate>,   // lstm_no_input_gate
                      LSTMCell<T, kNoForgetGate>,  // lstm_no_forget_gate
                      LSTMCell<T, kNoOutputGate>,  // lstm_no_output_gate
                      LSTMCell<T, kCoupled>,       // lstm_coupled
                      LSTMCell<T, kLinearInput>,   // lstm_no_input_activation
                      LSTMCell<T, kLinearOutput>,  // lstm_no_output_activation
                      MinLSTMCell<T>,              // min_lstm
                      MinGRUCell<T>,               // min_gru
                      GateRecurrentCell<T>,        // lstm_full_gate_recurrence
                      SLSTMCell<T>>;               // slstm

// Whether a cell has code for few rows.
template <typename Cell>
constexpr bool kSharesUnits = Cell::kRecurrent && Cell::kParts == 1 && Cell::kCells < 2 &&
                              Cell::kLateGates == 0 && !std::is_same_v<Cell, LayerNormCell>;

template <typename Cell>
constexpr CellShape shape_in_table() {
  CellShape shape = shape_of<Cell>();
  shape.whole_rows = std::is_same_v<Cell, LayerNormCell>;
  shape.shares_units = kSharesUnits<Cell>;
  return shape;
}

template <typename T, typename... Cells>
struct Shapes {
  static constexpr CellShape rows[] = {shape_in_table<Cells>()...};
};

constexpr const CellShape* kShapes = OfCells<float, Shapes>::rows;
constexpr int64_t kCellCount = sizeof(OfCells<float, Shapes>::rows) / sizeof(CellShape);

}  // namespace
