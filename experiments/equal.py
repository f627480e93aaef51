"""Number of parameters of a cell, and the number of units that gives two cells equally many parameters."""

import jax

from lstm_jax.cells import CELLS


def cell_parameters(cell: str, features: int, units: int) -> int:
    """Return the number of parameters of a recurrent layer with the named cell, E features and H units."""
    shapes = jax.eval_shape(lambda key: CELLS[cell].init(key, features, units), jax.random.key(0))
    return sum(leaf.size for leaf in jax.tree.leaves(shapes))


def equal_units(cell: str, features: int, units: int, like: str = "lstm") -> int:
    """Return the largest number of units, at least 1, with which `cell` has no more parameters than `like` has with `units` units."""
    budget = cell_parameters(like, features, units)
    low, high = 1, 2
    while cell_parameters(cell, features, high) <= budget:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if cell_parameters(cell, features, middle) <= budget else (low, middle)
    return low
