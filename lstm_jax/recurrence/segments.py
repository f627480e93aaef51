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
from lstm_jax.recurrence.operands import Call
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
    """Return the number of steps in each segment. The last segment may be shorter."""
    segments = math.isqrt(steps - 1) + 1 if remat == "sqrt" else min(remat, steps)
    # segments of different lengths cannot form a loop, and outside of a loop the compiler may keep the residuals of both at the same time
    return steps // 2 if segments == 2 else -(-steps // segments)


def in_segments(run: Callable, remat: Literal["sqrt"] | int) -> Callable:
    """Return a function that runs a sequence in segments to save memory, with the argument and results of `run`."""

    def run_segments(call: Call):
        steps = call.x.shape[0]
        if not isinstance(steps, int):  # symbolic, in a program that is exported for every number of steps
            return run(call)
        length = segment_length(remat, steps)
        count = steps // length
        whole = count * length
        at, reset_state = (None, None) if call.resets is None else call.resets
        per_step, fixed = (call.x, call.valid, at), (call.params, call.dropout, reset_state)

        def segment(state, x, valid, at, params, dropout, reset_state):
            h, final = run(Call(params, x, state, valid, dropout, None if at is None else Resets(at, reset_state)))
            return final, h

        state, parts = call.state, []
        if count > 1:
            # prevent_cse is not needed: in a loop the compiler cannot merge the second run of a segment with the first
            again = jax.checkpoint(segment, prevent_cse=False)
            cut = jax.tree.map(lambda a: a[:whole].reshape(count, length, *a.shape[1:]), per_step)
            state, h = lax.scan(lambda state, part: again(state, *part, *fixed), state, cut)
            parts.append(None if h is None else h.reshape(whole, *h.shape[2:]))
        for start in range(whole if count > 1 else 0, steps, length):
            rest = slice(start, start + length)
            state, h = jax.checkpoint(segment)(state, *jax.tree.map(lambda array, rest=rest: array[rest], per_step), *fixed)
            parts.append(h)
        return parts[0] if len(parts) == 1 or parts[0] is None else jnp.concatenate(parts), state

    return run_segments
