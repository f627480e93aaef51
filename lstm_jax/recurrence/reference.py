"""The backend `reference`, which runs the step of a cell in `lax.scan` and is
differentiated by JAX.

All other backends must return the same results up to rounding.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from lstm_jax.recurrence.call import Call, Options, restart, select_rows


def run(
    options: Options, call: Call, record: Callable[[Any, Array, Any], Any] | None = None
):
    """Run a recurrent cell over T steps, and return (h of all steps, final state).

    Args:
        options: static options of the call.
        call: operands of the call. Any cell is accepted, and all kinds of dropout. A
            padded step copies the state.
        record: None, or a function record(state before the step, z, state after the
            step) that returns a pytree of arrays (B, ...). z is the projected input of
            the step.

    Returns:
        A pair. The first member is h of all steps (T, B, H), or None if
        `options.sequences` is false; with `record`, it is the results of `record` for
        all steps, as arrays (T, B, ...). The second member is the final state.
    """
    cell, params, dropout, resets = options.cell, call.params, call.dropout, call.resets
    z = cell.project(params, call.x, dropout.input, options.compute_dtype)  # (T, B, Z)
    zoneout = dropout.zoneout or {}
    # those in training have a mask for each step, the others are one number
    drawn = {name: mask for name, mask in zoneout.items() if mask.ndim}

    def body(state, inputs):
        z_t, valid_t, drawn_t, reset_t = inputs
        state = restart(state, reset_t, resets)
        # a selection, so that after a NaN the gradient with respect to z at a padded
        # step is 0, and not 0 * NaN
        read = select_rows(valid_t, z_t, 0)
        new = cell.step(params, state, read, dropout.recurrent, options.compute_dtype)
        for name, mask in (zoneout | drawn_t).items():
            old, after = getattr(state, name), getattr(new, name)
            if name in drawn_t:
                mixed = jnp.where(mask, old, after)
            else:
                mixed = mask * old + (1 - mask) * after
            new = new._replace(**{name: mixed})
        new = select_rows(valid_t, new, state)
        if record is not None:
            return new, record(state, z_t, new)
        return new, new.h if options.sequences else None

    steps = (z, call.valid, drawn, resets and resets.at)
    if z.shape[0] == 1:  # outside of `jit`, a loop would be compiled at each call
        final, h = body(call.state, jax.tree.map(lambda array: array[0], steps))
        return jax.tree.map(lambda array: array[None], h), final
    final, h = lax.scan(body, call.state, steps)
    return h, final
