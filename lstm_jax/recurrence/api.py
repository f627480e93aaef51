"""The one place where a backend is chosen and a recurrence is run.

    outputs, state = unroll(CELLS["lstm"], params, x)

`BACKENDS` says what each backend can do; `capability_rows` prints it. A backend that is named and cannot serve raises and says what it
lacks; only `backend=None` chooses, the first of the table that lacks nothing.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lstm_jax import native as compiled
from lstm_jax.cells import CELLS, Cell
from lstm_jax.cells.products import one_hot_rows
from lstm_jax.dropout import DropoutMasks
from lstm_jax.errors import require
from lstm_jax.primitives.partition import in_automatic_mode, vary_together
from lstm_jax.recurrence import associative, cudnn, hoisted, native, pallas, reference
from lstm_jax.recurrence.operands import compute_dtype_name, read_operands
from lstm_jax.recurrence.segments import Remat, check_remat, in_segments

DROPOUTS = ("input dropout", "input dropout per gate", "recurrent dropout", "recurrent dropout per gate")
ZONEOUT = "zoneout"
MASKS = ("lengths", "lengths read backwards", "mask")
"""A mask may have gaps; lengths read backwards begin with what is not valid."""


@dataclass(frozen=True)
class Request:
    """What is asked of a backend. dtype: of the parameters; compute_dtype: of the products; dropout: of `DROPOUTS`, or `ZONEOUT`; mask: of
    `MASKS`, or empty; units: 0 for any."""

    cell: str | Cell = "lstm"
    dtype: str = "float32"
    compute_dtype: str = "float32"
    dropout: tuple[str, ...] = ()
    mask: str = ""
    units: int = 0


@dataclass(frozen=True)
class Backend:
    """A way to run a cell over time, and what it can do."""

    name: str
    run: Callable
    serves: Callable[[Cell], bool]
    """Whether it runs that cell. Cells are known by identity: another one of the same name is not the table's."""
    platforms: tuple[str, ...]
    compute_dtypes: tuple[str, ...]
    forward_mode: bool
    what: str
    mixed: bool = True
    """Whether products may be in another type than the parameters."""
    dtypes: tuple[str, ...] = ()
    """Of parameters; empty for any."""
    dropouts: tuple[str, ...] = DROPOUTS
    masks: tuple[str, ...] = MASKS
    largest: int = 0
    """Units; 0 for any number."""
    shares: bool = False
    """Whether `run` takes tokens, see `unroll`."""
    higher_orders: bool = True
    """Whether derivatives can be differentiated again."""
    why_not: Callable[[], str] = str
    """Why it does not serve in this installation; empty if it does."""

    @property
    def any_cell(self) -> bool:
        """Whether it runs cells that are in no table too."""
        return self.serves is _any

    @property
    def cells(self) -> tuple[str, ...]:
        """The names of those cells of the table that it runs."""
        return tuple(name for name, cell in CELLS.items() if self.serves(cell))


_FLOATS = ("float32", "float64", "bfloat16")


def _is_lstm(cell: Cell) -> bool:
    return cell is CELLS["lstm"]


def _is_linear(cell: Cell) -> bool:
    return cell.linear is not None


def _any(cell: Cell) -> bool:
    del cell
    return True


BACKENDS = {
    "native": Backend(
        "native",
        native.run,
        _is_lstm,
        ("cpu",),
        ("float32", "float64"),
        True,
        "the whole of it compiled for this CPU; optional (--build)",
        mixed=False,
        shares=True,
        why_not=compiled.why_not,
    ),
    "hoisted": Backend(
        "hoisted", hoisted.run, _is_lstm, ("cpu", "gpu", "tpu"), _FLOATS, True, "a backward pass of its own, GEMMs outside the loop"
    ),
    # the two for a GPU are not yet measured against hoisted, and so have to be asked for by name
    "cudnn": Backend(
        "cudnn",
        cudnn.run,
        _is_lstm,
        ("gpu",),
        ("float32",),
        False,
        "the library's LSTM, through jax.experimental.rnn",
        mixed=False,
        dropouts=("input dropout",),
        masks=("lengths",),
        higher_orders=False,
        why_not=cudnn.why_not,
    ),
    "pallas": Backend(
        "pallas",
        pallas.run,
        _is_lstm,
        ("gpu",),
        ("float32", "bfloat16"),
        True,
        "hoisted, with each loop as one Triton kernel",
        dtypes=("float32",),
        largest=pallas.LARGEST,
    ),
    "associative": Backend(
        "associative",
        associative.run,
        _is_linear,
        ("cpu", "gpu", "tpu"),
        _FLOATS,
        True,
        "a parallel scan over time",
        dropouts=("input dropout", "input dropout per gate"),
    ),
    "reference": Backend(
        "reference",
        reference.run,
        _any,
        ("cpu", "gpu", "tpu"),
        _FLOATS,
        True,
        "lax.scan and autodiff",
        dropouts=(*DROPOUTS, ZONEOUT),
    ),
}


def lacks(backend: Backend, request: Request, platform: str) -> str:
    """What `backend` lacks for this request; empty if nothing."""
    cell = CELLS[request.cell] if isinstance(request.cell, str) else request.cell
    if not backend.serves(cell):
        return f"no cell {cell.name}" + " of one's own" * (CELLS.get(cell.name) is not cell)
    if platform not in backend.platforms:
        return f"does not run on {platform}"
    if request.compute_dtype not in backend.compute_dtypes:
        return f"no products in {request.compute_dtype}"
    if backend.dtypes and request.dtype not in backend.dtypes:
        return f"no parameters in {request.dtype}"
    if request.dtype != request.compute_dtype and not backend.mixed:
        return f"no products in {request.compute_dtype} for parameters in {request.dtype}"
    refused = [kind for kind in request.dropout if kind not in backend.dropouts]
    if request.mask and request.mask not in backend.masks:
        refused.append(request.mask)
    if refused:
        return f"no {refused[0]}"
    if backend.largest and request.units > backend.largest:
        return f"no {request.units} units, {backend.largest} at most"
    return backend.why_not()


def resolve_backend(name: str | None, cell: str | Cell = "lstm", dtype="float32", compute_dtype=None, **more) -> Backend:
    """The backend of that name, or the first of the table that serves if `name` is None.

    `dtype` is that of the parameters, `compute_dtype` that of the products, the parameters' own if None; `more` as in `Request`.

    Raises:
        InputError: if `name` is unknown, or that backend lacks something the request needs; without a name, if all of them do.
    """
    platform = jax.default_backend()
    require(not isinstance(cell, str) or cell in CELLS, "cell", cell, f"give a Cell, or one of {', '.join(CELLS)}")
    request = Request(cell, np.dtype(dtype).name, compute_dtype_name(compute_dtype, dtype), **more)
    if name is None:
        missing = {b.name: lacks(b, request, platform) for b in BACKENDS.values()}
        serves = [b for b in missing if not missing[b]]
        require(bool(serves), "backend", "; ".join(f"{b}: {why}" for b, why in missing.items()), "see `lstm-jax backends`")
        return BACKENDS[serves[0]]
    require(isinstance(name, str) and name in BACKENDS, "backend", name, f"give one of {', '.join(BACKENDS)}")
    missing = lacks(BACKENDS[name], request, platform)
    require(not missing, f"backend {name}", missing, "leave the backend out, or see `lstm-jax backends`")
    return BACKENDS[name]


def capability_rows() -> list[dict[str, str]]:
    """The table as rows of text, in the order in which `backend=None` tries them."""
    platform = jax.default_backend()
    return [
        {
            "backend": b.name,
            "cells": "all, other activations, your own" if b.any_cell else " ".join(b.cells),
            "platforms": " ".join(b.platforms),
            "products in": " ".join(b.compute_dtypes),
            "dropout": _dropouts(b),
            "mask, lengths": "yes" if b.masks == MASKS else ", ".join(b.masks),
            "units": f"up to {b.largest}" if b.largest else "any",
            "derivatives": _derivatives(b),
            "here": lacks(b, Request(b.cells[0]), platform) or "yes",
            "what": b.what,
        }
        for b in BACKENDS.values()
    ]


def _dropouts(backend: Backend) -> str:
    rest = [kind for kind in backend.dropouts if kind not in DROPOUTS]
    return ", ".join(["input and recurrent, per gate or shared", *rest] if set(DROPOUTS) <= set(backend.dropouts) else backend.dropouts)


def _derivatives(backend: Backend) -> str:
    if backend.forward_mode:
        return "reverse and forward"
    return "reverse" if backend.higher_orders else "reverse, of order 1"


def dropout_kinds(masks: DropoutMasks) -> tuple[str, ...]:
    """Which of `DROPOUTS` the masks are, and whether there is zoneout."""
    named = {"input dropout": masks.input, "recurrent dropout": masks.recurrent}
    kinds = [name + " per gate" * (mask.ndim == 3) for name, mask in named.items() if mask is not None]
    return tuple(kinds + [ZONEOUT] * bool(masks.zoneout))


def _mask_kind(mask, lengths, backwards: bool) -> str:
    if lengths is None:
        return "" if mask is None else "mask"
    return "lengths read backwards" if backwards else "lengths"


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

    Arrays may be JAX's, NumPy's or lists; floats, bools and ints are converted to the parameters' dtype where floats are due, see
    `operands.py`. What stands in x at steps that are not valid reaches no result and no gradient, NaN neither.

    Args:
        cell: a row of `CELLS`.
        params: its parameters, all of one float dtype.
        x: (B, T, E), or (T, B, E) if `time_major`; read in the parameters' type. Or int ids (B, T), or (T, B), that stand for one-hot rows
            of E features: their product with the kernel is a gather of its rows. Negative ids count from the end; an id beyond E gives NaN.
        initial_state: its state, or a tuple or list in the state's order, read in the parameters' type; zeros if None.
        mask: bool (B, T) ((T, B) if `time_major`), False where a step copies the state and repeats the previous output; numbers but 0 are
            True.
        lengths: int (B,), instead of `mask`: the first `lengths[b]` steps are valid; 0, or less, gives the initial state, and more than T
            are T.
        dropout: masks, constant over time but for zoneout's; read in the parameters' type, so that True keeps a value as it is.
        tokens: int (B, T), or (T, B) if `time_major`: at steps of a row with equal tokens x is the same, as where it was looked up in one
            table. A backend may then multiply it by the kernel once for all of them, and give the gradient by all of them at one of these
            steps and zeros at the others: for whoever adds them up, as the gradient by the table does. Not used with `remat`, or where they
            are JAX's arrays of 64 bits.
        backwards: read the reversed sequence; outputs come in processing order.
        return_sequences: outputs of all steps; else the last one.
        zero_output_for_mask: outputs of steps that are not valid are zeros instead of the previous output.
        compute_dtype: type of the matrix products (bfloat16), None for that of the parameters, which state and sums keep in any case.
        backend: a name in `BACKENDS`, or None.
        remat: for long sequences, the segments of which the backward pass keeps the first state alone and computes the rest again, as
            `jax.remat` does: "sqrt" for ceil(sqrt(T)), or about how many (Chen et al. 2016); None keeps all. Same values.

    Returns:
        outputs (B, T, H) ((T, B, H) if `time_major`), or (B, H) without `return_sequences`; and the final state.

    Raises:
        InputError: if the class, shape or dtype of an operand does not fit, T is 0, both `mask` and `lengths` are given, `remat` is below
            1, or the backend cannot serve.
    """
    params, x, state, valid, dropout, tokens = read_operands(
        cell,
        params,
        x,
        initial_state,
        mask=mask,
        lengths=lengths,
        dropout=dropout,
        tokens=tokens,
        backwards=backwards,
        time_major=time_major,
    )
    asked = {"dropout": dropout_kinds(dropout), "mask": _mask_kind(mask, lengths, backwards), "units": state.h.shape[1]}
    found = resolve_backend(backend, cell, params.kernel.dtype, compute_dtype, **asked)
    remat = check_remat(remat)
    require(remat is None or not dropout.zoneout, "remat", remat, "segments have no zoneout: give None, or no zoneout")
    shared = (tokens,) if tokens is not None and found.shares and remat is None else ()
    run = partial(_run_rows, found.run)
    run = run if remat is None else in_segments(run, remat)

    operands = vary_together(params, x, state, valid, dropout, *shared)

    def call(params, x, state, valid, dropout, *tokens):
        return run(cell, params, x, state, valid, dropout, compute_dtype, return_sequences, *tokens)

    out_axes = (1 if return_sequences else None, jax.tree.map(lambda part: 0, state))
    h, final = in_automatic_mode(call, 1, out_axes)(*operands)

    if not return_sequences:
        if valid is None:
            return final.h, final
        shown = valid[-1] if zero_output_for_mask else valid.any(0)
        return jnp.where(shown[:, None], final.h, 0), final
    if valid is not None:
        shown = valid if zero_output_for_mask else jnp.cumsum(valid, axis=0) > 0
        h = jnp.where(shown[:, :, None], h, 0)
    return (h if time_major else jnp.swapaxes(h, 0, 1)), final


def _run_rows(run: Callable, cell: Cell, params, x, state, valid, dropout: DropoutMasks, compute_dtype, sequences: bool, *tokens):
    """A backend's `run`; where features of ids are dropped, on the rows that the ids stand for."""
    if x.ndim == 2 and dropout.input is not None:
        x = one_hot_rows(x, params.kernel.shape[0], params.kernel.dtype)
    return run(cell, params, x, state, valid, dropout, compute_dtype, sequences, *tokens)
