"""The backend `associative`, a parallel scan over time for cells that are linear in
their state.

A step of such a cell is h' = a h + b, where a and b do not depend on h. The composition
of steps is associative, so that a parallel scan can compute all steps (Blelloch 1990).
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from lstm_jax.cells import cell as cells
from lstm_jax.recurrence.call import Call, Options, select_rows


def run(options: Options, call: Call):
    """Run a cell that is linear in its state (`cell.is_linear` is true) with a parallel
    scan over time.

    The arguments and results are those of `reference.run`. For T steps, B rows and H
    units the scan makes about 2 log2(T) passes over arrays (T, B, H).
    """
    a, b, at = coefficients(options, call)
    a = jnp.broadcast_to(a, b.shape)  # (T, B, columns of h)
    if at is None:
        at = jnp.zeros(b.shape[:2], bool)
    times = partial(cells.times, options.cell.complex_state)

    def compose(first, second):
        first_a, first_b, first_starts = first
        a, b, starts = second
        # what comes before a reset is replaced by 0, since 0 times NaN would be NaN
        first_a = jnp.where(starts, 0, first_a)
        first_b = jnp.where(starts, 0, first_b)
        return times(a, first_a), times(a, first_b) + b, first_starts | starts

    a, b, starts = lax.associative_scan(compose, (a, b, at[:, :, None]))
    state = jnp.where(starts, 0, jnp.broadcast_to(call.state.h, a.shape))
    h = times(a, state) + b  # (T, B, columns of h)
    return h if options.sequences else None, jax.tree.map(lambda _: h[-1], call.state)


def coefficients(
    options: Options, call: Call, batch_first: bool = False
) -> tuple[Array, Array, Array | None]:
    """Return the coefficients a and b of the steps h' = a h + b of a cell that is
    linear in its state, and the flags of its resets.

    a and b are (T, B, columns of h), and the flags bool (T, B), or None without resets.
    If a is the same at all steps, it has no axes T and B unless steps are padded. At a
    padded step a is 1 and b is 0, so that the step copies h. If the state is reset
    before a step, b already contains the contribution of the reset state. The caller
    must replace h before a flagged step by 0, since h may be NaN, and 0 times NaN is
    NaN. With `batch_first` all these arrays are (B, T, ...); there may be no mask of
    input dropout.
    """
    cell, resets = options.cell, call.resets

    def ordered(array: Any) -> Any:
        return jnp.swapaxes(array, 0, 1) if batch_first and array is not None else array

    x = ordered(call.x)
    z = cell.project(call.params, x, call.dropout.input, options.compute_dtype)
    if cell.decay:
        a, b = cell.decay(call.params), z
    else:
        assert cell.linear is not None
        a, b = cell.linear(z)

    # a padded step copies h: a = 1, b = 0
    if call.valid is not None:
        one = jnp.ones_like(b)
        if cell.complex_state:
            one = one.at[..., b.shape[-1] // 2 :].set(0)
        a = jnp.broadcast_to(a, b.shape)
        a, b = select_rows(ordered(call.valid), (a, b), (one, 0))
    if resets is None:
        return a, b, None

    # b of a step after a reset contains a times the new state
    at = ordered(resets.at)
    state = jnp.expand_dims(resets.state.h, int(batch_first))
    starts = jnp.where(at[:, :, None], state, 0)
    return a, cells.times(cell.complex_state, a, starts) + b, at
