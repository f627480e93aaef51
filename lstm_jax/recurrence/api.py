"""The one function that runs a recurrence.

    outputs, state = unroll(CELLS["lstm"], params, x)

Its operands are read in operands.py, its backend is chosen in backends.py.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from lstm_jax.cells import Cell
from lstm_jax.cells.products import one_hot_rows
from lstm_jax.dropout import DropoutMasks
from lstm_jax.errors import require
from lstm_jax.primitives.partition import in_automatic_mode, vary_together
from lstm_jax.recurrence.backends import Backend, dropout_kinds, mask_kind, resolve_backend
from lstm_jax.recurrence.operands import Operands, read_operands
from lstm_jax.recurrence.segments import Remat, check_remat, in_segments


def unroll(
    cell: Cell,
    params,
    x: Any,
    initial_state: Any = None,
    *,
    mask: Any = None,
    lengths: Any = None,
    dropout: Any = None,
    tokens: Any = None,
    backwards: bool = False,
    return_sequences: bool = True,
    zero_output_for_mask: bool = False,
    time_major: bool = False,
    compute_dtype=None,
    backend: str | None = None,
    remat: Remat = None,
):
    """Run `cell` over a batch of sequences, with Keras' semantics.

    Arrays may be JAX arrays, NumPy arrays or lists; floats, bools and ints are converted to the parameters' dtype where floats are
    expected, see `operands.py`. Values of x at steps that are not valid reach no result and no gradient, not even NaN.

    Args:
        cell: a row of `CELLS`.
        params: its parameters, all of one float dtype.
        x: (B, T, E), or (T, B, E) if `time_major`; converted to the parameters' dtype. Or int ids (B, T), or (T, B), which stand for
            one-hot rows of E features: their product with the kernel is a gather of its rows. Negative ids count from the end; an id beyond
            E gives NaN.
        initial_state: its state, or a tuple or list in the state's order, converted to the parameters' dtype; zeros if None.
        mask: bool (B, T) ((T, B) if `time_major`), False where a step copies the state and repeats the previous output; numbers other than
            0 are True.
        lengths: int (B,), instead of `mask`: the first `lengths[b]` steps are valid. Lengths are clipped to 0..T.
        dropout: masks, constant over time except for zoneout's; converted to the parameters' dtype, so that True keeps a value as it is.
        tokens: int (B, T), or (T, B) if `time_major`: steps of a row with equal tokens have equal x, as after a lookup in a table. A
            backend may then multiply x by the kernel once for all of them, and return the sum of their gradients at one of these steps and
            zeros at the others; this suits a caller who sums them, as the gradient by the table does. Ignored with `remat`, and for JAX
            arrays of 64 bits.
        backwards: read the reversed sequence; outputs come in processing order.
        return_sequences: return the outputs of all steps; else the last one.
        zero_output_for_mask: outputs of steps that are not valid are zeros instead of the previous output.
        time_major: whether time is the first axis of x, mask, tokens and outputs.
        compute_dtype: dtype of the matrix products (bfloat16), None for that of the parameters. State and sums keep the parameters' dtype.
        backend: a name in `BACKENDS`, or None to choose.
        remat: number of segments of a long sequence for which the backward pass keeps only the first state and computes the rest again, as
            `jax.remat` does (Chen et al. 2016); "sqrt" for ceil(sqrt(T)), None to keep all. It changes no value.

    Returns:
        outputs (B, T, H) ((T, B, H) if `time_major`), or (B, H) without `return_sequences`; and the final state.

    Raises:
        InputError: if the class, shape or dtype of an operand does not fit, T is 0, both `mask` and `lengths` are given, `remat` is below
            1, or the backend cannot serve.
    """
    order = {"backwards": backwards, "time_major": time_major}
    operands = read_operands(cell, params, x, initial_state, mask=mask, lengths=lengths, dropout=dropout, tokens=tokens, **order)
    kinds = {"dropout": dropout_kinds(operands.dropout), "mask": mask_kind(mask, lengths, backwards)}
    chosen = resolve_backend(backend, cell, operands.params.kernel.dtype, compute_dtype, units=operands.state.h.shape[1], **kinds)
    h, final = _run(chosen, cell, operands, compute_dtype, return_sequences, _checked_remat(remat, operands.dropout))
    if not return_sequences:
        return _last_output(final.h, operands.valid, zero_output_for_mask), final
    h = _all_outputs(h, operands.valid, zero_output_for_mask)
    return (h if time_major else jnp.swapaxes(h, 0, 1)), final


def _checked_remat(remat: Any, dropout: DropoutMasks) -> Remat:
    found = check_remat(remat)
    require(found is None or not dropout.zoneout, "remat", found, "segments have no zoneout: give None, or no zoneout")
    return found


def _run(backend: Backend, cell: Cell, operands: Operands, compute_dtype, sequences: bool, remat: Remat):
    """Return h of all steps (T, B, H), or None without `sequences`, and the final state."""
    run = partial(_run_rows, backend.run)
    run = run if remat is None else in_segments(run, remat)

    def call(params, x, state, valid, dropout, *tokens):
        return run(cell, params, x, state, valid, dropout, compute_dtype, sequences, *tokens)

    *arrays, tokens = operands
    shared = (tokens,) if tokens is not None and backend.shares and remat is None else ()
    out_axes = (1 if sequences else None, jax.tree.map(lambda part: 0, operands.state))
    return in_automatic_mode(call, 1, out_axes)(*vary_together(*arrays, *shared))


def _run_rows(run: Callable, cell: Cell, params, x, state, valid, dropout: DropoutMasks, compute_dtype, sequences: bool, *tokens):
    """Call a backend's `run`; ids with a dropout mask over features are turned into their one-hot rows first."""
    if x.ndim == 2 and dropout.input is not None:
        x = one_hot_rows(x, params.kernel.shape[0], params.kernel.dtype)
    return run(cell, params, x, state, valid, dropout, compute_dtype, sequences, *tokens)


def _last_output(h: jax.Array, valid: jax.Array | None, zeros: bool) -> jax.Array:
    """Return the last output (B, H): zeros for a row without a valid step, and with `zeros` if the last step is not valid."""
    if valid is None:
        return h
    shown = valid[-1] if zeros else valid.any(0)
    return jnp.where(shown[:, None], h, 0)


def _all_outputs(h: jax.Array, valid: jax.Array | None, zeros: bool) -> jax.Array:
    """Return the outputs (T, B, H): zeros before the first valid step, and with `zeros` at every step that is not valid."""
    if valid is None:
        return h
    shown = valid if zeros else jnp.cumsum(valid, axis=0) > 0
    return jnp.where(shown[:, :, None], h, 0)
