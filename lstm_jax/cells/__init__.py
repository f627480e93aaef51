"""Recurrent cells. The dict `CELLS` maps the name of each cell to the cell;
`register_cell` adds a user's cell to it.
"""

import functools
from dataclasses import replace

import jax
import jax.numpy as jnp

from lstm_jax.base.errors import check_choice, require
from lstm_jax.cells import (
    gru,
    layernorm_lstm,
    lstm,
    lstm_variants,
    min_rnns,
    simple_rnn,
)
from lstm_jax.cells.activations import Activation, activation_name, find_activation
from lstm_jax.cells.cell import MAKERS, Cell, check_cell, is_ours, made_by
from lstm_jax.cells.gru import GRUParams, ResetBeforeParams
from lstm_jax.cells.layernorm_lstm import LayerNormParams
from lstm_jax.cells.lru import LRUParams, lru
from lstm_jax.cells.lstm import LSTMParams, LSTMState
from lstm_jax.cells.lstm_variants import (
    GateRecurrentParams,
    GateRecurrentState,
    PeepholeParams,
)
from lstm_jax.cells.min_rnns import MinParams
from lstm_jax.cells.mlstm import MLSTMParams, MLSTMState, mlstm
from lstm_jax.cells.own import import_cells
from lstm_jax.cells.projected_lstm import NAME as PROJECTED
from lstm_jax.cells.projected_lstm import ProjectedParams, projected_lstm
from lstm_jax.cells.rg_lru import CELL as RG_LRU
from lstm_jax.cells.rg_lru import RGLRUParams, rg_lru
from lstm_jax.cells.simple_rnn import HiddenState, SimpleRNNParams
from lstm_jax.cells.slstm import SLSTMState, slstm

_OWN_INIT = (slstm(1), mlstm(1), RG_LRU, lru())
_ROWS = (
    lstm.CELL,
    gru.CELL,
    gru.RESET_BEFORE,
    simple_rnn.CELL,
    layernorm_lstm.CELL,
    *lstm_variants.CELLS,
    *min_rnns.CELLS,
    *_OWN_INIT,
)
CELLS = {cell.name: cell for cell in _ROWS}
BUILT_IN = frozenset(_ROWS)
"""Set of the cells that this library defines. Cells that a user registers are in
`CELLS` but not in this set."""
DRAWN_AS_IN_KERAS = BUILT_IN - set(_OWN_INIT)
"""Set of the cells whose parameters a layer draws by Keras' initialisers. Those of
other cells are drawn by their functions `init`."""


def _built_in(name: str) -> Cell:
    return next(cell for cell in _ROWS if cell.name == name)


for _row in _ROWS:
    made_by(_row, _built_in, _row.name)
_STATES = (LSTMState, HiddenState, GateRecurrentState, SLSTMState, MLSTMState)
# so that an exported program can have them
for _kind in (*_STATES, ProjectedParams, *dict.fromkeys(row.params for row in _ROWS)):
    jax.export.register_namedtuple_serialization(
        _kind, serialized_name=f"lstm_jax.{_kind.__name__}"
    )


def find_cell(cell: str | Cell) -> Cell:
    """Return the cell with the given name in `CELLS`, or check a given cell and return
    it.

    For a name, the modules in the environment variable `LSTM_JAX_CELLS`, which register
    cells of the user, are imported first.

    Raises:
        InputError: if no cell has the given name, if one of the modules cannot be
            imported, or if `check_cell` rejects the given cell.
    """
    if isinstance(cell, str):
        import_cells()
        check_choice("cell", cell, CELLS)
        return CELLS[cell]
    if not (isinstance(cell, Cell) and is_ours(cell)):
        check_cell(cell)
    return cell


def shown_name(cell: Cell, base: Cell) -> str:
    """Return the name of a layer's cell. If a user's cell has the name of a cell of
    this library, "custom " is put before the name.
    """
    known = {PROJECTED, *(own.name for own in BUILT_IN)}
    taken = base not in MAKERS and base.name.partition("(")[0] in known
    return f"custom {cell.name}" if taken else cell.name


def register_cell(cell: Cell) -> Cell:
    """Add a user's cell to the dict `CELLS` and return the cell. Layers, configs and
    benchmarks can then refer to it by its name.

    Raises:
        InputError: if another cell has the same name, the name contains a character
            that is not an ASCII letter, a digit or "_", or `check_cell` rejects the
            cell.
    """
    check_cell(cell)
    taken = CELLS.get(cell.name, cell)
    require(
        taken is cell, "cell", cell.name, "another cell has this name: give a new one"
    )
    valid = cell.name.replace("_", "a").isalnum() and cell.name.isascii()
    require(
        valid,
        "cell name",
        cell.name,
        "give ASCII letters, digits and _, as the command line takes it",
    )
    CELLS[cell.name] = cell
    return cell


def with_activations(
    cell: Cell,
    activation: str | Activation | None,
    recurrent_activation: str | Activation | None,
) -> Cell:
    """Return a copy of a cell that uses `activation` in place of tanh and
    `recurrent_activation` in place of sigmoid.

    Each is a function, its name in `keras.activations`, or None for the identity. For
    tanh and sigmoid, the cell itself is returned.

    Raises:
        InputError: if an activation is unknown or `find_activation` rejects it, if the
            activations of the cell cannot be changed, as those of every cell that a
            user defines, or if the cell has one gate and `recurrent_activation` is not
            sigmoid.
    """
    inner, gates = (
        find_activation(activation),
        find_activation(recurrent_activation, "recurrent_activation"),
    )
    if inner is jnp.tanh and gates is jax.nn.sigmoid:
        return cell
    choosable = cell.make_step is not None and cell in BUILT_IN
    remedy = (
        f"the cell {cell.name} has its own: leave it out, or use "
        f"{', '.join(name for name, row in CELLS.items() if row.make_step)}"
    )
    name, given = (
        ("recurrent_activation", recurrent_activation)
        if inner is jnp.tanh
        else ("activation", activation)
    )
    require(choosable, name, getattr(given, "__name__", given), remedy)
    fits = cell.gates > 1 or gates is jax.nn.sigmoid
    require(
        fits,
        "recurrent_activation",
        recurrent_activation,
        f"{cell.name} has none: leave it out",
    )
    return _variant(cell, inner, gates)


def with_projection(cell: Cell, projection: int, units: int) -> Cell:
    """Return the LSTM with a recurrent projection to `projection` outputs, or the given
    cell if `projection` is 0.

    Raises:
        InputError: if `projection` is negative or not below `units`, or if it is above
            0 and the cell is not the cell lstm with its default activations.
    """
    if projection == 0:
        return cell
    require(
        cell == CELLS["lstm"],
        "projection",
        projection,
        f"the cell {cell.name} has none: only lstm, with its default activations",
    )
    require(
        1 <= projection < units,
        "projection",
        projection,
        f"give 1 or more, fewer than the {units} units, or 0 for none",
    )
    return projected_lstm(projection)


@functools.cache
def _variant(
    cell: Cell, activation: Activation, recurrent_activation: Activation
) -> Cell:
    """Return a copy of a cell with the given activation functions. Equal arguments give
    the same object, so that JAX compiles it once.
    """
    assert cell.make_step is not None
    names = activation_name(activation), activation_name(recurrent_activation)
    shown = [
        name
        if isinstance(name, str)
        else f"custom {getattr(name, '__name__', 'function')}"
        for name in names
    ]
    name = f"{cell.name}({', '.join(shown if cell.gates > 1 else shown[:1])})"
    made = replace(
        cell, name=name, step=cell.make_step(activation, recurrent_activation)
    )
    return made_by(made, with_activations, cell, *names)


__all__ = [
    "BUILT_IN",
    "CELLS",
    "Cell",
    "GRUParams",
    "GateRecurrentParams",
    "GateRecurrentState",
    "HiddenState",
    "LRUParams",
    "LSTMParams",
    "LSTMState",
    "LayerNormParams",
    "MLSTMParams",
    "MLSTMState",
    "MinParams",
    "PeepholeParams",
    "ProjectedParams",
    "RGLRUParams",
    "ResetBeforeParams",
    "SLSTMState",
    "SimpleRNNParams",
    "check_cell",
    "find_cell",
    "lru",
    "mlstm",
    "projected_lstm",
    "register_cell",
    "rg_lru",
    "slstm",
    "with_activations",
    "with_projection",
]
