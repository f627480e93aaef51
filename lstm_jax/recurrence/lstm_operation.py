"""Base class of the backends that run the LSTM over time as an `Operation`; it defines their common arguments and results."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from lstm_jax.cells import LSTMState
from lstm_jax.cells.products import is_per_gate
from lstm_jax.primitives.operation import Operation


class LSTMOperation(Operation):
    """Operation on the arguments (params, x, state, valid, dropout, ...).

    Its outputs are h of all steps, or None if they are not requested, and the final state. Shapes are those of `reference.run`. The batch
    axis of any further arguments is 1.
    """

    def rows(self, args: tuple) -> list[int | None]:
        """Return the batch axis of each leaf of the arguments; see `Operation.rows`."""
        kinds: tuple[Callable, ...] = (lambda leaf: None, lambda leaf: 1, lambda leaf: 0, lambda leaf: 1, mask_axis, lambda leaf: 1)
        return [axis(leaf) for part, axis in zip(args, kinds, strict=False) for leaf in jax.tree.leaves(part)]

    def output_rows(self, outputs) -> list[int]:
        """Return the batch axis of each leaf of the outputs; see `Operation.output_rows`."""
        return [1] * (len(jax.tree.leaves(outputs)) - 2) + [0, 0]


def mask_axis(mask) -> int:
    """Return the batch axis of a dropout mask: 0 for a mask (B, size), 1 for a mask per gate (4, B, size)."""
    return int(is_per_gate(mask))


def with_zeros(cotangents, like: LSTMState) -> tuple[Any, LSTMState]:
    """Return the gradients of all outputs and of the final state, from the cotangents of an operation.

    The gradient of all outputs may be None. Where the gradient of an array of the final state is None, it is replaced by zeros. `like` is a
    state of the same shapes.
    """
    d_h, d_final = cotangents
    return d_h, LSTMState(*(jnp.zeros_like(part) if d is None else d for d, part in zip(d_final, like, strict=True)))
