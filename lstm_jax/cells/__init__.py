"""Recurrent cells. `CELLS` is the only table of them: name -> Cell."""

from collections.abc import Callable
from dataclasses import dataclass

from lstm_jax.cells import lstm
from lstm_jax.cells.lstm import LSTMParams, LSTMState


@dataclass(frozen=True)
class Cell:
    """What a backend needs to run a cell; every function is pure.

    init(key, features, units, dtype) -> params; initial_state(batch, units, dtype) -> state with a field `h`;
    project(params, x (T, B, E), input mask, compute dtype) -> z (T, B, gates * H);
    step(params, state, z (B, gates * H), recurrent mask, compute dtype) -> state.
    """

    name: str
    gates: int
    init: Callable
    initial_state: Callable
    project: Callable
    step: Callable


CELLS = {"lstm": Cell("lstm", 4, lstm.init, lstm.initial_state, lstm.project, lstm.step)}

__all__ = ["CELLS", "Cell", "LSTMParams", "LSTMState"]
