"""Number of parameters of a recurrent cell, and largest hidden size at which a cell has
no more parameters than another cell.
"""

from functools import cache
from itertools import count

import jax

from lstm_jax.cells import CELLS


@cache
def cell_parameters(cell: str, features: int, units: int) -> int:
    """Return the number of parameters of a recurrent cell."""
    shapes = jax.eval_shape(
        lambda key: CELLS[cell].init(key, features, units), jax.random.key(0)
    )
    return sum(leaf.size for leaf in jax.tree.leaves(shapes))


def equal_units(cell: str, features: int, units: int, like: str = "lstm") -> int:
    """Return the largest hidden size at which a cell has no more parameters than a
    reference cell, or 1 if there is no such size.
    """
    budget = cell_parameters(like, features, units)
    # values of a polynomial of degree 2
    a, b, c = (cell_parameters(cell, features, size) for size in (1, 2, 3))
    return next(
        n for n in count(1) if a + n * (b - a + (n - 1) * (c - 2 * b + a) / 2) > budget
    )
