"""Number of parameters of a recurrent cell, and largest hidden size at which a cell has no more parameters than another cell."""

from bisect import bisect_right
from functools import cache, partial

import jax

from lstm_jax.cells import CELLS

LARGEST = 2**15
"""Bound of the hidden sizes that `equal_units` tries."""


@cache
def cell_parameters(cell: str, features: int, units: int) -> int:
    """Return the number of parameters of a recurrent cell."""
    shapes = jax.eval_shape(lambda key: CELLS[cell].init(key, features, units), jax.random.key(0))
    return sum(leaf.size for leaf in jax.tree.leaves(shapes))


@cache
def equal_units(cell: str, features: int, units: int, like: str = "lstm") -> int:
    """Return the largest hidden size at which a cell has no more parameters than a reference cell, or 1 if there is no such size."""
    budget = cell_parameters(like, features, units)
    return max(1, bisect_right(range(1, LARGEST), budget, key=partial(cell_parameters, cell, features)))
