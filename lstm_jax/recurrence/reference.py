"""The reference backend: `lax.scan` over the cell's step, differentiated by JAX. It defines the values of all backends."""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from lstm_jax.cells import Cell
from lstm_jax.dropout import DropoutMasks


def run(
    cell: Cell,
    params,
    x: Float[Array, "T B E"] | Int[Array, "T B"],
    state,
    valid: Array | None,
    dropout: DropoutMasks,
    compute_dtype=None,
    sequences: bool = True,
):
    """Run `cell` over T steps.

    Args:
        cell: any cell.
        params: the cell's parameters.
        x: inputs (T, B, E) of E features, or int ids (T, B), for B rows of the batch.
        state: the cell's initial state, arrays (B, H) of H units.
        valid: bool (T, B), or None if all steps are valid. A step that is not valid copies the state.
        dropout: dropout masks. All except those of zoneout are constant over time.
        compute_dtype: dtype of the matrix products; None for that of the arrays.
        sequences: whether to return h of every step.

    Returns:
        h of every step (T, B, H), or None if `sequences` is false; and the final state.
    """
    z = cell.project(params, x, dropout.input, compute_dtype)
    zoneout = dropout.zoneout or {}
    drawn = {name: mask for name, mask in zoneout.items() if mask.ndim}

    def body(state, inputs):
        z_t, valid_t, drawn_t = inputs
        new = cell.step(params, state, z_t, dropout.recurrent, compute_dtype)
        for name, mask in (zoneout | drawn_t).items():
            before, after = getattr(state, name), getattr(new, name)
            new = new._replace(**{name: jnp.where(mask, before, after) if name in drawn_t else mask * before + (1 - mask) * after})
        if valid_t is not None:
            new = jax.tree.map(lambda a, b: jnp.where(valid_t[:, None], a, b), new, state)
        return new, new.h if sequences else None

    final, h = lax.scan(body, state, (z, valid, drawn))
    return h, final
