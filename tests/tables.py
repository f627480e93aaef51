"""Cells, backends, shapes, tolerances by dtype, padding masks and kinds of dropout that
are parameters of many tests, and helpers.

The cells and backends are taken from the tables `CELLS` and `BACKENDS` of the library.
With `--all`, pytest runs all cases.
"""

import contextlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from lstm_jax.cells import CELLS as CELL_TABLE
from lstm_jax.recurrence import BACKENDS as BACKEND_TABLE
from lstm_jax.recurrence import DROPOUTS as DROPOUT_KINDS
from lstm_jax.recurrence import Request, lacks

CELLS = tuple(CELL_TABLE)


def lacking(backend: str, **request: Any) -> str:
    """Return the feature of a request that a backend lacks on this machine, or "" if it
    lacks none. See `Request` for the fields.
    """
    return lacks(BACKEND_TABLE[backend], Request(**request), jax.default_backend())


def serving(dtype: str = "float32", **request: Any) -> tuple[str, ...]:
    """Return the backends that can run a request on this machine."""
    return tuple(
        name
        for name in BACKEND_TABLE
        if not lacking(name, dtype=dtype, compute_dtype=dtype, **request)
    )


BACKENDS = serving()
# those that support every dropout and masks
EVERY_CASE = serving(dropout=DROPOUT_KINDS, mask="mask")
# those that support a cell here
EVERY_BACKEND = tuple(
    name
    for name in BACKEND_TABLE
    if not all(lacking(name, cell=cell) for cell in CELLS)
)


class Shape(NamedTuple):
    batch: int
    steps: int
    features: int
    units: int


SHAPES = (
    Shape(1, 1, 1, 1),
    Shape(3, 1, 2, 5),
    Shape(2, 4, 3, 2),
    Shape(5, 7, 3, 5),
    Shape(1, 6, 5, 3),
)

# of the array's largest entry, for outputs, states and gradients
TOLERANCE = {"float32": 1e-5, "float64": 1e-10}


def _gaps(rng: np.random.Generator, batch: int, steps: int) -> np.ndarray:
    return rng.random((batch, steps)) < 0.6


def _trailing(rng: np.random.Generator, batch: int, steps: int) -> np.ndarray:
    return np.arange(steps)[None] < lengths(rng, batch, steps)[:, None]


def _empty_row(rng: np.random.Generator, batch: int, steps: int) -> np.ndarray:
    mask = _gaps(rng, batch, steps)
    mask[0] = False
    return mask


def lengths(rng: np.random.Generator, batch: int, steps: int) -> np.ndarray:
    """Draw the lengths (B,) of a batch as int32. They include T and, if B is above 1,
    also 0.
    """
    drawn = rng.integers(0, steps + 1, batch)
    drawn[-1] = 0
    drawn[0] = steps
    return drawn.astype(np.int32)


MASKS: dict[str, Callable[[np.random.Generator, int, int], np.ndarray | None]] = {
    "none": lambda rng, batch, steps: None,
    "all valid": lambda rng, batch, steps: np.ones((batch, steps), bool),
    "trailing": _trailing,
    "leading": lambda rng, batch, steps: _trailing(rng, batch, steps)[:, ::-1],
    "gaps": _gaps,
    "an empty row": _empty_row,
    "nothing valid": lambda rng, batch, steps: np.zeros((batch, steps), bool),
}


class Dropped(NamedTuple):
    """Choice of the products that have a dropout mask.

    Attributes:
        input: whether the product of the input and the kernel has a mask.
        recurrent: whether the product of the state and the recurrent kernel has a mask.
        per_gate: whether each gate has its own mask.
    """

    input: bool
    recurrent: bool
    per_gate: bool


DROPOUTS = {
    "none": Dropped(False, False, False),
    "input, shared": Dropped(True, False, False),
    "input, per gate": Dropped(True, False, True),
    "recurrent, shared": Dropped(False, True, False),
    "recurrent, per gate": Dropped(False, True, True),
    "both, shared": Dropped(True, True, False),
    "both, per gate": Dropped(True, True, True),
}


def precision(dtype: str) -> contextlib.AbstractContextManager[Any]:
    """Return a context manager within which arrays of `dtype` can be created."""
    return jax.enable_x64(dtype == "float64")


def assert_close(got: Any, want: Any, tolerance: float | str, what: str = "") -> None:
    """Check that two trees have arrays of equal shapes, which differ by at most
    `tolerance` times the largest absolute entry of `want`.

    `tolerance` is a number or a dtype, whose tolerance is in `TOLERANCE`. All entries
    of `got` must be finite.
    """
    tolerance = TOLERANCE[tolerance] if isinstance(tolerance, str) else tolerance
    got_leaves, want_leaves = jax.tree.leaves_with_path(got), jax.tree.leaves(want)
    assert len(got_leaves) == len(want_leaves) > 0, (
        f"{what}: {len(got_leaves)} arrays, {len(want_leaves)} wanted"
    )
    for (path, a), b in zip(got_leaves, want_leaves, strict=True):
        a, b = np.asarray(a), np.asarray(b)
        name = f"{what}{jax.tree_util.keystr(path)}"
        assert a.shape == b.shape, f"{name}: shape {a.shape}, {b.shape} wanted"
        assert np.isfinite(a).all(), f"{name}: not finite"
        scale = np.abs(b).max(initial=0)
        distance = np.abs(a - b).max(initial=0)
        assert distance <= tolerance * scale, (
            f"{name}: {distance:.3g} away, of {scale:.3g}"
        )
