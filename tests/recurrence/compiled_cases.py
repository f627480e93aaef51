"""Test cases of the backend `compiled`, around the block sizes of its C++ code."""

from typing import Any

import jax
import numpy as np
import pytest
from cases import Arrays, Case, make_arrays, usable
from tables import BACKENDS, Shape

from lstm_jax.recurrence.compiled_cells import COMPILED_CELLS

built = pytest.mark.skipif(
    "compiled" not in BACKENDS, reason="no C++ compiler to build the backend with"
)
NAMES = [cell.name for cell in COMPILED_CELLS]
# odd and even inner dimensions, less than a vector, several panels, blocks and tiles,
# chunks with an odd number of rows, and an inner dimension that the C++ code cuts into
# pieces in bfloat16
SIZES = [
    Shape(1, 1, 1, 1),
    Shape(1, 6, 9, 20),
    Shape(2, 5, 17, 3),
    Shape(5, 7, 2, 16),
    Shape(7, 9, 40, 33),
    Shape(33, 5, 70, 17),
    Shape(4, 3, 5, 130),
    Shape(35, 11, 131, 48),
    Shape(7, 3, 525, 530),
]
# rows around 6, 8, 12 and 32, units around the lanes (4, 8, 16), and more steps than a
# chunk, also for batches that divide the units
MORE_SIZES = [
    Shape(13, 6, 16, 16),
    Shape(14, 6, 5, 17),
    Shape(4, 6, 31, 32),
    Shape(32, 6, 3, 47),
    Shape(9, 6, 8, 65),
    Shape(24, 6, 105, 100),
    Shape(13, 6, 260, 270),
    Shape(150, 6, 3, 4),
    Shape(3, 9, 5, 140),
    Shape(1, 300, 2, 16),
    Shape(4, 50, 3, 31),
    Shape(1, 50, 4, 260),
]
KINDS: list[dict[str, Any]] = [
    {},
    {"dropout": "both, shared", "return_sequences": False},
    {"dropout": "both, per gate", "mask": "gaps"},
    {"resets": True, "mask": "gaps"},
    {"tokens": True, "backwards": True, "dropout": "recurrent, shared", "mask": "gaps"},
    {"ids": True, "dropout": "recurrent, per gate", "resets": True},
]


def make_case(cell: str, shape: Shape, kind: int, dtype: str) -> tuple[Case, Arrays]:
    """Return a case of the kind `KINDS[kind]`, and its arrays."""
    case = usable(Case(shape, **KINDS[kind % len(KINDS)]), cell)
    arrays = make_arrays(case, dtype, cell)
    # the code leaves out products of a tile of rows whose h is all zeros
    if not kind % len(KINDS):
        arrays = arrays._replace(
            state=arrays.state._replace(h=arrays.state.h.at[:64].set(0))
        )
    return case, arrays


def distances(got: Any, want: Any) -> list[float]:
    """Return, for each array, the norm of its difference from the exact array, divided
    by the norm of the exact array.
    """
    pairs = zip(
        *(
            jax.tree.leaves(
                jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), tree)
            )
            for tree in (got, want)
        ),
        strict=True,
    )
    return [
        float(np.linalg.norm(a - b) / (np.linalg.norm(b) + 1e-30)) for a, b in pairs
    ]
