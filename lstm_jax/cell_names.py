"""Traits of the recurrent cells by name, for configs, which must not import JAX.

The traits of the cells that Keras also has are stored in this module. To look up any other name, `cell_traits` imports JAX, then the
modules that the environment variable `LSTM_JAX_CELLS` names, separated by commas, and then reads `lstm_jax.cells.CELLS`. In this way the
command line and the processes of the benchmarks find the cells that a user's modules register.
"""

import functools
import importlib
import os
from dataclasses import dataclass

from lstm_jax.errors import InputError

MODULES = "LSTM_JAX_CELLS"


@dataclass(frozen=True)
class CellTraits:
    """Traits of a cell that a config checks. They are equal to the properties of the same names of its `Cell` in `lstm_jax.cells.CELLS`.

    Attributes:
        has_recurrent_kernel: whether the cell multiplies its previous output h by a recurrent kernel.
        has_cell_state: whether the cell's state contains an array c besides h.
    """

    has_recurrent_kernel: bool
    has_cell_state: bool


TRAITS = {
    "lstm": CellTraits(has_recurrent_kernel=True, has_cell_state=True),
    "gru": CellTraits(has_recurrent_kernel=True, has_cell_state=False),
    "gru_reset_before": CellTraits(has_recurrent_kernel=True, has_cell_state=False),
    "simple_rnn": CellTraits(has_recurrent_kernel=True, has_cell_state=False),
}
"""Traits of the cells that Keras also has."""


def cell_traits(cell: str) -> CellTraits:
    """Return the traits of the cell that is named `cell`.

    Raises:
        InputError: if no cell has this name, or a module that the environment variable `LSTM_JAX_CELLS` names cannot be imported.
    """
    if cell in TRAITS:
        return TRAITS[cell]
    row = importlib.import_module("lstm_jax.cells").find_cell(cell)  # imported here, not at the top, since it imports JAX
    return CellTraits(row.has_recurrent_kernel, row.has_cell_state)


def import_cells() -> None:
    """Import the modules that the environment variable `LSTM_JAX_CELLS` names, which register the user's cells.

    Raises:
        InputError: if a module cannot be imported.
    """
    for name in filter(None, os.environ.get(MODULES, "").replace(" ", "").split(",")):
        _import(name)


@functools.cache
def _import(name: str) -> None:
    try:
        importlib.import_module(name)
    except InputError:
        raise
    except Exception as error:  # a user's module may raise anything
        remedy = "name modules that Python can import and that call lstm_jax.register_cell"
        raise InputError(f"${MODULES}", f"{name}: {type(error).__name__}: {error}", remedy) from error
