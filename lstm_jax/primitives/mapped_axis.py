"""Functions that move the axis over which `jax.vmap` maps, and merge it into the batch axis of an operation."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp


def in_front(leaves: Sequence[Any], dims: Sequence[int | None]) -> tuple[int, list[Any], tuple[int | None, ...]]:
    """Move the axis over which `vmap` maps to the front of each leaf. Return (axis size, leaves, new dims).

    Args:
        leaves: arrays, some of which have the mapped axis.
        dims: for each leaf the index of its mapped axis, or None if it has none. Such a leaf is returned unchanged. At least one entry is
            not None.

    Returns:
        three values: the size of the mapped axis, the list of the leaves, and a tuple of the new dims. A new dim is 0, or None if the leaf
        has no mapped axis.
    """
    size = next(leaf.shape[dim] for leaf, dim in zip(leaves, dims, strict=True) if dim is not None)
    moved = [leaf if dim is None else jnp.moveaxis(leaf, dim, 0) for leaf, dim in zip(leaves, dims, strict=True)]
    return size, moved, tuple(None if dim is None else 0 for dim in dims)


def spread(leaf, dim: int | None, size: int):
    """Return an array with the axis over which `vmap` maps as its first axis.

    If `dim` is None, the array `leaf` has no mapped axis, and it is repeated `size` times along a new first axis. Otherwise the mapped axis
    is already the first axis, and the array is returned unchanged.
    """
    return jnp.broadcast_to(leaf[None], (size, *leaf.shape)) if dim is None else leaf


def fold(leaf, dim: int | None, axis: int | None, size: int):
    """Merge the first axis of the array `leaf`, over which `vmap` maps, into its batch axis.

    `dim` is 0 if the first axis is mapped. If `dim` is None, no axis is mapped, and the array is first repeated `size` times along a new
    first axis. `axis` is the index of the batch axis in the result. If `axis` is None, the array has no batch axis, and is returned
    unchanged whatever `dim` is.
    """
    if axis is None:
        return leaf
    whole = jnp.moveaxis(spread(leaf, dim, size), 0, axis)
    return whole.reshape(*whole.shape[:axis], size * whole.shape[axis + 1], *whole.shape[axis + 2 :])


def unfold(leaf, axis: int, size: int):
    """Undo `fold`: split the batch axis of the array `leaf` into a new first axis of the given size, and the batch axis of one call."""
    cut = leaf.reshape(*leaf.shape[:axis], size, leaf.shape[axis] // size, *leaf.shape[axis + 1 :])
    return jnp.moveaxis(cut, axis, 0)


def without_leading(leaves: Sequence[Any], dims: Sequence[int | None]) -> list[Any]:
    """Given the arrays of all calls of a function under `vmap`, return the arrays of one call, or only their shapes and dtypes.

    If the entry of `dims` for an array is None, all calls share the array, and it is returned unchanged. If the entry is 0, the first axis
    is mapped, and a `jax.ShapeDtypeStruct` without this axis is returned in place of the array. The values of such an array are not
    returned, because its mapped axis may have size 0, and there is then no call to take them from.
    """
    return [leaf if dim is None else jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype) for leaf, dim in zip(leaves, dims, strict=True)]


def no_calls(function: Callable, leaves: Sequence[Any]) -> tuple[list[jax.Array], list[int]]:
    """Return the results of a function under `vmap`, for a mapped axis of size 0.

    Args:
        function: function of a list of leaves.
        leaves: the arguments of a single call, which have no mapped axis, as arrays or as shapes and dtypes; see `without_leading`.

    Returns:
        A pair: a list of the results, whose first axis has size 0, and a list with one 0 for each result, because its mapped axis is axis
        0.
    """
    results = jax.tree.leaves(jax.eval_shape(lambda *operands: function(operands), *leaves))
    return [jnp.zeros((0, *one.shape), one.dtype) for one in results], [0] * len(results)
