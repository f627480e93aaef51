"""Names of cells and backends in configs, which are checked without an import of JAX
where they are the usual ones.

The properties ("traits") of the cells that Keras also has, such as "lstm", are stored
here. For any other name, `cell_traits` imports JAX and the modules in which a user
registers cells, and looks up the name in `lstm_jax.cells.CELLS`.
"""

from lstm_jax.base.checks import frozen
from lstm_jax.base.errors import check_choice

AUTO = "auto"
"""Backend name in a config that lets `lstm_jax.recurrence.resolve_backend` choose the
backend."""


def check_backend(name) -> None:
    """Check that a backend name in a config is valid."""
    if name != AUTO:
        from lstm_jax.recurrence import BACKENDS  # not above: it imports JAX

        check_choice("backend", name, (AUTO, *BACKENDS))


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
    from lstm_jax.cells import find_cell  # not above: it imports JAX

    row = find_cell(cell)
    return CellTraits(row.has_recurrent_kernel, row.has_cell_state)
