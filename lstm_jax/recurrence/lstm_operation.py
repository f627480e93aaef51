"""The LSTM over time as an operation: the arguments and results shared by its backends."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from lstm_jax.cells import LSTMState
from lstm_jax.cells.products import is_per_gate
from lstm_jax.primitives.operation import Operation


class LSTMOperation(Operation):
    """An operation on (params, x, state, valid, dropout, ...) whose outputs are h of all steps or None, and the final state.

    Shapes are those of `reference.run`; further arguments have their rows on axis 1.
    """

    def rows(self, args: tuple) -> list[int | None]:
        """Return the batch axis of each leaf of the arguments; see `Operation.rows`."""
        kinds: tuple[Callable, ...] = (lambda leaf: None, lambda leaf: 1, lambda leaf: 0, lambda leaf: 1, mask_axis, lambda leaf: 1)
        return [axis(leaf) for part, axis in zip(args, kinds, strict=False) for leaf in jax.tree.leaves(part)]

    def output_rows(self, outputs) -> list[int]:
        """Return the batch axis of each leaf of the outputs; see `Operation.output_rows`."""
        return [1] * (len(jax.tree.leaves(outputs)) - 2) + [0, 0]


def mask_axis(mask) -> int:
    """Return the axis of the rows of a dropout mask (B, size) or (4, B, size)."""
    return int(is_per_gate(mask))


def with_zeros(cotangents, like: LSTMState) -> tuple[Any, LSTMState]:
    """Return d of all outputs or None, and d of the final state with zeros in place of None."""
    d_h, d_final = cotangents
    return d_h, LSTMState(*(jnp.zeros_like(part) if d is None else d for d, part in zip(d_final, like, strict=True)))
