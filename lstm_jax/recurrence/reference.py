"""The definition of right: `lax.scan` over the cell's step, differentiated by JAX."""

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
    """Run `cell` over T.

    Args:
        params: the cell's parameters.
        state: the cell's initial state.
        valid: bool (T, B), or None for all; a step that is not valid copies the state.
        dropout: masks, constant over T but for zoneout's.
        compute_dtype: type of the matrix products, None for that of the arrays.
        sequences: whether h of every step is wanted.

    Returns:
        h of every step (T, B, H), or None; and the final state.
    """
    z = cell.project(params, x, dropout.input, compute_dtype)
    zoned = dropout.zoneout or {}
    drawn = {name: kept for name, kept in zoned.items() if kept.ndim}

    def body(state, inputs):
        z_t, valid_t, drawn_t = inputs
        new = cell.step(params, state, z_t, dropout.recurrent, compute_dtype)
        for name, kept in (zoned | drawn_t).items():
            old, made = getattr(state, name), getattr(new, name)
            new = new._replace(**{name: jnp.where(kept, old, made) if name in drawn_t else kept * old + (1 - kept) * made})
        if valid_t is not None:
            new = jax.tree.map(lambda a, b: jnp.where(valid_t[:, None], a, b), new, state)
        return new, new.h if sequences else None

    final, h = lax.scan(body, state, (z, valid, drawn))
    return h, final
