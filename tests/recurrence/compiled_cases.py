"""Test cases of the backend `compiled`, around the block sizes of its C++ code: sizes, operands and options, and distances."""

from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from cases import differentiate
from tables import precision

from lstm_jax import CELLS, DropoutMasks, unroll
from lstm_jax.recurrence.compiled_cells import COMPILED_CELLS

NAMES = [cell.name for cell in COMPILED_CELLS]
# (batch, steps, units, features): odd and even inner dimensions, less than a vector, several panels, blocks and tiles, chunks with an odd
# number of rows, and an inner dimension that the C++ code cuts into pieces in bfloat16
SIZES = [
    (1, 1, 1, 1),
    (1, 6, 20, 9),
    (2, 5, 3, 17),
    (5, 7, 16, 2),
    (7, 9, 33, 40),
    (33, 5, 17, 70),
    (4, 3, 130, 5),
    (35, 11, 48, 131),
    (7, 3, 530, 525),
]
# rows around 6, 8, 12 and 32, units around the lanes (4, 8, 16), and more steps than a chunk, also for batches that divide the units
MORE_SIZES = [
    (13, 6, 16, 16),
    (14, 6, 17, 5),
    (4, 6, 32, 31),
    (32, 6, 47, 3),
    (9, 6, 65, 8),
    (24, 6, 100, 105),
    (13, 6, 270, 260),
    (150, 6, 4, 3),
    (3, 9, 140, 5),
    (1, 300, 16, 2),
    (4, 50, 31, 3),
    (1, 50, 260, 4),
]


def make_operands(cell: str, size: tuple[int, int, int, int], draw=lambda array: array.astype(np.float32)) -> tuple[Any, Any, Any]:
    """Return random NumPy arrays (params, x, state) of a cell, each converted or rounded by the function `draw`."""
    batch, steps, units, features = size
    rng, row = np.random.default_rng(sum(size)), CELLS[cell]

    def normal(like) -> np.ndarray:
        return draw(rng.standard_normal(like.shape) * (0.5 if len(like.shape) == 1 else min(0.7, 1.5 / np.sqrt(like.shape[0]))))

    params = jax.tree.map(normal, jax.eval_shape(lambda key: row.init(key, features, units), jax.random.key(0)))
    state = jax.tree.map(normal, jax.eval_shape(lambda: row.initial_state(batch, units)))
    return params, draw(rng.standard_normal((batch, steps, features))), state


KINDS = {
    "plain": {},
    "masks of both": {"input": 1, "recurrent": 1, "last": True},
    "masks of each gate": {"input": "each", "recurrent": "each", "padding": True},
    "resets and padding": {"resets": True, "padding": True},
    "backwards, tokens": {"tokens": True, "backwards": True, "recurrent": 1},
    "ids": {"ids": True, "recurrent": "each", "resets": True},
}


def distances(got: Any, want: Any) -> list[float]:
    """Return, for each array, the norm of its difference from the exact array, divided by the norm of the exact array."""
    pairs = zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True)
    return [float(np.linalg.norm(np.asarray(a, np.float64) - b) / (np.linalg.norm(b) + 1e-30)) for a, b in pairs]


def make_options(cell: str, size: tuple[int, int, int, int], kind: str) -> tuple[dict[str, Any], np.ndarray]:
    """Return the options of `unroll` for a kind in `KINDS`, and random int ids (B, T)."""
    batch, steps, units, features = size
    rng, asked = np.random.default_rng(7), KINDS[kind]
    ids = rng.integers(0, features, (batch, steps)).astype(np.int32)

    def factors(which: str, width: int) -> np.ndarray | None:
        lead = (CELLS[cell].gates,) if asked.get(which) == "each" else ()
        if which == "recurrent" and not CELLS[cell].has_recurrent_kernel:
            return None
        return (rng.random((*lead, batch, width)) < 0.7) / 0.7 if asked.get(which) else None

    options: dict[str, Any] = {"dropout": DropoutMasks(factors("input", features), factors("recurrent", units))}
    options |= {"backwards": True} if asked.get("backwards") else {}
    options |= {"return_sequences": False} if asked.get("last") else {}
    options |= {"mask": rng.random((batch, steps)) < 0.7} if asked.get("padding") else {}
    options |= {"resets": rng.random((batch, steps)) < 0.3} if asked.get("resets") else {}
    options |= {"tokens": ids} if asked.get("tokens") else {}
    return options, ids


def make_case(cell: str, size: tuple[int, int, int, int], kind: str) -> tuple[tuple[Any, Any, Any], dict[str, Any]]:
    """Return (params, x, state) and the options of `unroll`.

    If the options contain tokens, x is a table with one row for each token, and `run` looks up the input of each step in it. Thus steps
    with equal tokens read equal inputs, as `unroll` requires.
    """
    params, x, state = make_operands(cell, size)
    options, ids = make_options(cell, size, kind)
    if "tokens" in options:
        x = np.random.default_rng(3).standard_normal((size[3], size[3]))
    if kind == "plain":  # the code leaves out products of a tile of rows whose h is all zeros
        state = state._replace(h=np.where(np.arange(size[0])[:, None] < 64, 0, state.h).astype(np.float32))
    return (params, ids if KINDS[kind].get("ids") else x, state), options


def cases_of(cell: str) -> Iterator[tuple[str, tuple[Any, Any, Any], dict[str, Any]]]:
    """Yield (name, (params, x, state), options) for each kind in `KINDS`, with a size that depends on the kind and the cell."""
    for turn, kind in enumerate(KINDS):
        size = SIZES[1:][(NAMES.index(cell) + turn) % (len(SIZES) - 1)]
        yield f"{kind}, {size}", *make_case(cell, size, kind)


def run(cell: str, operands: tuple, options: dict[str, Any], backend: str, dtype: str, products: str | None = None, by: bool = True) -> Any:
    """Return (outputs, state) of `unroll` and, if `by` is true, the gradients with respect to params, state and float x, all in NumPy."""
    with precision(dtype):
        params, x, state = as_floats(operands, dtype)
        options = options | {"dropout": as_floats(options["dropout"], dtype), "backend": backend, "compute_dtype": products}

        def function(params, state, x=x):
            x = x[options["tokens"]] if "tokens" in options else x
            return unroll(CELLS[cell], params, x, state, **options)

        if not by:
            return jax.tree.map(np.asarray, function(params, state))
        return jax.tree.map(np.asarray, differentiate(function, params, state, *([] if x.dtype == np.int32 else [x])))


def multiplies(cell: str, operands: tuple[Any, Any, Any]) -> bool:
    """Return whether a call computes matrix products.

    It computes none if x contains ids and the cell has no recurrent kernel, because ids only select rows of the kernel.
    """
    return operands[1].dtype != np.int32 or CELLS[cell].has_recurrent_kernel


def as_floats(tree: Any, dtype: str) -> Any:
    """Return a tree in which the float arrays are converted to `dtype`."""
    return jax.tree.map(lambda leaf: np.asarray(leaf, dtype if leaf.dtype.kind == "f" else leaf.dtype), tree)
