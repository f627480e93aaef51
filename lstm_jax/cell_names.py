"""Names and traits of the recurrent cells, free of JAX so that the help of the command line needs none.

Other cells are added by `lstm_jax.register_cell`. Modules named in `$LSTM_JAX_CELLS` (separated by commas) are imported when the names are
first needed, so that the command line and the processes of the benchmarks know the cells that these modules register.
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
"""Cells of this project, the names in `lstm_jax.cells.BUILT_IN`."""


@dataclass(frozen=True)
class CellTraits:
    """Traits of a cell that a config checks.

    product: its gates multiply the state by a kernel; memory: its state has a part c.
    """

    product: bool
    memory: bool


TRAITS = {
    "lstm": CellTraits(product=True, memory=True),
    "gru": CellTraits(product=True, memory=False),
    "gru_reset_before": CellTraits(product=True, memory=False),
    "simple_rnn": CellTraits(product=True, memory=False),
    "lstm_layernorm": CellTraits(product=True, memory=True),
    "lstm_peephole": CellTraits(product=True, memory=True),
    "lstm_no_input_gate": CellTraits(product=True, memory=True),
    "lstm_no_forget_gate": CellTraits(product=True, memory=True),
    "lstm_no_output_gate": CellTraits(product=True, memory=True),
    "lstm_coupled": CellTraits(product=True, memory=True),
    "lstm_no_input_activation": CellTraits(product=True, memory=True),
    "lstm_no_output_activation": CellTraits(product=True, memory=True),
    "lstm_full_gate_recurrence": CellTraits(product=True, memory=True),
    "min_lstm": CellTraits(product=False, memory=False),
    "min_gru": CellTraits(product=False, memory=False),
}
"""Traits by name; `lstm_jax.cells.register_cell` adds those of other cells, read from the cell itself."""


def cell_traits() -> dict[str, CellTraits]:
    """Return the traits of every cell by name, including cells of modules in `$LSTM_JAX_CELLS`.

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
