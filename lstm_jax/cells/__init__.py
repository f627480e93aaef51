"""Recurrent cells. `CELLS` is the only table of them: name -> Cell."""

from collections.abc import Callable
from dataclasses import dataclass

from lstm_jax.cells import gate_ablations, gru, layernorm_lstm, lstm, min_rnns, peephole_lstm, products, simple_rnn
from lstm_jax.cells.gate_ablations import VARIANTS, GateRecurrentParams, GateRecurrentState
from lstm_jax.cells.gru import GRUParams, ResetBeforeParams
from lstm_jax.cells.layernorm_lstm import LayerNormParams
from lstm_jax.cells.lstm import LSTMParams, LSTMState
from lstm_jax.cells.min_rnns import MinParams
from lstm_jax.cells.peephole_lstm import PeepholeParams
from lstm_jax.cells.simple_rnn import HiddenState, SimpleRNNParams


@dataclass(frozen=True)
class Cell:
    """What a backend needs to run a cell; every function is pure.

    gates: parts that the kernel's columns hold side by side; params: their NamedTuple; init(key, features, units, dtype) -> params;
    bias(units, dtype) -> the initial `bias` of it; initial_state(batch, units, dtype) -> state with a field `h`;
    project(params, x (T, B, E), input mask, compute dtype) -> z (T, B, gates * H);
    step(params, state, z (B, gates * H), recurrent mask, compute dtype) -> state.
    linear(z) -> a, b, where h' = a h + b: of the cells whose gates do not see h, else None.
    """

    name: str
    gates: int
    params: type
    init: Callable
    bias: Callable
    initial_state: Callable
    step: Callable
    project: Callable = products.project
    linear: Callable | None = None


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

__all__ = [
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
]
