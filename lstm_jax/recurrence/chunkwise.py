"""The backend `chunkwise`, which computes several steps at once, as matrix products,
and passes the state from chunk to chunk.
"""

import jax
import jax.numpy as jnp
from jax import lax

from lstm_jax.recurrence import reference
from lstm_jax.recurrence.call import Call, Options

_SHORTEST, _LONGEST = 32, 128


def run(options: Options, call: Call):
    """Run a cell that has the function `chunk`. The arguments and results are those of
    `reference.run`.

    A chunk has about as many steps as the state has columns for each unit, since the
    products within a chunk then cost as much as those with the state.
    """
    cell, valid, resets = options.cell, call.valid, call.resets
    run_chunk = cell.chunk
    assert run_chunk is not None
    z = cell.project(call.params, call.x, call.dropout.input, options.compute_dtype)
    steps, batch = z.shape[:2]
    # symbolic, in a program that is exported for every number of steps
    if not isinstance(steps, int):
        return reference.run(options, call)
    step = lax.broadcasted_iota(jnp.int32, (steps, batch), 0)

    def latest(flags):  # the last step up to each step at which the flag is true, or -1
        if flags is None:
            return jnp.full_like(step, -1)
        return lax.cummax(jnp.where(flags, step, -1))

    restarted = latest(resets and resets.at)
    # in a product of matrices a NaN would reach all steps of its chunk, so that those
    # after it get their NaN here
    # or XLA would take seconds to compute this for a state of zeros
    given = lax.optimization_barrier(lax.stop_gradient(call.state))
    finite = _is_finite(z)  # (T, B)
    whole = jax.tree.reduce(jnp.logical_and, jax.tree.map(_is_finite, given))  # (B,)
    spoiled = latest(~finite if valid is None else valid & ~finite)
    spoiled = (spoiled >= 0) & (spoiled >= restarted) | (restarted < 0) & ~whole[None]
    state = jax.tree.map(lambda part: jnp.where(whole[:, None], part, 0), call.state)

    # chunks of equal length, the last one with padded steps
    columns = sum(part.shape[1] for part in call.state) // call.state.h.shape[1]
    count = -(-steps // min(max(columns, _SHORTEST), _LONGEST))
    length = -(-steps // count)
    missing = count * length - steps
    if missing and valid is None:
        valid = jnp.ones((steps, batch), bool)

    def cut(array):
        array = jnp.pad(array, [(0, missing), *[(0, 0)] * (array.ndim - 1)])
        return array.reshape(count, length, *array.shape[1:])

    def body(state, operands):
        z, valid, at = operands
        h, state = run_chunk(state, z, valid, resets and resets._replace(at=at))
        return state, h

    z_finite = jnp.where(finite[..., None], z, 0)
    chunks = jax.tree.map(cut, (z_finite, valid, resets and resets.at))
    final, h = lax.scan(body, state, chunks)
    h = h.reshape(-1, *h.shape[2:])[:steps]  # (T, B, H)

    # h of the last valid step, or that of the state from which its sequence starts
    if call.valid is not None:
        known = latest(call.valid)
        start = call.state.h[None]
        if resets is not None:
            fresh = (restarted >= 0)[..., None]
            start = jnp.where(fresh, resets.state.h[None], start)
        last = jnp.take_along_axis(h, jnp.maximum(known, 0)[..., None], 0)
        h = jnp.where((known >= jnp.maximum(restarted, 0))[..., None], last, start)

    # the NaN, with its gradient
    nan = jnp.nan * jnp.where(spoiled[..., None], z, 0).sum(-1, keepdims=True)
    h = jnp.where(spoiled[..., None], nan, h)
    final = jax.tree.map(
        lambda part: jnp.where(spoiled[-1, :, None], nan[-1], part), final
    )
    return h if options.sequences else None, final._replace(h=h[-1])


def _is_finite(array):
    return jnp.isfinite(array).all(-1)
