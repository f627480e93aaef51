"""The base class `RecurrentOperation` of the backends that run a cell over time with custom forward and backward passes."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from lstm_jax.cells.products import is_per_gate
from lstm_jax.primitives.operation import Operation


class RecurrentOperation(Operation):
    """Base class of the operations (see `Operation`) that run a cell over time.

    The arguments of an operation are the fields of a `Call`. The outputs are the pair (h of all steps, final state). h of all steps is an
    array (T, B, H), or None if it is not requested.
    """

    def rows(self, args: tuple) -> list[int | None]:
        kinds: tuple[Callable, ...] = (lambda leaf: None, lambda leaf: 1, lambda leaf: 0, lambda leaf: 1, mask_axis, _reset_axis)
        further = (lambda leaf: 1,) * (len(args) - len(kinds))
        return [axis(leaf) for part, axis in zip(args, kinds + further, strict=True) for leaf in jax.tree.leaves(part)]

    def output_rows(self, outputs) -> list[int]:
        h, state = outputs
        return [1] * (h is not None) + [0] * len(state)


def mask_axis(mask) -> int:
    """Return the index of the batch axis of a dropout mask: 0 for a shared mask (B, size), 1 for one mask per gate (gates, B, size)."""
    return int(is_per_gate(mask))


def _reset_axis(leaf) -> int:
    return int(leaf.dtype == jnp.bool_)


def with_zeros(cotangents, like: Any) -> tuple[Any, Any]:
    """Return the pair `cotangents` with zeros in place of each None in its second member. The first member is not changed."""
    d_h, d_final = cotangents
    return d_h, type(like)(*(jnp.zeros_like(part) if d is None else d for d, part in zip(d_final, like, strict=True)))
