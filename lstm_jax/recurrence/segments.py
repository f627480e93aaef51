"""Rematerialisation, which saves memory for long sequences (Chen et al. 2016, "Training deep nets with sublinear memory cost").

The sequence is divided into segments. The forward pass stores only the first state of each segment, and the backward pass runs each segment
again to compute its residuals. For T steps in n segments, this needs memory for n states and for the residuals of T / n steps. The total
memory is smallest near n = sqrt(T). In return, the backward pass also takes the time of a second forward pass.
"""

import math
from collections.abc import Callable
from numbers import Integral
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax import lax

from lstm_jax.errors import require
from lstm_jax.recurrence.resets import Resets

Remat = Literal["sqrt"] | int | None
"""Type of the argument `remat`: None (store all residuals), "sqrt" (ceil(sqrt(T)) segments), or an approximate number of segments."""


def check_remat(remat: Any) -> Remat:
    """Check the argument `remat` of `unroll`, and return it. A NumPy integer becomes an int.

    Raises:
        InputError: unless `remat` is one of these: None, "sqrt", or an integer of at least 1.
    """
    if remat is None or remat == "sqrt":
        return remat
    count = int(remat) if isinstance(remat, Integral) and not isinstance(remat, bool) else 0
    require(count >= 1, "remat", remat, "give None, 'sqrt', or 1 or more segments")
    return count


def segment_length(remat: Literal["sqrt"] | int, steps: int) -> int:
    """Return the number of steps in each segment. The last segment may be shorter.

    If `remat` means two segments, an odd number of steps is instead cut into two segments of equal length and a third segment of one step.
    If the two segments had different lengths, the compiler might keep the residuals of both in memory at the same time.

    Args:
        remat: approximate number of segments, or "sqrt" for about ceil(sqrt(steps)) segments.
        steps: number of steps of the sequence.
    """
    segments = math.isqrt(steps - 1) + 1 if remat == "sqrt" else min(remat, steps)
    # segments of different lengths cannot form a loop, and outside of a loop the compiler may keep the residuals of both at the same time
    return steps // 2 if segments == 2 else -(-steps // segments)


def in_segments(run: Callable, remat: Literal["sqrt"] | int) -> Callable:
    """Return a function that runs a sequence in segments to save memory, with the arguments and results of `run`.

    Args:
        run: the function `run` of a backend. Its arguments and results are those of `reference.run`.
        remat: approximate number of segments, or "sqrt" for about ceil(sqrt(T)) segments, where T is the number of steps.
    """

    def run_segments(cell, params, x, state, valid, dropout, resets=None, compute_dtype=None, sequences=True):
        steps = x.shape[0]
        if not isinstance(steps, int):  # symbolic, in a program that is exported for every number of steps
            return run(cell, params, x, state, valid, dropout, resets, compute_dtype, sequences)
        length = segment_length(remat, steps)
        count = steps // length
        whole = count * length

        at, reset_state = (None, None) if resets is None else resets

        def segment(state, x, valid, at, params, dropout, reset_state):
            own = None if at is None else Resets(at, reset_state)
            h, final = run(cell, params, x, state, valid, dropout, own, compute_dtype, sequences)
            return final, h

        parts = []
        if count > 1:
            # prevent_cse is not needed: in a loop the compiler cannot merge the second run of a segment with the first
            again = jax.checkpoint(segment, prevent_cse=False)
            cut = jax.tree.map(lambda a: a[:whole].reshape(count, length, *a.shape[1:]), (x, valid, at))
            state, h = lax.scan(lambda state, part: again(state, *part, params, dropout, reset_state), state, cut)
            parts.append(h.reshape(whole, *h.shape[2:]) if sequences else None)
        for start in range(whole if count > 1 else 0, steps, length):
            rest = slice(start, start + length)
            part = jax.tree.map(lambda array, rest=rest: array[rest], (x, valid, at))
            state, h = jax.checkpoint(segment)(state, *part, params, dropout, reset_state)
            parts.append(h)
        return (jnp.concatenate(parts) if len(parts) > 1 else parts[0]) if sequences else None, state

    return run_segments
