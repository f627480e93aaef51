"""The arguments of `unroll`: checked by `check_arguments`, then arranged for the backends by `arrange`.

Classes, shapes and dtypes are checked. Values are not, so that the arguments may be tracers: lengths are clipped to 0..T, and ids are
clipped to the range of int32. The arrays of a `Call` have these dtypes: bool for `valid`, the flags of `resets` and drawn zoneout masks;
int32 for `tokens` and ids; the dtype of `params.kernel` for all others. Bools and ints are converted to it. Parameters of different dtypes
are an error, since they are usually a mistake; so are complex numbers.

B is the batch size, T the number of steps, E the number of input features and H the number of units.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from lstm_jax.cells import Cell
from lstm_jax.dropout import DropoutMasks
from lstm_jax.errors import InputError, require
from lstm_jax.recurrence.conversion import FLOATS, LOWEST, REAL, as_int32, as_numbers, of_kinds
from lstm_jax.recurrence.resets import Resets

_GIVE_FLOATS = f"give one of {', '.join(FLOATS)}"


class Arguments(NamedTuple):
    """Arguments of `unroll` as JAX arrays whose classes, shapes and dtypes fit, in the order of axes that the caller gave."""

    params: Any
    x: jax.Array
    state: Any
    reset_state: Any = None
    mask: jax.Array | None = None
    lengths: jax.Array | None = None
    resets: jax.Array | None = None
    segment_ids: jax.Array | None = None
    dropout: DropoutMasks = DropoutMasks()
    tokens: jax.Array | None = None


class Call(NamedTuple):
    """Operands of a backend. Time is the first axis, and the steps are in the order in which they are processed.

    Attributes:
        params: parameters of the cell.
        x: inputs (T, B, E), or ids (T, B), with zeros at padded steps.
        state: initial state of the cell.
        valid: bool (T, B) that is False at padded steps, or None if no step is padded.
        dropout: dropout masks.
        resets: resets of the state within the sequence, or None.
        tokens: int32 (T, B), or None. Steps of the same row with equal tokens have equal inputs, so that a backend may compute the product
            of the inputs and the kernel only once for all of these steps.
    """

    params: Any
    x: Any
    state: Any
    valid: jax.Array | None
    dropout: DropoutMasks
    resets: Resets | None
    tokens: jax.Array | None = None


@dataclass(frozen=True)
class Options:
    """Static options of a call: what a compiled program depends on besides the shapes and dtypes of its operands.

    Attributes:
        cell: the cell.
        compute_dtype: dtype of the matrix products; None means the dtype of the parameters.
        sequences: whether h of all steps is returned.
        batch_first: whether the caller transposes x from (B, T, ...), and transposes the outputs back.
    """

    cell: Cell
    compute_dtype: Any = None
    sequences: bool = True
    batch_first: bool = False


def check_arguments(
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
    time_major: bool = False,
) -> Arguments:
    """Return the arguments of `unroll` as JAX arrays, after checking that they fit each other. `unroll` describes them."""
    require(isinstance(cell, Cell), "cell", cell, "give a Cell, such as a row of CELLS")
    require(mask is None or lengths is None, "lengths", "given with mask", "give one of the two")
    params, features, units = _read_params(cell, params)
    dtype = params.kernel.dtype
    x = _read_x(x, features, dtype)
    steps, batch = x.shape[:2] if time_major else x.shape[1::-1]
    require(steps >= 1, "x", x.shape, "give 1 or more time steps")
    start = reset_state if initial_state is None else initial_state
    state = _read_state(cell, start, batch, units, dtype, "reset_state" if initial_state is None else "initial_state")
    dropout = _read_dropout(cell, dropout, (steps, features, units), state, dtype)
    per_step = {
        "mask": (mask, REAL, "give bools"),
        "resets": (resets, (jnp.bool_,), "give bools"),
        "segment_ids": (segment_ids, (jnp.integer,), "give ints"),
        "tokens": (tokens, (jnp.integer,), "give ints"),
    }
    found: dict[str, Any] = {}
    for name, (value, kinds, remedy) in per_step.items():
        if value is not None:
            array = of_kinds(name, value, kinds, remedy)
            fits = array.shape == ((steps, batch) if time_major else (batch, steps))
            require(fits, name, array.shape, "give (B, T), or (T, B) if time_major")
            found[name] = _int32_numbers(array) if kinds == (jnp.integer,) else jnp.asarray(array.astype(bool))
    if tokens is not None and found["tokens"].dtype.itemsize == 8:
        del found["tokens"]  # 64 bits of JAX: distinct tokens could become equal
    if lengths is not None:
        array = of_kinds("lengths", lengths, (jnp.integer,), "give ints")
        require(array.shape == (batch,), "lengths", array.shape, f"give shape ({batch},)")
        found["lengths"] = as_int32("lengths", array, "give ints")
    if segment_ids is not None:
        for name, other in (("mask", mask), ("lengths", lengths), ("resets", resets)):
            remedy = "the ids say where sequences begin and, by 0, what is padding: give one of the two"
            require(other is None, "segment_ids", f"given with {name}", remedy)
    cuts = resets is not None or segment_ids is not None
    require(cuts or reset_state is None, "reset_state", "given without resets", "give resets or segment_ids too, or initial_state")
    after = _read_state(cell, reset_state, batch, units, dtype, "reset_state") if cuts else None
    return Arguments(params, x, state, after, dropout=dropout, **found)


def arrange(given: Arguments, backwards: bool = False, time_major: bool = False) -> Call:
    """Return the operands of a backend: time first, steps in the order of processing, and zeros in x at padded steps."""

    def time_first(array: Any) -> Any:
        return array if array is None or time_major else jnp.swapaxes(array, 0, 1)

    x, valid, at, tokens, ids = map(time_first, (given.x, given.mask, given.resets, given.tokens, given.segment_ids))
    if given.lengths is not None:
        valid = jnp.arange(x.shape[0], dtype=jnp.int32)[:, None] < given.lengths[None, :]
    if ids is not None:
        # a segment begins where the id changes; the first segment of a row starts from the initial state, also after padding
        valid = ids != 0
        at = valid & (ids != _delayed(ids)) & _delayed(jnp.cumsum(valid, axis=0) > 0)
    if valid is not None:
        # values of x at padded steps must not enter any product, also not in the gradients: masking the results would not help, as 0 * NaN
        # is NaN
        x = jnp.where(valid if x.ndim == 2 else valid[:, :, None], x, 0)
        tokens = None if tokens is None else _apart_from_padding(tokens, valid)
    if backwards:
        x = jnp.flip(x, 0)
        valid, tokens = (None if array is None else jnp.flip(array, 0) for array in (valid, tokens))
        # the reversed sequence is cut at the same places: a reset before step t acts there before step t - 1
        at = None if at is None else _delayed(jnp.flip(at, 0))
    resets = None if at is None else Resets(at, given.reset_state)
    return Call(given.params, x, given.state, valid, given.dropout, resets, tokens)


def check_ids(given: Arguments, time_major: bool) -> None:
    """Raise `InputError` if an id at a valid step is beyond -E..E - 1, where the ids are known and reading them means no waiting."""
    x: Any = given.x
    features = given.params.kernel.shape[0]
    known = not any(isinstance(part, Tracer) for part in (x, given.mask, given.lengths, given.segment_ids))
    if not (known and jnp.issubdtype(x.dtype, jnp.integer)):
        return
    if not (x.is_fully_addressable and all(device.platform == "cpu" for device in x.devices()) and x.is_ready()):
        return

    def out_of_range(ids: jax.Array) -> np.ndarray:
        values = np.asarray(ids)
        return values[(values < -features) | (values >= features)]

    if out_of_range(x).size:
        with jax.ensure_compile_time_eval():  # the call may stand within `jit`
            found = out_of_range(arrange(given._replace(resets=None, tokens=None), time_major=time_major).x)  # with 0 at padded steps
        require(not found.size, "x", f"id {found[:1]}", f"give ids below {features}, the number of features")


def check_zoneout(cell: Cell, part: str, given) -> None:
    """Raise `InputError` unless the state of a cell contains the array `part` ("h" or "c") to which the zoneout `given` applies."""
    parts = [name for name in cell.state_like()._fields if name in ("h", "c")]
    require(part in parts, f"zoneout of {part}", given, f"the state of {cell.name} has {' and '.join(parts)} alone")


def compute_dtype_name(compute_dtype, dtype) -> str:
    """Return the name of the dtype of matrix products: `compute_dtype` or, if it is None, the dtype of the parameters."""
    try:
        name = np.dtype(dtype if compute_dtype is None else compute_dtype).name
    except TypeError as error:
        raise InputError("compute_dtype", compute_dtype, f"give one of {', '.join(FLOATS)}, int8, or None") from error
    is_float64 = name == "float64" and compute_dtype is not None
    require(not is_float64 or bool(getattr(jax.config, "jax_enable_x64", False)), "compute_dtype", name, "switch jax_enable_x64 on")
    return name


def _int32_numbers(array: Any) -> jax.Array:
    """Return ints as int32 in which distinct values stay distinct and 0 stays 0. 64-bit ints of JAX are returned as they are."""
    if array.dtype.itemsize < 8:
        return jnp.asarray(array.astype(np.int32))  # values of uint32 wrap around
    if not isinstance(array, np.ndarray):
        return array
    numbers = np.unique(array, return_inverse=True)[1].reshape(array.shape) + 1
    return jnp.asarray(np.where(array == 0, 0, numbers).astype(np.int32))


def _delayed(array: jax.Array) -> jax.Array:
    # padding, since the slice array[:-1] would be empty if T is 1, and jaxlib 0.10 may lose the attributes of calls of compiled code in a
    # program with empty arrays
    return jax.lax.pad(array, jnp.zeros((), array.dtype), ((1, -1, 0), (0, 0, 0)))


def _apart_from_padding(tokens: jax.Array, valid: jax.Array) -> jax.Array:
    # at padded steps x is 0, so that they need a token of their own: the lowest int32, or, in a row where a valid step has it, tokens that
    # all differ, which claim no equal inputs
    taken = (valid & (tokens == LOWEST)).any(0, keepdims=True)
    return jnp.where(taken, jax.lax.broadcasted_iota(jnp.int32, tokens.shape, 0), jnp.where(valid, tokens, LOWEST))


@lru_cache(maxsize=256)
def _like_state(initial_state: Callable, units: int, dtype):
    return jax.eval_shape(lambda: initial_state(1, units, dtype))


def _read_params(cell: Cell, params) -> tuple[Any, int, int]:
    require(isinstance(params, cell.params), "params", type(params).__name__, f"the cell {cell.name} has {cell.params.__name__}")
    arrays = []
    for field, part in zip(params._fields, params, strict=True):
        array = of_kinds(f"params.{field}", part, REAL, _GIVE_FLOATS)
        arrays.append(array if isinstance(array, jax.Array) else jnp.asarray(array))
    read = type(params)(*arrays)
    shapes = tuple((array.shape, array.dtype) for array in read)
    return read, *_sizes(cell.init, cell.gates, params._fields, read.kernel.dtype, shapes)


@lru_cache(maxsize=256)
def _sizes(init: Callable, gates: int, fields: tuple[str, ...], dtype: np.dtype, given: tuple) -> tuple[int, int]:
    """Return the numbers of features E and units H, after checking the shape and dtype of each parameter."""
    shape = given[fields.index("kernel")][0]
    require(dtype.name in FLOATS, "params.kernel", dtype.name, _GIVE_FLOATS)
    remedy = f"give (E, {gates} H), E and H of 1 or more"
    require(len(shape) == 2 and shape[0] >= 1 and shape[1] >= 1 and shape[1] % gates == 0, "params.kernel", shape, remedy)
    features, units = shape[0], shape[1] // gates
    like = jax.eval_shape(lambda: init(jax.random.key(0), features, units, dtype))
    for field, (shape, own), wanted in zip(fields, given, like, strict=True):
        require(shape == wanted.shape, f"params.{field}", shape, f"give shape {wanted.shape}")
        require(own == wanted.dtype, f"params.{field}", own, f"give {wanted.dtype}, as the kernel has")
    return features, units


def _read_x(x, features: int, dtype) -> jax.Array:
    remedy = "give floats (B, T, E), or int ids (B, T)"
    array = of_kinds("x", x, REAL, remedy)
    ids = array.ndim == 2 and jnp.issubdtype(array.dtype, jnp.integer)
    require(ids or array.ndim != 2 or jnp.issubdtype(array.dtype, jnp.floating), "x", array.dtype.name, remedy)
    require(ids or array.ndim == 3, "x", array.shape, "give (B, T, E), or (T, B, E) if time_major")
    if ids:
        return as_int32("x", array, remedy)
    require(array.shape[2] == features, "x", array.shape, f"the kernel reads {features} features")
    return as_numbers("x", array, dtype, remedy)


def _read_state(cell: Cell, given, batch: int, units: int, dtype, what: str):
    """Return a state with arrays (B, H); for None the initial state of the cell. A part of a "reset_state" may be (H,), for all rows."""
    if given is None:
        return cell.initial_state(batch, units, dtype)
    like = _like_state(cell.initial_state, units, dtype)
    fits = isinstance(given, type(like)) or (type(given) in (tuple, list) and len(given) == len(like))
    shown = f"{type(given).__name__} of {len(given)}" if type(given) in (tuple, list) else type(given).__name__
    require(fits, what, shown, f"give {type(like).__name__}({', '.join(like._fields)}), or a tuple or list in this order")
    parts = []
    for field, part, wanted in zip(like._fields, given, like, strict=True):
        name, shape = f"{what}.{field}", (batch, *wanted.shape[1:])
        array = of_kinds(name, part, REAL, f"give {wanted.dtype.name} {shape}")
        shared = what == "reset_state" and array.shape == shape[1:]
        require(shared or array.shape == shape, name, array.shape, f"give shape {shape}" + f" or {shape[1:]}" * (what == "reset_state"))
        numbers = as_numbers(name, array, wanted.dtype, "")
        parts.append(jnp.broadcast_to(numbers[None], shape) if shared else numbers)
    return type(like)(*parts)


def _read_dropout(cell: Cell, given, sizes: tuple[int, int, int], state, dtype) -> DropoutMasks:
    if given is None:
        return DropoutMasks()
    require(isinstance(given, DropoutMasks), "dropout", type(given).__name__, "give DropoutMasks(input, recurrent, zoneout)")
    steps, features, units = sizes
    batch = state.h.shape[0]
    masks = []
    for field, mask, size in (("input", given.input, features), ("recurrent", given.recurrent, cell.output_size(units))):
        if mask is not None:
            name, shapes = f"dropout.{field}", ((batch, size), (cell.gates, batch, size))
            remedy = f"give shape {shapes[0]} or {shapes[1]}"
            mask = of_kinds(name, mask, REAL, remedy)
            missing = field == "recurrent" and not cell.has_recurrent_kernel
            require(not missing, name, mask.shape, f"the cell {cell.name} multiplies no state by a kernel")
            require(mask.shape in shapes, name, mask.shape, remedy)
            mask = as_numbers(name, mask, dtype, remedy)
        masks.append(mask)
    return DropoutMasks(masks[0], masks[1], _read_zoneout(cell, given.zoneout, steps, state, dtype))


def _read_zoneout(cell: Cell, given, steps: int, state, dtype) -> dict[str, jax.Array] | None:
    """Return the zoneout of each array of the state: a drawn mask, bool (T, B, H), or a rate, a scalar of `dtype`."""
    require(given is None or isinstance(given, dict), "dropout.zoneout", type(given).__name__, "give {'h': mask}")
    read = {}
    for part, value in (given or {}).items():
        shape = (steps, *state._asdict().get(part, state.h).shape)
        name, remedy = f"dropout.zoneout of {part}", f"give bools of shape {shape}, or a float of shape ()"
        array = of_kinds(name, value, REAL, remedy)
        check_zoneout(cell, part, array.shape)
        require(array.shape in ((), shape), name, array.shape, f"give shape {shape} or ()")
        drawn = array.ndim > 0
        require(not (drawn and jnp.issubdtype(array.dtype, jnp.floating)), name, array.dtype.name, remedy)
        read[part] = as_numbers(name, array, jnp.bool_ if drawn else dtype, remedy)
    return None if given is None else read
