"""Names and traits of the recurrent cells, free of JAX so that the command line's help needs none.

`lstm_jax.register_cell` adds a user's cell. Modules named in `$LSTM_JAX_CELLS` (separated by commas) are imported at the first call of
`cell_traits`, so that the command line and the processes of the benchmarks know the cells that these modules register.
"""

import functools
import importlib
import os
from dataclasses import dataclass
from typing import Literal

from lstm_jax.errors import InputError

MODULES = "LSTM_JAX_CELLS"
CellName = Literal[
    "lstm",
    "gru",
    "gru_reset_before",
    "simple_rnn",
    "lstm_layernorm",
    "lstm_peephole",
    "lstm_no_input_gate",
    "lstm_no_forget_gate",
    "lstm_no_output_gate",
    "lstm_coupled",
    "lstm_no_input_activation",
    "lstm_no_output_activation",
    "lstm_full_gate_recurrence",
    "min_lstm",
    "min_gru",
]
"""The cells of this project, the names in `lstm_jax.cells.BUILT_IN`."""


@dataclass(frozen=True)
class CellTraits:
    """Facts about a cell that a config checks, equal to those of its row in `lstm_jax.cells.CELLS`.

    Attributes:
        has_recurrent_kernel: whether its gates contain a product with the state.
        has_cell_state: whether its state has a part c.
    """

    has_recurrent_kernel: bool
    has_cell_state: bool


_BOTH, _KERNEL, _NEITHER = CellTraits(True, True), CellTraits(True, False), CellTraits(False, False)
TRAITS: dict[str, CellTraits] = {
    "lstm": _BOTH,
    "gru": _KERNEL,
    "gru_reset_before": _KERNEL,
    "simple_rnn": _KERNEL,
    "lstm_layernorm": _BOTH,
    "lstm_peephole": _BOTH,
    "lstm_no_input_gate": _BOTH,
    "lstm_no_forget_gate": _BOTH,
    "lstm_no_output_gate": _BOTH,
    "lstm_coupled": _BOTH,
    "lstm_no_input_activation": _BOTH,
    "lstm_no_output_activation": _BOTH,
    "lstm_full_gate_recurrence": _BOTH,
    "min_lstm": _NEITHER,
    "min_gru": _NEITHER,
}
"""The traits of each cell; `lstm_jax.cells.register_cell` adds rows."""


def cell_traits() -> dict[str, CellTraits]:
    """Return the traits of every cell by name, including cells of the modules in `$LSTM_JAX_CELLS`.

    Raises:
        InputError: if such a module cannot be imported.
    """
    for name in filter(None, os.environ.get(MODULES, "").replace(" ", "").split(",")):
        _import(name)
    return TRAITS


@functools.cache
def _import(name: str) -> None:
    try:
        importlib.import_module(name)
    except InputError:
        raise
    except Exception as error:  # a user's module may raise anything
        remedy = "name modules that Python can import and that call lstm_jax.register_cell"
        raise InputError(f"${MODULES}", f"{name}: {type(error).__name__}: {error}", remedy) from error
