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
    """Return a leaf with a leading mapped axis. A leaf without a mapped axis (`dim` is None) is repeated `size` times along a new axis."""
    return jnp.broadcast_to(leaf[None], (size, *leaf.shape)) if dim is None else leaf


def fold(leaf, dim: int | None, axis: int | None, size: int):
    """Merge the leading axis of a leaf, over which `vmap` maps, into the batch axis, whose new index is `axis`.

    A leaf without a batch axis (`axis` is None) is returned unchanged. A leaf without a mapped axis (`dim` is None) is first repeated.
    """
    if axis is None:
        return leaf
    whole = jnp.moveaxis(spread(leaf, dim, size), 0, axis)
    return whole.reshape(*whole.shape[:axis], size * whole.shape[axis + 1], *whole.shape[axis + 2 :])


def unfold(leaf, axis: int, size: int):
    """Undo `fold`: split the batch axis of a leaf into the leading axis, over which `vmap` maps, and the batch axis."""
    cut = leaf.reshape(*leaf.shape[:axis], size, leaf.shape[axis] // size, *leaf.shape[axis + 1 :])
    return jnp.moveaxis(cut, axis, 0)


def without_leading(leaves: Sequence[Any], dims: Sequence[int | None]) -> list[Any]:
    """Return the leaves of one call under `vmap`. A mapped leaf is given by its shape and dtype, since the leading axis may have size 0."""
    return [leaf if dim is None else jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype) for leaf, dim in zip(leaves, dims, strict=True)]


def no_calls(function: Callable, leaves: Sequence[Any]) -> tuple[list[jax.Array], list[int]]:
    """Return the results under `vmap` of a function of leaves that is called 0 times, with the index of the mapped axis of each.

    Args:
        function: function of a list of leaves.
        leaves: leaves of one call, as `without_leading` returns them.
    """
    results = jax.tree.leaves(jax.eval_shape(lambda *operands: function(operands), *leaves))
    return [jnp.zeros((0, *one.shape), one.dtype) for one in results], [0] * len(results)
