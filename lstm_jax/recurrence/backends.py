"""The table of backends, what each can do, and the choice of one for a request.

`BACKENDS` is the table; `capability_rows` returns it as text. A backend that is named and cannot serve raises and says what it lacks; only
`backend=None` chooses, the first row of the table that lacks nothing.
"""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import numpy as np

from lstm_jax import native
from lstm_jax.cells import CELLS, Cell
from lstm_jax.cells.products import is_per_gate
from lstm_jax.dropout import DropoutMasks
from lstm_jax.errors import require
from lstm_jax.recurrence import associative, compiled, cudnn, hoisted, pallas, reference
from lstm_jax.recurrence.operands import compute_dtype_name

DROPOUTS = ("input dropout", "input dropout per gate", "recurrent dropout", "recurrent dropout per gate")
ZONEOUT = "zoneout"
MASKS = ("lengths", "lengths read backwards", "mask")
"""Kinds of masks over steps. A mask may have gaps; lengths read backwards begin with steps that are not valid."""


@dataclass(frozen=True)
class Request:
    """Requirements on a backend.

    Attributes:
        cell: a cell or its name in `CELLS`.
        dtype: dtype of the parameters.
        compute_dtype: dtype of the matrix products.
        dropout: kinds of dropout, members of `DROPOUTS` or `ZONEOUT`.
        mask: kind of mask, a member of `MASKS`, or empty.
        units: H, or 0 for any.
    """

    cell: str | Cell = "lstm"
    dtype: str = "float32"
    compute_dtype: str = "float32"
    dropout: tuple[str, ...] = ()
    mask: str = ""
    units: int = 0


@dataclass(frozen=True)
class Backend:
    """An implementation of the recurrence over time, and what it can do."""

    name: str
    run: Callable
    serves: Callable[[Cell], bool]
    """Whether it runs that cell. Cells are compared by identity: a user's cell with the name of a row of `CELLS` is another cell."""
    platforms: tuple[str, ...]
    compute_dtypes: tuple[str, ...]
    forward_mode: bool
    what: str
    mixed: bool = True
    """Whether products may have another dtype than the parameters."""
    dtypes: tuple[str, ...] = ()
    """Dtypes of parameters; empty for any."""
    dropouts: tuple[str, ...] = DROPOUTS
    masks: tuple[str, ...] = MASKS
    largest: int = 0
    """Largest H; 0 for no limit."""
    shares: bool = False
    """Whether `run` takes tokens, see `unroll`."""
    higher_orders: bool = True
    """Whether derivatives can be differentiated again."""
    why_not: Callable[[], str] = str
    """Returns why it does not serve in this installation; empty if it does."""

    @property
    def any_cell(self) -> bool:
        """Whether it runs every cell, a user's own included."""
        return self.serves is _any

    @property
    def cells(self) -> tuple[str, ...]:
        """The names of the cells of `CELLS` that it runs."""
        return tuple(name for name, cell in CELLS.items() if self.serves(cell))


_FLOATS = ("float32", "float64", "bfloat16")
_EVERYWHERE = ("cpu", "gpu", "tpu")


def _is_lstm(cell: Cell) -> bool:
    return cell is CELLS["lstm"]


def _is_linear(cell: Cell) -> bool:
    return cell.linear is not None


def _any(cell: Cell) -> bool:
    del cell
    return True


_COMPILED = Backend(
    name="compiled",
    run=compiled.run,
    serves=_is_lstm,
    platforms=("cpu",),
    compute_dtypes=("float32", "float64"),
    forward_mode=True,
    what="both passes compiled from C++ for this CPU; optional (--build)",
    mixed=False,
    shares=True,
    why_not=native.why_not,
)
_HOISTED = Backend(
    name="hoisted",
    run=hoisted.run,
    serves=_is_lstm,
    platforms=_EVERYWHERE,
    compute_dtypes=_FLOATS,
    forward_mode=True,
    what="a backward pass of its own, GEMMs outside the loop",
)
# cudnn and pallas stand behind hoisted until they are measured against it on a GPU, so they must be requested by name
_CUDNN = Backend(
    name="cudnn",
    run=cudnn.run,
    serves=_is_lstm,
    platforms=("gpu",),
    compute_dtypes=("float32",),
    forward_mode=False,
    what="cuDNN's LSTM, through jax.experimental.rnn",
    mixed=False,
    dropouts=("input dropout",),
    masks=("lengths",),
    higher_orders=False,
    why_not=cudnn.why_not,
)
_PALLAS = Backend(
    name="pallas",
    run=pallas.run,
    serves=_is_lstm,
    platforms=("gpu",),
    compute_dtypes=("float32", "bfloat16"),
    forward_mode=True,
    what="hoisted, with each loop as one Triton kernel",
    dtypes=("float32",),
    largest=pallas.LARGEST,
)
_ASSOCIATIVE = Backend(
    name="associative",
    run=associative.run,
    serves=_is_linear,
    platforms=_EVERYWHERE,
    compute_dtypes=_FLOATS,
    forward_mode=True,
    what="a parallel scan over time",
    dropouts=("input dropout", "input dropout per gate"),
)
_REFERENCE = Backend(
    name="reference",
    run=reference.run,
    serves=_any,
    platforms=_EVERYWHERE,
    compute_dtypes=_FLOATS,
    forward_mode=True,
    what="lax.scan and autodiff",
    dropouts=(*DROPOUTS, ZONEOUT),
)
BACKENDS = {row.name: row for row in (_COMPILED, _HOISTED, _CUDNN, _PALLAS, _ASSOCIATIVE, _REFERENCE)}


def lacks(backend: Backend, request: Request, platform: str) -> str:
    """Return what `backend` lacks for this request on this platform; empty if nothing."""
    cell = CELLS[request.cell] if isinstance(request.cell, str) else request.cell
    if not backend.serves(cell):
        return f"no cell {cell.name}" + " of one's own" * (CELLS.get(cell.name) is not cell)
    if platform not in backend.platforms:
        return f"does not run on {platform}"
    missing = _lacks_dtype(backend, request) or _lacks_kind(backend, request)
    if missing:
        return missing
    if backend.largest and request.units > backend.largest:
        return f"no {request.units} units, {backend.largest} at most"
    return backend.why_not()


def _lacks_dtype(backend: Backend, request: Request) -> str:
    if request.compute_dtype not in backend.compute_dtypes:
        return f"no products in {request.compute_dtype}"
    if backend.dtypes and request.dtype not in backend.dtypes:
        return f"no parameters in {request.dtype}"
    if request.dtype != request.compute_dtype and not backend.mixed:
        return f"no products in {request.compute_dtype} for parameters in {request.dtype}"
    return ""


def _lacks_kind(backend: Backend, request: Request) -> str:
    refused = [kind for kind in request.dropout if kind not in backend.dropouts]
    refused += [request.mask] * bool(request.mask and request.mask not in backend.masks)
    return f"no {refused[0]}" if refused else ""


def resolve_backend(name: str | None, cell: str | Cell = "lstm", dtype="float32", compute_dtype=None, **more) -> Backend:
    """Return the backend of that name, or the first one of the table that serves if `name` is None.

    Args:
        name: a name in `BACKENDS`, or None.
        cell: a cell or its name in `CELLS`.
        dtype: dtype of the parameters.
        compute_dtype: dtype of the products; None for that of the parameters.
        more: further fields of `Request`.

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


def cpu_devices(backend: str | None, dtype: str, cell: str = "lstm") -> int:
    """Return the number of CPU devices that suits training, as `use_cpu_cores` takes it.

    The compiled backend uses all cores in each call on one device, which needs no exchange between devices: 1. For other backends it is 0,
    one device for each core. Nothing here starts JAX's own backends, which fix the number of devices.

    Args:
        backend: a name in `BACKENDS`; None or "auto" for the one that `resolve_backend` chooses on a CPU.
        dtype: dtype of the matrix products.
        cell: name of the cell.
    """
    chosen = backend in (None, "auto", _COMPILED.name)
    parameters = dtype if dtype == "float64" else "float32"
    return 1 if chosen and not lacks(_COMPILED, Request(cell, parameters, dtype), "cpu") else 0


def capability_rows() -> list[dict[str, str]]:
    """Return the table as rows of text, in the order in which `backend=None` tries them."""
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
    """Return the kinds of the masks, members of `DROPOUTS`, and `ZONEOUT` if there is any."""
    named = {"input dropout": masks.input, "recurrent dropout": masks.recurrent}
    kinds = [name + " per gate" * is_per_gate(mask) for name, mask in named.items() if mask is not None]
    return tuple(kinds + [ZONEOUT] * bool(masks.zoneout))


def mask_kind(mask, lengths, backwards: bool) -> str:
    """Return the kind of the masks over steps, a member of `MASKS`, or empty if there is none."""
    if lengths is None:
        return "" if mask is None else "mask"
    return "lengths read backwards" if backwards else "lengths"
