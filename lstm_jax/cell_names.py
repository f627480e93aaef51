"""Traits of the recurrent cells by name, for configs, which import no JAX.

The cells that Keras has are known here. For any other name the table `lstm_jax.cells.CELLS` is imported, and so are the modules named in
`$LSTM_JAX_CELLS` (separated by commas), so that the command line and the processes of the benchmarks know the cells that these modules
register.
"""

import functools
import importlib
import os
from dataclasses import dataclass

from lstm_jax.errors import InputError

MODULES = "LSTM_JAX_CELLS"


@dataclass(frozen=True)
class CellTraits:
    """Facts about a cell that a config checks, equal to those of its row in `lstm_jax.cells.CELLS`.

    Attributes:
        has_recurrent_kernel: whether its gates contain a product with the state.
        has_cell_state: whether its state has a part c.
    """

    has_recurrent_kernel: bool
    has_cell_state: bool


TRAITS = {
    "lstm": CellTraits(has_recurrent_kernel=True, has_cell_state=True),
    "gru": CellTraits(has_recurrent_kernel=True, has_cell_state=False),
    "gru_reset_before": CellTraits(has_recurrent_kernel=True, has_cell_state=False),
    "simple_rnn": CellTraits(has_recurrent_kernel=True, has_cell_state=False),
}
"""Traits of the cells that Keras has."""


def cell_traits(cell: str) -> CellTraits:
    """Return the traits of the cell of that name.

    Raises:
        InputError: if there is no cell of that name, or a module in `$LSTM_JAX_CELLS` cannot be imported.
    """
    if cell in TRAITS:
        return TRAITS[cell]
    row = importlib.import_module("lstm_jax.cells").find_cell(cell)  # not above, since it imports JAX
    return CellTraits(row.has_recurrent_kernel, row.has_cell_state)


def import_cells() -> None:
    """Import the modules in `$LSTM_JAX_CELLS`, which register the user's cells.

    Raises:
        InputError: if one cannot be imported.
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
