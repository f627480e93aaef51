"""The function `unroll`, which runs a recurrent cell over a batch of sequences.

    outputs, state = unroll(CELLS["lstm"], params, x)

The module operands.py checks and converts the arguments of `unroll`, and backends.py chooses the implementation.

B is the batch size, T the number of steps, E the number of input features and H the number of units.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from lstm_jax.cells import Cell
from lstm_jax.dropout import DropoutMasks
from lstm_jax.errors import require
from lstm_jax.primitives.partition import in_automatic_mode, vary_together
from lstm_jax.recurrence.backends import Backend, dropout_kinds, mask_kind, resolve_backend
from lstm_jax.recurrence.observing import tell
from lstm_jax.recurrence.operands import Operands, read_operands
from lstm_jax.recurrence.resets import Resets
from lstm_jax.recurrence.segments import Remat, check_remat, in_segments


def unroll(
    cell: Cell,
    params,
    x: Any,
    initial_state: Any = None,
    *,
    mask: Any = None,
    lengths: Any = None,
    resets: Any = None,
    reset_state: Any = None,
    segment_ids: Any = None,
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
    """Run a recurrent cell over a batch of sequences, with the semantics of Keras.

    Arrays may be JAX arrays, NumPy arrays or lists. Where floats are expected, ints and bools are also accepted and converted to the dtype
    of the parameters; see operands.py. A row is one entry of the batch. It holds one sequence, or several sequences if `resets` or
    `segment_ids` is given. All steps are valid except those that `mask`, `lengths` or `segment_ids` declares to be padding. The values of x
    at padded steps, even NaN, do not affect any result or gradient.

    Args:
        cell: the cell, such as a value of the dict `CELLS`.
        params: the parameters of the cell, all of the same float dtype.
        x: inputs (B, T, E), or (T, B, E) if `time_major` is true. They are converted to the dtype of the parameters. x may also be int ids
            (B, T), or (T, B) if `time_major` is true, which stand for one-hot vectors of E features. The product of a one-hot vector and
            the kernel is one row of the kernel, which is read without a multiplication. A negative id counts from the end, and an id out of
            range gives NaN.
        initial_state: the initial state of the cell, or a tuple or list of its arrays in the order of its fields. The arrays are converted
            to the dtype of the parameters. None means `reset_state` if it is given, else the state that the function `initial_state` of the
            cell returns, which is zeros for the cells of this library.
        mask: bool (B, T), or (T, B) if `time_major` is true, that is False at padded steps. A padded step copies the state and repeats the
            previous output. In a mask of numbers, 0 means False and any other number means True.
        lengths: int (B,), the number of valid steps at the start of each row, clipped to 0..T. It may be given instead of `mask`.
        resets: bool (B, T), or (T, B) if `time_major` is true. True marks the first step of a new sequence within a row, also at a padded
            step. Before this step the state is replaced by `reset_state`, so that no value and no gradient passes from one sequence to the
            next. If `backwards` is true, the row is divided into the same sequences, and each of them is read from its end. The state is
            then replaced after the marked step has been processed, and a reset at step 0 has no effect.
        reset_state: the state after a reset: a state of the cell, or a tuple or list of its arrays, each (B, H), or (H,) for all rows. It
            is differentiated, so that an initial state can be learned. None means the state that the function `initial_state` of the cell
            returns.
        segment_ids: int (B, T), or (T, B) if `time_major` is true, for several sequences packed in a row: the steps of a sequence have the
            same id, adjacent sequences have different ids, and padded steps have the id 0. The state is reset at the first step of each
            sequence except the first one of the row. `segment_ids` replaces `resets`, `mask` and `lengths`; see `lstm_jax.packing`.
        dropout: `DropoutMasks`, or None for no dropout. Input and recurrent masks are constant over time. They are converted to the dtype
            of the parameters, so that in a bool mask True keeps a value and False drops it.
        tokens: int (B, T), or (T, B) if `time_major` is true. Two steps of a row may have equal tokens only if they have equal x, for
            example because x is the result of a lookup of tokens in an embedding table. For all steps of a row with equal tokens, a backend
            may then compute the product of x and the kernel only once. It may also change the gradients with respect to x at these steps:
            one step gets the sum of the gradients, and the other steps get zeros. Therefore give tokens only if these gradients are summed
            anyway, as they are in the gradient of an embedding table. Tokens are ignored if `remat` is given, or if `tokens` is a JAX array
            of 64-bit ints.
        backwards: whether to read the sequence in reverse. The outputs are in the order in which the steps are processed.
        return_sequences: whether to return the outputs of all steps instead of the last output.
        zero_output_for_mask: whether the outputs of padded steps are zeros instead of the previous output.
        time_major: whether time is the first axis of `x`, `mask`, `resets`, `segment_ids`, `tokens` and the outputs.
        compute_dtype: dtype of the matrix products, for example bfloat16. None means the dtype of the parameters. The state and the results
            of the products keep the dtype of the parameters. Ids look up rows of the kernel, which are not converted. Products in int8
            (`cells.products.int8_matmul`) have no gradient.
        backend: a name in `BACKENDS`, or None to choose a backend automatically.
        remat: approximate number of segments into which the T steps are divided to save memory (Chen et al. 2016). These segments are not
            those of `segment_ids`. The forward pass stores only the first state of each segment, and the backward pass computes the
            residuals of each segment again, as with `jax.remat`. "sqrt" means ceil(sqrt(T)) segments. None stores all residuals. The
            results do not depend on this argument.

    Returns:
        A pair of the outputs and the final state. The outputs are (B, T, H), or (T, B, H) if `time_major` is true. If `return_sequences` is
        false, they are only the last output (B, H). If the attribute `outputs` of the cell is not 0, it replaces H in these shapes.

    Raises:
        InputError: in one of these cases.

            - An argument has a wrong class, shape or dtype, T is 0, or `remat` is below 1.
            - Two arguments are given that exclude each other: `mask` and `lengths`, or `remat` and a `dropout` with zoneout, or
              `segment_ids` and one of `mask`, `lengths` and `resets`.
            - `reset_state` is given, but neither `resets` nor `segment_ids` is given.
            - The named backend does not support the call, or no backend is named and none supports the call.
    """
    order = {"backwards": backwards, "time_major": time_major}
    cuts = {"resets": resets, "reset_state": reset_state, "segment_ids": segment_ids}
    operands = read_operands(cell, params, x, initial_state, mask=mask, lengths=lengths, dropout=dropout, tokens=tokens, **cuts, **order)
    tell(cell, operands, compute_dtype, backwards)
    kind = "mask" if segment_ids is not None else mask_kind(mask, lengths, backwards)
    kinds = {"dropout": dropout_kinds(operands.dropout), "mask": kind, "resets": operands.resets is not None}
    units = operands.params.kernel.shape[1] // cell.gates
    chosen = resolve_backend(backend, cell, operands.params.kernel.dtype, compute_dtype, units=units, **kinds)
    remat = check_remat(remat)
    require(remat is None or not operands.dropout.zoneout, "remat", remat, "segments have no zoneout: give None, or no zoneout")
    h, final = _run(chosen, cell, operands, compute_dtype, return_sequences, remat, not time_major)
    if not return_sequences:
        return _last_output(final.h, operands.valid, operands.resets, zero_output_for_mask), final
    h = _all_outputs(h, operands.valid, operands.resets, zero_output_for_mask)
    return (h if time_major else jnp.swapaxes(h, 0, 1)), final


def _run(backend: Backend, cell: Cell, operands: Operands, compute_dtype, sequences: bool, remat: Remat, batch_first: bool):
    """Run a backend on arguments that `unroll` has checked and converted, and return (h of all steps, final state).

    Args:
        backend: the backend.
        cell: the cell.
        operands: the checked arguments.
        compute_dtype: dtype of the matrix products; None means the dtype of the parameters.
        sequences: whether to return h of all steps (T, B, H). If false, None is returned in its place.
        remat: number of segments for rematerialisation, "sqrt", or None for no rematerialisation.
        batch_first: whether the x that the user gives to `unroll`, and the outputs that `unroll` returns, are (B, T, ...) instead of
            (T, B, ...); see `compiled.run`.
    """
    shares = backend.shares and remat is None
    run = partial(_run_rows, partial(backend.run, batch_first=batch_first) if shares else backend.run)
    run = run if remat is None else in_segments(run, remat)

    def call(params, x, state, valid, dropout, resets, *tokens):
        return run(cell, params, x, state, valid, dropout, resets, compute_dtype, sequences, *tokens)

    *arrays, tokens = operands
    shared = (tokens,) if tokens is not None and shares else ()
    out_axes = (1 if sequences else None, jax.tree.map(lambda part: 0, operands.state))
    return in_automatic_mode(call, 1, out_axes)(*vary_together(*arrays, *shared))


def _run_rows(run: Callable, cell: Cell, params, x, state, valid, dropout: DropoutMasks, *rest):
    """Call the function `run` of a backend and return its results. If necessary, first convert ids in x to one-hot vectors.

    The conversion is necessary if there is an input dropout mask, since this mask cannot be applied to ids, or if the function `project` of
    the cell does not accept ids. The arguments after `run` are those of `reference.run`.
    """
    x = cell.projectable(params, x, dropout.input is not None)
    return run(cell, params, x, state, valid, dropout, *rest)


def _after_valid(valid: jax.Array, resets: Resets | None) -> jax.Array:
    """Return a bool array (T, B) that is True at the first valid step of each sequence and at all later steps of the sequence.

    A sequence begins at the first step of a row and at each step with a reset.

    Args:
        valid: bool (T, B), False at padded steps.
        resets: the resets, or None.
    """
    if resets is None:
        return jnp.cumsum(valid, axis=0) > 0
    step = jax.lax.broadcasted_iota(jnp.int32, valid.shape, 0)
    return jax.lax.cummax(jnp.where(valid, step, -1)) >= jax.lax.cummax(jnp.where(resets.at, step, 0))


def _last_output(h: jax.Array, valid: jax.Array | None, resets: Resets | None, zeros: bool) -> jax.Array:
    """Return the last output of each row, an array (B, H): h after the last step, or zeros.

    A sequence begins at the first step of a row and at each step with a reset. The last output is zeros in two cases: if the last
    sequence of the row has no valid step, or if `zeros` is true and the last step is padded.

    Args:
        h: the final h (B, H).
        valid: bool (T, B), False at padded steps, or None if no step is padded.
        resets: the resets, or None.
        zeros: whether a padded step has the output zero.
    """
    if valid is None:
        return h
    shown = valid[-1] if zeros else _after_valid(valid, resets)[-1]
    return jnp.where(shown[:, None], h, 0)


def _all_outputs(h: jax.Array, valid: jax.Array | None, resets: Resets | None, zeros: bool) -> jax.Array:
    """Return the outputs of all steps, an array (T, B, H). The output of each step is h after this step, or zeros.

    The output of a valid step is always h, even at a reset. The output of a padded step is zeros in two cases: if `zeros` is true, or if
    the step comes before the first valid step of its sequence. A sequence begins at the first step of a row and at each step with a reset.

    Args:
        h: h after each step (T, B, H).
        valid: bool (T, B), False at padded steps, or None if no step is padded.
        resets: the resets, or None.
        zeros: whether a padded step has the output zero.
    """
    if valid is None:
        return h
    shown = valid if zeros else _after_valid(valid, resets)
    return jnp.where(shown[:, :, None], h, 0)
