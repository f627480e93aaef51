"""Recurrent cells. `CELLS` is the only table of them: name -> Cell; `register_cell` adds a user's own."""

import functools
from collections.abc import Callable
from dataclasses import replace

import jax
import jax.numpy as jnp

from lstm_jax.cell_names import TRAITS, CellTraits, cell_traits
from lstm_jax.cells import gate_ablations, gru, layernorm_lstm, lstm, min_rnns, peephole_lstm, simple_rnn
from lstm_jax.cells.activations import Activation, find_activation
from lstm_jax.cells.cell import Cell, check_cell
from lstm_jax.cells.gate_ablations import VARIANTS, GateRecurrentParams, GateRecurrentState
from lstm_jax.cells.gru import GRUParams, ResetBeforeParams
from lstm_jax.cells.layernorm_lstm import LayerNormParams
from lstm_jax.cells.lstm import LSTMParams, LSTMState
from lstm_jax.cells.min_rnns import MinParams
from lstm_jax.cells.peephole_lstm import PeepholeParams
from lstm_jax.cells.simple_rnn import HiddenState, SimpleRNNParams
from lstm_jax.errors import require


def _ablation(variant: str) -> Cell:
    gates = VARIANTS[variant]
    bias, of_gates = gate_ablations.make_bias(gates), gate_ablations.make_init(gates)
    return Cell(f"lstm_{variant}", len(gates), LSTMParams, of_gates, bias, lstm.initial_state, gate_ablations.make_step(variant))


def _minimal(name: str, gates: int, linear: Callable) -> Cell:
    init, bias = min_rnns.make_init(gates), min_rnns.make_bias(gates)
    return Cell(name, gates, MinParams, init, bias, simple_rnn.initial_state, min_rnns.make_step(linear), linear=linear)


_ROWS = (
    Cell("lstm", 4, LSTMParams, lstm.init, lstm.bias, lstm.initial_state, lstm.step),
    Cell("gru", 3, GRUParams, gru.init, gru.bias, gru.initial_state, gru.step),
    Cell("gru_reset_before", 3, ResetBeforeParams, gru.init_reset_before, gru.bias, gru.initial_state, gru.step_reset_before),
    Cell("simple_rnn", 1, SimpleRNNParams, simple_rnn.init, simple_rnn.bias, simple_rnn.initial_state, simple_rnn.step),
    Cell(
        "lstm_layernorm",
        4,
        LayerNormParams,
        layernorm_lstm.init,
        lstm.bias,
        lstm.initial_state,
        layernorm_lstm.step,
        layernorm_lstm.project,
    ),
    Cell("lstm_peephole", 4, PeepholeParams, peephole_lstm.init, lstm.bias, lstm.initial_state, peephole_lstm.step),
    *(_ablation(variant) for variant in VARIANTS if variant != "full_gate_recurrence"),
    Cell(
        "lstm_full_gate_recurrence",
        4,
        GateRecurrentParams,
        gate_ablations.init_gate_recurrent,
        lstm.bias,
        gate_ablations.initial_gate_recurrent_state,
        gate_ablations.step_gate_recurrent,
    ),
    _minimal("min_lstm", 3, min_rnns.linear_lstm),
    _minimal("min_gru", 2, min_rnns.linear_gru),
)
CELLS = {cell.name: cell for cell in _ROWS}
BUILT_IN = frozenset(_ROWS)
"""The cells of this project, among those of `CELLS`."""
_STEPS: dict[str, Callable[..., Callable]] = {
    "lstm": lstm.make_step,
    "gru": gru.make_step,
    "gru_reset_before": gru.make_step_reset_before,
    "simple_rnn": lambda activation, _: simple_rnn.make_step(activation),
}
"""Cells whose activations can be chosen: those that Keras has."""


def find_cell(cell: str | Cell) -> Cell:
    """Return the cell of that name in `CELLS`, or the given one if its functions fit together.

    Raises:
        InputError: if there is no such cell, or the given one breaks the contract of `Cell`.
    """
    if isinstance(cell, str):
        cell_traits()  # the user's own modules register theirs
        require(cell in CELLS, "cell", cell, f"give one of {', '.join(CELLS)}")
        return CELLS[cell]
    if not (isinstance(cell, Cell) and cell in BUILT_IN):
        check_cell(cell)
    return cell


def register_cell(cell: Cell) -> Cell:
    """Add a cell of one's own to `CELLS`, so that layers, configs and the bench know it by name, and return it.

    Raises:
        InputError: if another cell has that name, or the cell breaks the contract of `Cell`.
    """
    check_cell(cell)
    taken = CELLS.get(cell.name, cell)
    require(taken is cell, "cell", cell.name, "another cell has this name: give a new one")
    plain = cell.name.replace("_", "a").isalnum() and cell.name.isascii()
    require(plain, "cell name", cell.name, "give ASCII letters, digits and _, as the command line takes it")
    CELLS[cell.name] = cell
    TRAITS[cell.name] = CellTraits(cell.sees_state, "c" in cell.initial_state(1, 1)._fields)
    return cell


def with_activations(cell: Cell, activation: str | Activation | None, recurrent_activation: str | Activation | None) -> Cell:
    """Return an LSTM, GRU or simple RNN cell with other activations than tanh and sigmoid; the cell itself for those two.

    Raises:
        InputError: if an activation is unknown, or the cell's activations cannot be chosen.
    """
    inner, gates = find_activation(activation), find_activation(recurrent_activation, "recurrent_activation")
    if inner is jnp.tanh and gates is jax.nn.sigmoid:
        return cell
    known = cell.name in _STEPS and cell in BUILT_IN
    remedy = f"the cell {cell.name} has its own: leave it out, or use {', '.join(_STEPS)}"
    name, given = ("recurrent_activation", recurrent_activation) if inner is jnp.tanh else ("activation", activation)
    require(known, name, getattr(given, "__name__", given), remedy)
    require(
        cell.name != "simple_rnn" or gates is jax.nn.sigmoid,
        "recurrent_activation",
        recurrent_activation,
        "simple_rnn has none: leave it out",
    )
    return _variant(cell, inner, gates)


@functools.cache
def _variant(cell: Cell, activation: Activation, recurrent_activation: Activation) -> Cell:
    """One object for equal arguments, so that compiled programs are found again."""
    used = [activation] if cell.name == "simple_rnn" else [activation, recurrent_activation]
    name = f"{cell.name}({', '.join(getattr(f, '__name__', 'function') for f in used)})"
    return replace(cell, name=name, step=_STEPS[cell.name](activation, recurrent_activation))


__all__ = [
    "BUILT_IN",
    "CELLS",
    "Cell",
    "GRUParams",
    "GateRecurrentParams",
    "GateRecurrentState",
    "HiddenState",
    "LSTMParams",
    "LSTMState",
    "LayerNormParams",
    "MinParams",
    "PeepholeParams",
    "ResetBeforeParams",
    "SimpleRNNParams",
    "check_cell",
    "find_cell",
    "register_cell",
    "with_activations",
]
