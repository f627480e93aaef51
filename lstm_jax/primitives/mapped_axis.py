"""Functions that move the axis over which `jax.vmap` maps, and merge it into the batch axis of an operation."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp


def in_front(leaves: Sequence[Any], dims: Sequence[int | None]) -> tuple[int, list[Any], tuple[int | None, ...]]:
    """Move the axis over which `vmap` maps to the front of each leaf. Return (axis size, leaves, new dims)."""
    size = next(leaf.shape[dim] for leaf, dim in zip(leaves, dims, strict=True) if dim is not None)
    moved = [leaf if dim is None else jnp.moveaxis(leaf, dim, 0) for leaf, dim in zip(leaves, dims, strict=True)]
    return size, moved, tuple(None if dim is None else 0 for dim in dims)


def spread(leaf, dim: int | None, size: int):
    """Return an array with the axis over which `vmap` maps as its first axis."""
    return jnp.broadcast_to(leaf[None], (size, *leaf.shape)) if dim is None else leaf


def fold(leaf, dim: int | None, axis: int | None, size: int):
    """Merge the axis over which `vmap` maps into the batch axis of the array `leaf`, and return the result."""
    if axis is None:
        return leaf
    whole = jnp.moveaxis(spread(leaf, dim, size), 0, axis)
    return whole.reshape(*whole.shape[:axis], size * whole.shape[axis + 1], *whole.shape[axis + 2 :])


def unfold(leaf, axis: int, size: int):
    """Undo `fold`: split the batch axis of the array `leaf` into the axis over which `vmap` maps and the batch axis of one call."""
    cut = leaf.reshape(*leaf.shape[:axis], size, leaf.shape[axis] // size, *leaf.shape[axis + 1 :])
    return jnp.moveaxis(cut, axis, 0)


def without_leading(leaves: Sequence[Any], dims: Sequence[int | None]) -> list[Any]:
    """Return the arguments of one of the calls that `vmap` makes, as arrays or as shapes and dtypes."""
    return [leaf if dim is None else jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype) for leaf, dim in zip(leaves, dims, strict=True)]


def no_calls(function: Callable, leaves: Sequence[Any]) -> tuple[list[jax.Array], list[int]]:
    """Return the results of a function under `vmap` if the mapped axis has size 0, so that `vmap` makes no call."""
    results = jax.tree.leaves(jax.eval_shape(lambda *operands: function(operands), *leaves))
    return [jnp.zeros((0, *one.shape), one.dtype) for one in results], [0] * len(results)
