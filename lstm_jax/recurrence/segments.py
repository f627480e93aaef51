"""Rematerialisation for long sequences: only the first state of each segment is kept, and the backward pass runs the segment once more.

Source: Chen, Xu, Zhang & Guestrin 2016, "Training deep nets with sublinear memory cost". T steps in n segments need the memory of n states
    and
of the residuals of T / n steps, least at n = sqrt(T), for the time of a second forward pass.
"""

import math
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax import lax

from lstm_jax.errors import require

Remat = Literal["sqrt"] | int | None
"""None: keep all residuals; "sqrt": ceil(sqrt(T)) segments; or about this number of segments."""


def check_remat(remat: Any) -> Remat:
    """Return `remat`.

    Raises:
        InputError: if it is neither None, "sqrt" nor 1 or more.
    """
    count = isinstance(remat, int) and not isinstance(remat, bool) and remat >= 1
    require(remat is None or remat == "sqrt" or count, "remat", remat, "give None, 'sqrt', or 1 or more segments")
    return remat


def segment_length(remat: Literal["sqrt"] | int, steps: int) -> int:
    """Return the steps of each segment; the last one may be shorter. For two halves of an odd T, the last step is a third segment."""
    segments = math.isqrt(steps - 1) + 1 if remat == "sqrt" else min(remat, steps)
    # two segments of different lengths are not a loop, and outside of a loop the compiler may keep both in memory at once
    return steps // 2 if segments == 2 else -(-steps // segments)


def in_segments(run: Callable, remat: Literal["sqrt"] | int) -> Callable:
    """Return a backend's `run`, see `reference.run`, that goes from segment to segment, with the same results."""

    def run_segments(cell, params, x, state, valid, dropout, compute_dtype=None, sequences=True):
        steps = x.shape[0]
        length = segment_length(remat, steps)
        count = steps // length
        whole = count * length

        def segment(state, x, valid, params, dropout):
            h, final = run(cell, params, x, state, valid, dropout, compute_dtype, sequences)
            return final, h

        parts = []
        if count > 1:
            # in a loop the compiler cannot merge the second run with the first
            again = jax.checkpoint(segment, prevent_cse=False)
            cut = jax.tree.map(lambda a: a[:whole].reshape(count, length, *a.shape[1:]), (x, valid))
            state, h = lax.scan(lambda state, part: again(state, *part, params, dropout), state, cut)
            parts.append(h.reshape(whole, *h.shape[2:]) if sequences else None)
        for start in range(whole if count > 1 else 0, steps, length):
            rest = slice(start, start + length)
            state, h = jax.checkpoint(segment)(state, x[rest], None if valid is None else valid[rest], params, dropout)
            parts.append(h)
        return (jnp.concatenate(parts) if len(parts) > 1 else parts[0]) if sequences else None, state

    return run_segments
