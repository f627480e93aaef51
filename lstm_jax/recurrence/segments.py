"""Long sequences in less memory: of each segment only the first state is kept, and the backward pass runs the segment once more.

Chen, Xu, Zhang & Guestrin 2016, "Training deep nets with sublinear memory cost". Of T steps in n segments stay n states and what a backend
keeps of T / n steps: least at n = sqrt(T), for the time of a second forward pass.
"""

import math
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax import lax

from lstm_jax.errors import require

Remat = Literal["sqrt"] | int | None
"""None: all that the backward pass needs is kept; "sqrt": ceil(sqrt(T)) segments; or about so many."""


def check_remat(remat: Any) -> Remat:
    """Return `remat` if it is one.

    Raises:
        InputError: otherwise.
    """
    count = isinstance(remat, int) and not isinstance(remat, bool) and remat >= 1
    require(remat is None or remat == "sqrt" or count, "remat", remat, "give None, 'sqrt', or 1 or more segments")
    return remat


def segment_length(remat: Literal["sqrt"] | int, steps: int) -> int:
    """Steps of each segment but the last, which may be shorter. Of two halves an odd step is left over, a third segment."""
    segments = math.isqrt(steps - 1) + 1 if remat == "sqrt" else min(remat, steps)
    # two segments of unlike lengths are no loop, and outside of one the compiler may hold both in memory at once
    return steps // 2 if segments == 2 else -(-steps // segments)


def in_segments(run: Callable, remat: Literal["sqrt"] | int) -> Callable:
    """A backend's `run`, see `reference.run`, with the same results, that goes from segment to segment."""

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
            # within a loop the compiler cannot take the second run for the first
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
