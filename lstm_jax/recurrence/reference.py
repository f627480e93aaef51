"""The backend `reference`, which runs the step of a cell in `lax.scan` and is differentiated by JAX.

All other backends must return the same results up to rounding.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from lstm_jax.cells import Cell
from lstm_jax.dropout import DropoutMasks
from lstm_jax.recurrence.resets import Resets, restart


def run(
    cell: Cell,
    params,
    x: Float[Array, "T B E"] | Int[Array, "T B"],
    state,
    valid: Array | None,
    dropout: DropoutMasks,
    resets: Resets | None = None,
    compute_dtype=None,
    sequences: bool = True,
    record: Callable[[Any, jax.Array, Any], Any] | None = None,
):
    """Run a recurrent cell over T steps with `lax.scan`.

    B is the batch size, E the number of input features and H the number of units.

    Args:
        cell: any cell.
        params: parameters of the cell.
        x: inputs (T, B, E), or int ids (T, B), which stand for one-hot vectors.
        state: initial state of the cell, with arrays (B, H).
        valid: bool (T, B) that is False at padded steps, or None if no step is padded. A padded step copies the state.
        dropout: dropout masks. All masks except those of zoneout are constant over time.
        resets: resets of the state within the sequence, or None.
        compute_dtype: dtype of the matrix products; None means the dtype of the arrays.
        sequences: whether to return h of all steps.
        record: None, or a function record(state before the step, z, state after the step) that returns a pytree of arrays (B, ...). z is
            the projected input of the step.

    Returns:
        A pair (h of all steps, final state). The first member is an array (T, B, H), or None if `sequences` is false. If `record` is given,
        the first member instead contains the results of `record` for all steps, as arrays (T, B, ...).
    """
    z = cell.project(params, x, dropout.input, compute_dtype)
    zoneout = dropout.zoneout or {}
    drawn = {name: mask for name, mask in zoneout.items() if mask.ndim}

    def body(state, inputs):
        z_t, valid_t, drawn_t, reset_t = inputs
        state = restart(state, reset_t, resets)
        # `where`, so that after a NaN the gradient with respect to z at a padded step is 0, and not 0 * NaN
        read = z_t if valid_t is None else jnp.where(valid_t[:, None], z_t, 0)
        new = cell.step(params, state, read, dropout.recurrent, compute_dtype)
        for name, mask in (zoneout | drawn_t).items():
            old, after = getattr(state, name), getattr(new, name)
            new = new._replace(**{name: jnp.where(mask, old, after) if name in drawn_t else mask * old + (1 - mask) * after})
        if valid_t is not None:
            new = jax.tree.map(lambda a, b: jnp.where(valid_t[:, None], a, b), new, state)
        if record is not None:
            return new, record(state, z_t, new)
        return new, new.h if sequences else None

    final, h = lax.scan(body, state, (z, valid, drawn, None if resets is None else resets.at))
    return h, final
