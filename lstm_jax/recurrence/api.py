"""The function `unroll`, which runs a recurrent cell over a batch of sequences.

    outputs, state = unroll(CELLS["lstm"], params, x)

The module operands.py checks, converts and arranges the arguments of `unroll`, and
backends.py chooses the implementation.

Rematerialisation (the argument `remat`) saves memory for long sequences (Chen et al.
2016, "Training deep nets with sublinear memory cost"). The sequence is divided into
segments. The forward pass stores only the first state of each segment, and the backward
pass runs each segment again to compute its residuals. For T steps in n segments, this
needs memory for n states and for the residuals of T / n steps. The total memory is
smallest near n = sqrt(T). In return, the backward pass also takes the time of a second
forward pass.

B is the batch size, T the number of steps, E the number of input features and H the
number of units.
"""

import contextlib
import math
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import replace
from numbers import Integral
from typing import Literal

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from lstm_jax.base.errors import require
from lstm_jax.cells import Cell
from lstm_jax.cells.cell import is_ours
from lstm_jax.native.partition import in_automatic_mode, vary_together
from lstm_jax.recurrence.backends import Backend, dropout_kinds, resolve_backend
from lstm_jax.recurrence.call import (
    Call,
    Options,
    Remat,
    Resets,
    select_rows,
    uniform_axes,
)
from lstm_jax.recurrence.operands import (
    Arguments,
    arrange,
    check_arguments,
    check_ids,
    compute_dtype_name,
)

Observer = Callable[[Options, Call, bool], None]
_OBSERVER: ContextVar[Observer | None] = ContextVar("observer", default=None)


@contextlib.contextmanager
def observed(observer: Observer) -> Iterator[None]:
    """Return a context manager in which each call of `unroll` also calls
    observer(options, call, backwards).
    """
    token = _OBSERVER.set(observer)
    try:
        yield
    finally:
        _OBSERVER.reset(token)


def unroll(
    cell: Cell,
    params,
    x,
    initial_state=None,
    *,
    mask=None,
    lengths=None,
    resets=None,
    reset_state=None,
    segment_ids=None,
    dropout=None,
    tokens=None,
    backwards: bool = False,
    return_sequences: bool = True,
    zero_output_for_mask: bool = False,
    time_major: bool = False,
    compute_dtype=None,
    backend: str | None = None,
    remat: Remat = None,
):
    """Run a recurrent cell over a batch of sequences, with the semantics of Keras.

    Arrays may be JAX arrays, NumPy arrays or lists. Where floats are expected, ints and
    bools are also accepted and converted to the dtype of the parameters; see
    operands.py. A row is one entry of the batch. It holds one sequence, or several
    sequences if `resets` or `segment_ids` is given. All steps are valid except those
    that `mask`, `lengths` or `segment_ids` declares to be padding. The values of x at
    padded steps, even NaN, do not affect any result or gradient.

    Args:
        cell: the cell, such as a value of the dict `CELLS`.
        params: the parameters of the cell, all of the same float dtype.
        x: inputs (B, T, E), or (T, B, E) if `time_major` is true. They are converted to
            the dtype of the parameters. x may also be int ids (B, T), or (T, B) if
            `time_major` is true, which stand for one-hot vectors of E features. The
            product of a one-hot vector and the kernel is one row of the kernel, which
            is read without a multiplication. A negative id counts from the end. An id
            out of range at a valid step is an error or, within `jit`, gives NaN.
        initial_state: the initial state of the cell, or a tuple or list of its arrays
            in the order of its fields. The arrays are converted to the dtype of the
            parameters. None means `reset_state` if it is given, else the state that the
            function `initial_state` of the cell returns, which is zeros for the cells
            of this library.
        mask: bool (B, T), or (T, B) if `time_major` is true, that is False at padded
            steps. A padded step copies the state and repeats the previous output. In a
            mask of numbers, 0 means False and any other number means True.
        lengths: int (B,), the number of valid steps at the start of each row, clipped
            to 0..T. It may be given instead of `mask`.
        resets: bool (B, T), or (T, B) if `time_major` is true. True marks the first
            step of a new sequence within a row, also at a padded step. Before this step
            the state is replaced by `reset_state`, so that no value and no gradient
            passes from one sequence to the next. If `backwards` is true, the row is
            divided into the same sequences, and each of them is read from its end. The
            state is then replaced after the marked step has been processed, and a reset
            at step 0 has no effect.
        reset_state: the state after a reset: a state of the cell, or a tuple or list of
            its arrays, each (B, H), or (H,) for all rows. It is differentiated, so that
            an initial state can be learned. None means the state that the function
            `initial_state` of the cell returns.
        segment_ids: int (B, T), or (T, B) if `time_major` is true, for several
            sequences packed in a row: the steps of a sequence have the same id,
            adjacent sequences have different ids, and padded steps have the id 0. The
            state is reset at the first step of each sequence except the first one of
            the row. `segment_ids` replaces `resets`, `mask` and `lengths`; see
            `lstm_jax.recurrence.packing`.
        dropout: `DropoutMasks`, or None for no dropout. Input and recurrent masks are
            constant over time. They are converted to the dtype of the parameters, so
            that in a bool mask True keeps a value and False drops it.
        tokens: int (B, T), or (T, B) if `time_major` is true. Two steps of a row may
            have equal tokens only if they have equal x, for example because x is the
            result of a lookup of tokens in an embedding table. For all steps of a row
            with equal tokens, a backend may then compute the product of x and the
            kernel only once. It may also change the gradients with respect to x at
            these steps: one step gets the sum of the gradients, and the other steps get
            zeros. Therefore give tokens only if these gradients are summed anyway, as
            they are in the gradient of an embedding table. Tokens are ignored if
            `remat` is given, or if `tokens` is a JAX array of 64-bit ints.
        backwards: whether to read the sequence in reverse. The outputs are in the order
            in which the steps are processed.
        return_sequences: whether to return the outputs of all steps instead of the last
            output.
        zero_output_for_mask: whether the outputs of padded steps are zeros instead of
            the previous output.
        time_major: whether time is the first axis of `x`, `mask`, `resets`,
            `segment_ids`, `tokens` and the outputs.
        compute_dtype: dtype of the matrix products, for example bfloat16. None means
            the dtype of the parameters. The state and the results of the products keep
            the dtype of the parameters. Ids look up rows of the kernel, which are not
            converted. Products in int8 (`cells.products.int8_matmul`) have no gradient.
        backend: a name in `BACKENDS`, or None to choose a backend automatically.
        remat: approximate number of segments into which the T steps are divided to save
            memory (Chen et al. 2016). These segments are not those of `segment_ids`.
            The forward pass stores only the first state of each segment, and the
            backward pass computes the residuals of each segment again, as with
            `jax.remat`. "sqrt" means ceil(sqrt(T)) segments. None stores all residuals.
            The results do not depend on this argument.

    Returns:
        A pair of the outputs and the final state. The outputs are (B, T, H), or (T, B,
        H) if `time_major` is true. If `return_sequences` is false, they are only the
        last output (B, H). If the attribute `outputs` of the cell is not 0, it replaces
        H in these shapes.

    Raises:
        InputError: in one of these cases.

            - An argument has a wrong class, shape or dtype, T is 0, or `remat` is below
              1.
            - Two arguments are given that exclude each other: `mask` and `lengths`, or
              `remat` and a `dropout` with zoneout, or `segment_ids` and one of `mask`,
              `lengths` and `resets`.
            - `reset_state` is given, but neither `resets` nor `segment_ids` is given.
            - The named backend does not support the call, or no backend is named and
              none supports the call.
    """
    given = Arguments(
        params=params,
        x=x,
        state=initial_state,
        reset_state=reset_state,
        mask=mask,
        lengths=lengths,
        resets=resets,
        segment_ids=segment_ids,
        dropout=dropout,
        tokens=tokens,
    )
    arguments = check_arguments(cell, given, time_major)
    check_ids(cell, arguments, time_major)
    segments = check_remat(remat)
    zoned = segments is not None and arguments.dropout.zoneout
    remedy = "segments have no zoneout: give None, or no zoneout"
    require(not zoned, "remat", remat, remedy)

    dtype = arguments.params.kernel.dtype
    products = None
    if compute_dtype is not None:
        products = compute_dtype_name(compute_dtype, dtype)
    padding = ""
    if arguments.lengths is not None:
        padding = "lengths read backwards" if backwards else "lengths"
    elif arguments.mask is not None or arguments.segment_ids is not None:
        padding = "mask"
    chosen = resolve_backend(
        backend,
        cell,
        dtype,
        products,
        dropout=dropout_kinds(arguments.dropout),
        mask=padding,
        resets=resets is not None or segment_ids is not None,
    )

    # a user's functions may read what changes between two calls, and must not be kept
    # alive
    jitted = is_ours(cell) and _OBSERVER.get() is None
    run = _unroll_jitted if jitted else _unroll
    options = Options(cell, products, bool(return_sequences), not time_major, segments)
    return run(options, chosen, bool(backwards), bool(zero_output_for_mask), arguments)


def check_remat(remat) -> Remat:
    """Check the argument `remat` of `unroll`, and return it. A NumPy integer becomes an
    int.

    Raises:
        InputError: unless `remat` is one of these: None, "sqrt", or an integer of at
            least 1.
    """
    if remat is None or remat == "sqrt":
        return remat
    whole = isinstance(remat, Integral) and not isinstance(remat, bool)
    count = int(remat) if whole else 0
    require(count >= 1, "remat", remat, "give None, 'sqrt', or 1 or more segments")
    return count


def segment_length(remat: Literal["sqrt"] | int, steps: int) -> int:
    """Return the number of steps in each segment. The last segment may be shorter."""
    segments = math.isqrt(steps - 1) + 1 if remat == "sqrt" else min(remat, steps)
    # segments of different lengths cannot form a loop, and outside of a loop the
    # compiler may keep the residuals of both at the same time
    return steps // 2 if segments == 2 else -(-steps // segments)


def _unroll(
    options: Options,
    backend: Backend,
    backwards: bool,
    zeros: bool,
    arguments: Arguments,
):
    cell, batch_first = options.cell, options.batch_first
    call = arrange(cell, arguments, backwards, time_major=not batch_first)
    if observer := _OBSERVER.get():
        observer(options, call, backwards)
    if options.remat is not None or not backend.shares:
        options = replace(options, batch_first=False)
        call = call._replace(tokens=None)

    def run_backend(call: Call):
        masked = call.dropout.input is not None
        x = cell.projectable(call.params, call.x, masked)
        return backend.run(options, call._replace(x=x))

    def run(*parts):
        if options.remat is None:
            return run_backend(Call(*parts))
        return _run_in_segments(run_backend, options.remat, Call(*parts))

    out_axes = (1 if options.sequences else None, uniform_axes(call.state, 0))
    h, final = in_automatic_mode(run, out_axes, *vary_together(*call))

    # outputs are zeros at padded steps before the first valid step of their sequence
    # or, with `zeros`, at all padded steps
    shown = call.valid
    if shown is not None and not zeros:
        shown = _after_valid(shown, call.resets)
    if not options.sequences:
        last = None if shown is None else shown[-1]
        return select_rows(last, final.h, 0), final
    h = select_rows(shown, h, 0)
    return (jnp.swapaxes(h, 0, 1) if batch_first else h), final


# outside of `jit`, a call is compiled once; within it, it is inlined
_unroll_jitted = jax.jit(_unroll, static_argnums=(0, 1, 2, 3), inline=True)


def _run_in_segments(run: Callable, remat: Literal["sqrt"] | int, call: Call):
    steps = call.x.shape[0]
    # symbolic, in a program that is exported for every number of steps
    if not isinstance(steps, int):
        return run(call)
    length = segment_length(remat, steps)
    # steps in segments of equal length, which form a loop
    whole = 0 if length == steps else steps - steps % length

    def segment(state, per_step):
        x, valid, at = per_step
        resets = call.resets and call.resets._replace(at=at)
        part = call._replace(x=x, state=state, valid=valid, resets=resets)
        h, final = run(part)
        return final, h

    state, parts = call.state, []
    per_step = call.x, call.valid, call.resets and call.resets.at
    if whole:
        # prevent_cse is not needed: in a loop the compiler cannot merge the second run
        # of a segment with the first
        cut = jax.tree.map(
            lambda a: a[:whole].reshape(whole // length, length, *a.shape[1:]), per_step
        )
        state, h = lax.scan(jax.checkpoint(segment, prevent_cse=False), state, cut)
        parts.append(jax.tree.map(lambda h: h.reshape(whole, *h.shape[2:]), h))
    if whole < steps:
        state, h = jax.checkpoint(segment)(
            state, jax.tree.map(lambda a: a[whole:], per_step)
        )
        parts.append(h)
    return jax.tree.map(lambda *parts: jnp.concatenate(parts), *parts), state


def _after_valid(valid: Array, resets: Resets | None) -> Array:
    """Return bool (T, B), True from the first valid step of each sequence on. A
    sequence begins at step 0 and at each reset.
    """
    if resets is None:
        return jnp.cumsum(valid, axis=0) > 0
    step = lax.broadcasted_iota(jnp.int32, valid.shape, 0)
    last_valid = lax.cummax(jnp.where(valid, step, -1))
    return last_valid >= lax.cummax(jnp.where(resets.at, step, 0))
