"""The table `BACKENDS`, which describes the backends (the implementations of `unroll`),
and functions that choose a backend for a call.

If the user names a backend, this backend is used. If it does not have a capability that
the call needs, an error names the capability. If the user names no backend, the first
backend in the table that has all needed capabilities is chosen. `capability_rows`
describes the capabilities of all backends for users.
"""

import itertools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from lstm_jax import native
from lstm_jax.base.checks import frozen
from lstm_jax.base.errors import InputError, check_choice, require
from lstm_jax.base.types import Texts
from lstm_jax.cells import BUILT_IN, CELLS, Cell
from lstm_jax.cells.products import INT8, is_per_gate
from lstm_jax.recurrence import (
    associative,
    chunkwise,
    compiled,
    cudnn,
    hoisted,
    reference,
)
from lstm_jax.recurrence.call import Call, Options
from lstm_jax.recurrence.compiled_cells import is_compiled
from lstm_jax.recurrence.dropout import DropoutMasks
from lstm_jax.recurrence.operands import compute_dtype_name

DROPOUTS = (
    "input dropout",
    "input dropout per gate",
    "recurrent dropout",
    "recurrent dropout per gate",
)
ZONEOUT = "zoneout"
MASKS = ("lengths", "lengths read backwards", "mask")
"""Kinds of padding.

- "lengths": the valid steps of each row come before its padded steps.
- "lengths read backwards": the valid steps of each row come after its padded steps.
- "mask": any step may be padded.
"""


@frozen
class Request:
    """Capabilities that a call of `unroll` needs from its backend.

    Attributes:
        cell: a cell or its name in `CELLS`.
        dtype: name of the dtype of the parameters.
        compute_dtype: name of the dtype of the matrix products.
        dropout: kinds of dropout that the call uses. Each is a member of `DROPOUTS`, or
            `ZONEOUT`.
        mask: kind of padding, a member of `MASKS`, or "" if there is no padding.
        resets: whether the state is reset within the sequence.
    """

    cell: str | Cell = "lstm"
    dtype: str = "float32"
    compute_dtype: str = "float32"
    dropout: Texts = ()
    mask: str = ""
    resets: bool = False


@frozen
class Backend:
    """Backend of `unroll`: a function that computes the recurrence over time, and a
    description of the calls that it supports.
    """

    name: str
    run: Callable[[Options, Call], tuple[Any, Any]]
    """Function that computes the recurrence. Its arguments and results are those of
    `reference.run`."""
    serves: Callable[[Cell], bool]
    """Function that returns whether the backend supports a cell. It does not decide by
    the name alone, since a user's cell may have the name of a cell in `CELLS`."""
    platforms: Texts
    """Platforms on which the backend runs: "cpu", "gpu", "tpu"."""
    dtypes: tuple[tuple[str, str], ...]
    """Supported pairs (dtype of the parameters, dtype of the matrix products)."""
    what: str
    """Description of the backend for users."""
    why_not_mixed: Callable[[Cell, str], str] = lambda cell, dtype: ""
    """Function why_not_mixed(cell, dtype) for matrix products whose dtype differs from
    that of the parameters.

    It returns "" if this cell can have products in `dtype` on this machine, else the
    reason why not.
    """
    dropouts: Texts = DROPOUTS
    """Supported kinds of dropout: members of `DROPOUTS`, and `ZONEOUT`."""
    masks: Texts = MASKS
    """Supported kinds of padding: members of `MASKS`."""
    resets: bool = True
    """Whether resets of the state within the sequence are supported."""
    shares: bool = False
    """Whether the function `run` reads `Call.tokens` and `Options.batch_first`."""
    derivatives: str = "reverse and forward"
    """Modes of differentiation that are supported."""
    why_not: Callable[[], str] = str
    """Function that returns "" if the backend is available in this installation, else
    the reason why it is not."""

    @property
    def cells(self) -> Texts:
        """Names of the cells in the dict `CELLS` that the backend supports."""
        return tuple(name for name, cell in CELLS.items() if self.serves(cell))

    @property
    def compute_dtypes(self) -> Texts:
        """Dtypes that the matrix products may have."""
        return tuple(dict.fromkeys(products for _, products in self.dtypes))


_FLOATS = ("float32", "float64", "bfloat16", "float16")
_ANY_FLOATS = tuple(itertools.product(_FLOATS, _FLOATS))
_EVERYWHERE = ("cpu", "gpu", "tpu")


def _is_lstm(cell: Cell) -> bool:
    return cell is CELLS["lstm"]


def _any(cell: Cell) -> bool:
    del cell
    return True


def _why_not_int8(cell: Cell, dtype: str) -> str:
    if dtype != INT8 or cell in BUILT_IN:
        return ""
    return (
        "no products in int8 for a cell of one's own, with other activations or with "
        "a projection"
    )


_ROWS = (
    Backend(
        name="compiled",
        run=compiled.run,
        serves=is_compiled,
        platforms=("cpu",),
        dtypes=(
            ("float32", "float32"),
            ("float64", "float64"),
            ("float32", "bfloat16"),
            ("float32", INT8),
        ),
        what="both passes compiled from C++; products in bfloat16 and, forward "
        "alone, in int8 with AVX512-BF16 and VNNI",
        why_not_mixed=compiled.why_not_mixed,
        shares=True,
        why_not=native.why_not,
    ),
    Backend(
        name="hoisted",
        run=hoisted.run,
        serves=_is_lstm,
        platforms=_EVERYWHERE,
        dtypes=_ANY_FLOATS,
        what="a backward pass of its own, GEMMs outside the loop",
    ),
    # cudnn comes after hoisted and therefore runs only if the user names it, until both
    # are compared on a GPU
    Backend(
        name="cudnn",
        run=cudnn.run,
        serves=_is_lstm,
        platforms=("gpu",),
        dtypes=(("float32", "float32"),),
        what="cuDNN's LSTM, through jax.experimental.rnn",
        dropouts=("input dropout",),
        masks=("lengths",),
        resets=False,
        derivatives="reverse, of order 1",
        why_not=cudnn.why_not,
    ),
    Backend(
        name="associative",
        run=associative.run,
        serves=lambda cell: cell.is_linear,
        platforms=_EVERYWHERE,
        dtypes=_ANY_FLOATS,
        what="a parallel scan over time",
        dropouts=DROPOUTS[:2],
    ),
    Backend(
        name="chunkwise",
        run=chunkwise.run,
        serves=lambda cell: cell.chunk is not None,
        platforms=_EVERYWHERE,
        dtypes=_ANY_FLOATS,
        what="several steps at once, as matrix products",
        dropouts=DROPOUTS[:2],
    ),
    Backend(
        name="reference",
        run=reference.run,
        serves=_any,
        platforms=_EVERYWHERE,
        dtypes=tuple(itertools.product(_FLOATS, (*_FLOATS, INT8))),
        what="lax.scan and autodiff",
        why_not_mixed=_why_not_int8,
        dropouts=(*DROPOUTS, ZONEOUT),
    ),
)
BACKENDS = {row.name: row for row in _ROWS}


def lacks(backend: Backend, request: Request, platform: str) -> str:
    """Return "" if a backend has all capabilities that a request needs, else a message
    that names the first missing capability.

    Args:
        backend: the backend.
        request: the needed capabilities.
        platform: the platform on which the backend must run: "cpu", "gpu" or "tpu".
    """
    cell = CELLS[request.cell] if isinstance(request.cell, str) else request.cell
    if not backend.serves(cell):
        own = CELLS.get(cell.name) is not cell
        return f"no cell {cell.name}" + " of one's own" * own
    if platform not in backend.platforms:
        return f"does not run on {platform}"

    dtype, products = request.dtype, request.compute_dtype
    if (dtype, products) not in backend.dtypes:
        if products not in backend.compute_dtypes:
            return f"no products in {products}"
        if dtype not in (supported for supported, _ in backend.dtypes):
            return f"no parameters in {dtype}"
        return f"no products in {products} for parameters in {dtype}"

    # the linear form of a step has no place for a mask of h
    runs_steps = not cell.is_linear or backend.serves is _any
    dropouts = backend.dropouts if runs_steps else DROPOUTS[:2]
    for kind in request.dropout:
        if kind not in dropouts:
            return f"no {kind}"
    if request.mask and request.mask not in backend.masks:
        return f"no {request.mask}"
    if request.resets and not backend.resets:
        return "no resets"

    reason = backend.why_not()
    if not reason and dtype != products:
        reason = backend.why_not_mixed(cell, products)
    return reason


def resolve_backend(
    name: str | None,
    cell: str | Cell = "lstm",
    dtype="float32",
    compute_dtype=None,
    **more,
) -> Backend:
    """Choose the backend for a call of `unroll` on JAX's default platform, and return
    it.

    If `name` is None, it is the first backend in `BACKENDS` that has all needed
    capabilities. `more` are further fields of `Request`.

    Raises:
        InputError: if `name` or `cell` is unknown, if the named backend does not have
            all needed capabilities, or if `name` is None and no backend has all needed
            capabilities.
    """
    platform = jax.default_backend()
    if isinstance(cell, str):
        check_choice("cell", cell, CELLS, "a Cell, or ")
    products = compute_dtype_name(compute_dtype, dtype)
    request = Request(cell, np.dtype(dtype).name, products, **more)

    if name is not None:
        check_choice("backend", name, BACKENDS)
        remedy = "leave the backend out, or see `lstm-jax backends`"
        missing = lacks(BACKENDS[name], request, platform)
        require(not missing, f"backend {name}", missing, remedy)
        return BACKENDS[name]

    reasons = []
    for row in BACKENDS.values():
        missing = lacks(row, request, platform)
        # the call would run compiled code, if it were built for this machine
        if row.name == "compiled" and missing in ("", native.why_not()):
            native.warn_if_slow()
        if not missing:
            return row
        reasons.append(f"{row.name}: {missing}")
    raise InputError("backend", "; ".join(reasons), "see `lstm-jax backends`")


def cpu_devices(backend: str | None, dtype: str, cell: str = "lstm") -> int:
    """Return the number of CPU devices that JAX should have for training: 1 if the
    backend `compiled` will run, else 0.

    0 means one device per core. One suffices for `compiled`, whose calls use all cores.
    The number must be set before JAX initialises its platforms, which this function
    does not do. A `backend` of None or "auto" is the one that `resolve_backend` chooses
    on a CPU.
    """
    if backend not in (None, "auto", "compiled"):
        return 0
    parameters = dtype if dtype == "float64" else "float32"
    request = Request(cell, parameters, dtype)
    return 0 if lacks(BACKENDS["compiled"], request, "cpu") else 1


def capability_rows() -> list[dict[str, str]]:
    """Return a table of the backends and their capabilities for users: a list with one
    row for each backend.

    A row is a dict from the heading of each column to the text in this column. The rows
    are in the order in which backends are tried if the user names no backend.
    """
    return [
        {
            "backend": b.name,
            "cells": "all, other activations, your own"
            if b.serves is _any
            else " ".join(b.cells),
            "platforms": " ".join(b.platforms),
            "products in": " ".join(b.compute_dtypes),
            "dropout": _dropouts(b),
            "mask, lengths": "yes" if b.masks == MASKS else ", ".join(b.masks),
            "resets": "yes" if b.resets else "no",
            "derivatives": b.derivatives,
            "here": _here(b),
            "what": b.what,
        }
        for b in BACKENDS.values()
    ]


def _here(backend: Backend) -> str:
    platform = jax.default_backend()
    cell = backend.cells[0]
    if missing := lacks(backend, Request(cell), platform):
        return missing

    answer = "yes"
    parameters = [dtype for dtype, _ in backend.dtypes]
    for products in backend.compute_dtypes:
        # a dtype of products alone, which needs a processor that has it
        if products not in parameters:
            request = Request(cell, compute_dtype=products)
            if missing := lacks(backend, request, platform):
                answer += f"; no products in {products}: {missing}"
    return answer


def _dropouts(backend: Backend) -> str:
    if not set(DROPOUTS) <= set(backend.dropouts):
        return ", ".join(backend.dropouts)
    rest = [kind for kind in backend.dropouts if kind not in DROPOUTS]
    return ", ".join(["input and recurrent, per gate or shared", *rest])


def dropout_kinds(masks: DropoutMasks) -> Texts:
    """Return the kinds of dropout that the masks of a call contain: members of
    `DROPOUTS`, and `ZONEOUT` if there is zoneout.
    """
    kinds = []
    if masks.input is not None:
        kinds.append("input dropout" + " per gate" * is_per_gate(masks.input))
    if masks.recurrent is not None:
        kinds.append("recurrent dropout" + " per gate" * is_per_gate(masks.recurrent))
    if masks.zoneout:
        kinds.append(ZONEOUT)
    return tuple(kinds)
