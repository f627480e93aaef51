"""The base class `LSTMOperation` of the backends that run the LSTM over time with custom forward and backward passes."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from lstm_jax.cells import LSTMState
from lstm_jax.cells.products import is_per_gate
from lstm_jax.primitives.operation import Operation


class LSTMOperation(Operation):
    """Base class of operations that run the LSTM over time.

    Their arguments are (params, x, state, valid, dropout, ...), with the meaning and the shapes that they have in `reference.run`. Further
    arguments have batch axis 1. The outputs are h of all steps (T, B, H), or None if it is not requested, and the final state.
    """

    def rows(self, args: tuple) -> list[int | None]:
        """Return the number of the batch axis of each leaf of the arguments, or None; see `Operation.rows`."""
        kinds: tuple[Callable, ...] = (lambda leaf: None, lambda leaf: 1, lambda leaf: 0, lambda leaf: 1, mask_axis, lambda leaf: 1)
        return [axis(leaf) for part, axis in zip(args, kinds, strict=False) for leaf in jax.tree.leaves(part)]

    def output_rows(self, outputs) -> list[int]:
        """Return the number of the batch axis of each leaf of the outputs; see `Operation.output_rows`."""
        return [1] * (len(jax.tree.leaves(outputs)) - 2) + [0, 0]


def mask_axis(mask) -> int:
    """Return the number of the batch axis of a dropout mask: 0 for a shared mask (B, size), 1 for one mask per gate (4, B, size)."""
    return int(is_per_gate(mask))


def with_zeros(cotangents, like: LSTMState) -> tuple[Any, LSTMState]:
    """Return the gradients with respect to h of all steps and the final state, with zeros in place of None for the final state.

    Args:
        cotangents: the pair (d_h, d_final) of these gradients. d_h is returned unchanged and may be None. The arrays of d_final may be
            None.
        like: a state with the shapes of the final state.
    """
    d_h, d_final = cotangents
    return d_h, LSTMState(*(jnp.zeros_like(part) if d is None else d for d, part in zip(d_final, like, strict=True)))
