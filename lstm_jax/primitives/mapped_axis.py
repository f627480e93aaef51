"""Functions that move the axis over which `jax.vmap` maps, and merge it into the batch axis of an operation."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp


def in_front(leaves: Sequence[Any], dims: Sequence[int | None]) -> tuple[int, list[Any], tuple[int | None, ...]]:
    """Move the axis over which `vmap` maps to the front of each leaf. Return (axis size, leaves, new dims).

    Args:
        leaves: arrays, some of which have the mapped axis.
        dims: for each leaf the index of its mapped axis, or None if the leaf has no mapped axis. A leaf without a mapped axis is returned
            unchanged. At least one leaf has a mapped axis.

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
    """Merge the axis over which `vmap` maps into the batch axis of the array `leaf`, and return the result.

    Args:
        leaf: array, whose mapped axis, if any, is its first axis.
        dim: 0 if `leaf` has a mapped axis, else None. An array without a mapped axis is first repeated `size` times along a new first axis.
        axis: index of the batch axis in the result. If None, the array has no batch axis, and `leaf` is returned unchanged.
        size: size of the mapped axis.
    """
    if axis is None:
        return leaf
    whole = jnp.moveaxis(spread(leaf, dim, size), 0, axis)
    return whole.reshape(*whole.shape[:axis], size * whole.shape[axis + 1], *whole.shape[axis + 2 :])


def unfold(leaf, axis: int, size: int):
    """Undo `fold`: split the batch axis of the array `leaf` into the axis over which `vmap` maps and the batch axis of one call.

    The mapped axis has the size `size`, and is the first axis of the result. `axis` is the index of the batch axis in `leaf`.
    """
    cut = leaf.reshape(*leaf.shape[:axis], size, leaf.shape[axis] // size, *leaf.shape[axis + 1 :])
    return jnp.moveaxis(cut, axis, 0)


def without_leading(leaves: Sequence[Any], dims: Sequence[int | None]) -> list[Any]:
    """Return the arguments of one of the calls that `vmap` makes, as arrays or as shapes and dtypes.

    Args:
        leaves: arrays that contain the arguments of all calls.
        dims: one entry for each array: 0 if its first axis is mapped, or None if all calls share the array.

    Returns:
        A list with one entry for each array. An array that all calls share is returned unchanged. In place of an array with a mapped axis,
        the list contains a `jax.ShapeDtypeStruct` without this axis. Values are not returned, because the mapped axis may have size 0, and
        then there is no call whose values could be returned.
    """
    return [leaf if dim is None else jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype) for leaf, dim in zip(leaves, dims, strict=True)]


def no_calls(function: Callable, leaves: Sequence[Any]) -> tuple[list[jax.Array], list[int]]:
    """Return the results of a function under `vmap` if the mapped axis has size 0, so that `vmap` makes no call.

    Args:
        function: function of a list of leaves.
        leaves: the arguments of a single call, which have no mapped axis, as arrays or as shapes and dtypes; see `without_leading`.

    Returns:
        A pair of lists with one entry for each result. The first list contains the results, whose first axis has size 0. The second list
        contains the index of the mapped axis of each result, which is 0.
    """
    results = jax.tree.leaves(jax.eval_shape(lambda *operands: function(operands), *leaves))
    return [jnp.zeros((0, *one.shape), one.dtype) for one in results], [0] * len(results)
