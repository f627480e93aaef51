"""Names of the recurrent cells, free of JAX so that the command line's help needs none.

A cell of one's own joins by `lstm_jax.register_cell`. Modules named in `$LSTM_JAX_CELLS` (separated by commas) are imported when the names
are first asked for, so that the command line and the bench's processes know the cells that these modules register.
"""

import functools
import importlib
import os
from dataclasses import dataclass
from typing import Literal, get_args

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
"""The cells of this project, those of `lstm_jax.cells.BUILT_IN`."""


@dataclass(frozen=True)
class CellTraits:
    """Traits of a cell that a config checks. product: its gates have a product with the state; memory: its state has a part c."""

    product: bool
    memory: bool


TRAITS = {name: CellTraits(not name.startswith("min_"), name.startswith("lstm")) for name in get_args(CellName)}
"""Registered cells join by `lstm_jax.cells.register_cell`."""


def cell_traits() -> dict[str, CellTraits]:
    """Return the traits of every cell by name, those of modules in `$LSTM_JAX_CELLS` included.

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
    except Exception as error:  # whatever the module does when it is imported
        remedy = "name modules that Python can import and that call lstm_jax.register_cell"
        raise InputError(f"${MODULES}", f"{name}: {type(error).__name__}: {error}", remedy) from error
