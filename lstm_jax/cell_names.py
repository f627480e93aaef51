"""Properties ("traits") of recurrent cells, which configs look up by the name of the
cell.

Configs must not import JAX. For the cells that Keras also has, such as "lstm", the
traits are therefore stored in this module. For any other name, `cell_traits` imports
JAX and the modules in which a user registers cells. It then looks up the name in
`lstm_jax.cells.CELLS`.

The environment variable `LSTM_JAX_CELLS` contains the names of the user's modules,
separated by commas. Through this variable, the command line and the benchmark processes
find the cells that the modules register.
"""

import functools
import importlib
import os

from lstm_jax.bounds import frozen
from lstm_jax.errors import parsing

MODULES = "LSTM_JAX_CELLS"


@frozen
class CellTraits:
    """Properties of a recurrent cell that configs check.

    The class `lstm_jax.cells.Cell` has properties with the same names. For the same
    cell, they have the same values.

    Attributes:
        has_recurrent_kernel: whether the cell multiplies its previous output h by a
            recurrent kernel.
        has_cell_state: whether the state of the cell contains an array c in addition to
            the output h.
    """

    has_recurrent_kernel: bool
    has_cell_state: bool


KERAS_CELLS = ("lstm", "gru", "gru_reset_before", "simple_rnn")
"""Names of the cells that Keras also has."""


def cell_traits(cell: str) -> CellTraits:
    """Return the traits of a cell, which are the properties that configs check (see
    `CellTraits`).
    """
    if cell in KERAS_CELLS:
        return CellTraits(has_recurrent_kernel=True, has_cell_state=cell == "lstm")
    # imported here, not at the top, since it imports JAX
    row = importlib.import_module("lstm_jax.cells").find_cell(cell)
    return CellTraits(row.has_recurrent_kernel, row.has_cell_state)


def import_cells() -> None:
    """Import the modules in which a user registers cells."""
    for name in filter(None, os.environ.get(MODULES, "").replace(" ", "").split(",")):
        _import(name)


@functools.cache
def _import(name: str) -> None:
    remedy = (
        "name modules that call lstm_jax.register_cell and that Python can import "
        "(PYTHONPATH=. adds those of the current folder)"
    )
    with parsing(f"${MODULES} {name}", remedy):
        importlib.import_module(name)
