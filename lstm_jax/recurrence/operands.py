"""The arguments of `unroll`: checked by `check_arguments`, then arranged for the
backends by `arrange`.

Classes, shapes and dtypes are checked. Values are not, so that the arguments may be
tracers: lengths are clipped to 0..T, and ids are
clipped to the range of int32. The arrays of a `Call` have these dtypes: bool for
`valid`, the flags of `resets` and drawn zoneout masks; int32 for `tokens` and ids; the
dtype of `params.kernel` for all others. Bools and ints are converted to it. Parameters
of different dtypes are an error, since they are usually a mistake; so are complex
numbers.
"""

import contextlib
from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer
from jaxtyping import Array
from numpy import ndarray

from lstm_jax.base.errors import InputError, check_class, parsing, require
from lstm_jax.base.types import Ints, Texts
from lstm_jax.cells import Cell
from lstm_jax.cells.products import is_ids
from lstm_jax.recurrence.call import Call, Resets
from lstm_jax.recurrence.dropout import DropoutMasks

AnyArray = Array | ndarray
FLOATS = ("float16", "bfloat16", "float32", "float64")
"""Dtypes that the parameters of a cell may have."""
REAL = (jnp.floating, jnp.integer, jnp.bool_)
"""Kinds of dtypes that are converted to floats: floats, ints and bools."""
LOWEST, HIGHEST = -(2**31), 2**31 - 1
"""Lowest and highest int32."""
_INTS, _BOOLS = (jnp.integer,), (jnp.bool_,)
EXCLUSIVE = (
    ("lengths", "mask"),
    ("segment_ids", "mask"),
    ("segment_ids", "lengths"),
    ("segment_ids", "resets"),
)
"""Pairs of arguments of which only one may be given."""
_NOUNS = {REAL: "numbers", _INTS: "ints", _BOOLS: "bools"}
_GIVE_FLOATS = f"give one of {', '.join(FLOATS)}"
_DONATED = (
    "a function that donates its argument took its memory: give the array that it "
    "returned"
)


class Arguments(NamedTuple):
    """Arguments of `unroll`, as the caller gave them or, from `check_arguments`, as JAX
    arrays whose classes, shapes and dtypes fit. A state of None is the cell's initial
    state.
    """

    params: Any
    x: Any
    state: Any = None
    reset_state: Any = None
    mask: Any = None
    lengths: Any = None
    resets: Any = None
    segment_ids: Any = None
    dropout: Any = None
    tokens: Any = None


def check_arguments(cell: Cell, given: Arguments, time_major: bool) -> Arguments:
    """Return the arguments of `unroll` as JAX arrays, after checking that they fit each
    other. The order of their axes is kept.
    """
    require(isinstance(cell, Cell), "cell", cell, "give a Cell, such as a row of CELLS")
    for name, other in EXCLUSIVE:
        both = getattr(given, name) is not None and getattr(given, other) is not None
        require(not both, name, f"given with {other}", "give one of the two")
    cuts = given.resets is not None or given.segment_ids is not None
    alone = given.reset_state is not None and not cuts
    remedy = "give resets or segment_ids too, or initial_state"
    require(not alone, "reset_state", "given without resets", remedy)

    params, features, units = _read_params(cell, given.params)
    dtype = params.kernel.dtype
    x = _read_x(given.x, features, dtype)
    steps, batch = x.shape[:2] if time_major else x.shape[1::-1]
    require(steps >= 1, "x", x.shape, "give 1 or more time steps")
    like = _like_state(cell.initial_state, units, dtype)

    def read(name: str, kinds: tuple, convert: Callable, *shape: int):
        value = getattr(given, name)
        if value is None:
            return None
        return convert(_fitting(name, value, kinds, shape or x.shape[:2]))

    return Arguments(
        params=params,
        x=x,
        state=_read_state("initial_state", given.state, like, batch),
        reset_state=_read_state("reset_state", given.reset_state, like, batch),
        mask=read("mask", REAL, _as_bools),
        lengths=read("lengths", _INTS, _as_int32, batch),
        resets=read("resets", _BOOLS, _as_bools),
        segment_ids=read("segment_ids", _INTS, _as_labels),
        dropout=_read_dropout(
            cell, given.dropout, (steps, batch, features, units), like, dtype
        ),
        tokens=read("tokens", _INTS, _as_labels),
    )


def arrange(
    cell: Cell, given: Arguments, backwards: bool = False, time_major: bool = False
) -> Call:
    """Return the operands of a backend: time first, steps in the order of processing,
    and zeros in x at padded steps.
    """
    steps: Any = given.x, given.mask, given.resets, given.tokens, given.segment_ids
    if not time_major:
        steps = jax.tree.map(lambda array: jnp.swapaxes(array, 0, 1), steps)
    x, valid, at, tokens, ids = steps
    if tokens is not None and tokens.dtype.itemsize == 8:
        tokens = None  # in 32 bits, distinct tokens could become equal
    if given.lengths is not None:
        step = jnp.arange(x.shape[0], dtype=jnp.int32)
        valid = step[:, None] < given.lengths[None, :]
    if ids is not None:
        # a segment begins where the id changes; the first segment of a row starts from
        # the initial state, also after padding
        valid = ids != 0
        at = valid & (ids != _delayed(ids)) & _delayed(jnp.cumsum(valid, axis=0) > 0)

    if valid is not None:
        # values of x at padded steps must not enter any product, also not in the
        # gradients: masking the results would not help, as 0 * NaN is NaN
        x = jnp.where(valid if x.ndim == 2 else valid[:, :, None], x, 0)
        tokens = None if tokens is None else _apart_from_padding(tokens, valid)
    if backwards:
        x, valid, tokens, at = jax.tree.map(
            lambda array: jnp.flip(array, 0), (x, valid, tokens, at)
        )
        # the reversed sequence is cut at the same places: a reset before step t acts
        # there before step t - 1
        at = jax.tree.map(_delayed, at)

    state, reset_state = given.state, given.reset_state
    if reset_state is None and (at is not None or state is None):
        kernel = given.params.kernel
        units = kernel.shape[1] // cell.gates
        reset_state = cell.initial_state(x.shape[1], units, kernel.dtype)
    state = reset_state if state is None else state
    resets = None if at is None else Resets(at, reset_state)
    return Call(given.params, x, state, valid, given.dropout, resets, tokens)


def check_ids(cell: Cell, given: Arguments, time_major: bool) -> None:
    """Raise `InputError` if an id at a valid step is beyond -E..E - 1, where the ids
    are known and reading them means no waiting.
    """
    x: Any = given.x
    parts = (x, given.mask, given.lengths, given.segment_ids)
    if not is_ids(x) or any(isinstance(part, Tracer) for part in parts):
        return
    on_cpu = all(device.platform == "cpu" for device in x.devices())
    if not (on_cpu and x.is_fully_addressable and x.is_ready()):
        return

    features = cell.features(given.params.kernel)

    def out_of_range(ids):
        values = np.asarray(ids)
        return values[(values < -features) | (values >= features)]

    if not out_of_range(x).size:
        return
    with jax.ensure_compile_time_eval():  # the call may stand within `jit`
        call = arrange(cell, given, time_major=time_major)  # 0 at padded steps
    found = out_of_range(call.x)
    remedy = f"give ids below {features}, the number of features"
    require(not found.size, "x", f"id {found[:1]}", remedy)


def check_zoneout(cell: Cell, part: str, given) -> None:
    """Raise `InputError` unless the state of a cell contains the array `part` ("h" or
    "c") to which the zoneout `given` applies.
    """
    parts = [name for name in cell.state_like()._fields if name in ("h", "c")]
    remedy = f"the state of {cell.name} has {' and '.join(parts)} alone"
    require(part in parts, f"zoneout of {part}", given, remedy)


def compute_dtype_name(compute_dtype, dtype) -> str:
    """Return the name of the dtype of matrix products: `compute_dtype` or, if it is
    None, the dtype of the parameters.
    """
    if compute_dtype is None:
        return np.dtype(dtype).name
    with parsing("compute_dtype", f"give one of {', '.join(FLOATS)}, int8, or None"):
        name = np.dtype(compute_dtype).name
    fits = name != "float64" or getattr(jax.config, "jax_enable_x64", False)
    require(fits, "compute_dtype", name, "switch jax_enable_x64 on")
    return name


def _as_labels(array) -> Array:
    """Return ints as int32 in which distinct values stay distinct and 0 stays 0. 64-bit
    ints of JAX are returned as they are.
    """
    if array.dtype.itemsize < 8:
        return jnp.asarray(array.astype(np.int32))  # values of uint32 wrap around
    if not isinstance(array, ndarray):
        return array
    numbers = np.unique(array, return_inverse=True)[1].reshape(array.shape) + 1
    return jnp.asarray(np.where(array == 0, 0, numbers).astype(np.int32))


def _delayed(array: Array) -> Array:
    # padding, since the slice array[:-1] would be empty if T is 1, and jaxlib 0.10 may
    # lose the attributes of calls of compiled code in a program with empty arrays
    return lax.pad(array, jnp.zeros((), array.dtype), ((1, -1, 0), (0, 0, 0)))


def _apart_from_padding(tokens: Array, valid: Array) -> Array:
    # at padded steps x is 0, so that they need a token of their own: the lowest int32,
    # or, in a row where a valid step has it, tokens that all differ, which claim no
    # equal inputs
    taken = (valid & (tokens == LOWEST)).any(0, keepdims=True)
    step = lax.broadcasted_iota(jnp.int32, tokens.shape, 0)
    return jnp.where(taken, step, jnp.where(valid, tokens, LOWEST))


@lru_cache(maxsize=256)
def _like_state(initial_state: Callable, units: int, dtype):
    return jax.eval_shape(lambda: initial_state(1, units, dtype))


def _read_params(cell: Cell, params) -> tuple[Any, int, int]:
    remedy = f"the cell {cell.name} has {cell.params.__name__}"
    check_class("params", params, cell.params, remedy)
    arrays = [
        of_kinds(f"params.{field}", part, REAL, _GIVE_FLOATS)
        for field, part in zip(params._fields, params, strict=True)
    ]
    read = type(params)(*(_as_dtype(array, array.dtype) for array in arrays))
    shapes = tuple((array.shape, array.dtype) for array in read)
    return read, *_sizes(cell, params._fields, read.kernel.dtype, shapes)


@lru_cache(maxsize=256)
def _sizes(cell: Cell, fields: Texts, dtype: np.dtype, given: tuple) -> tuple[int, int]:
    """Return the numbers of features E and units H, after checking the shape and dtype
    of each parameter.
    """
    shape, gates = given[fields.index("kernel")][0], cell.gates
    require(dtype.name in FLOATS, "params.kernel", dtype.name, _GIVE_FLOATS)
    fits = len(shape) == 2 and min(shape) >= 1 and shape[1] % gates == 0
    remedy = f"give (E, {gates} H), E and H of 1 or more"
    require(fits, "params.kernel", shape, remedy)

    features, units = shape[0] * cell.blocks, shape[1] // gates
    like = jax.eval_shape(lambda: cell.init(jax.random.key(0), features, units, dtype))
    for field, (shape, own), wanted in zip(fields, given, like, strict=True):
        name = f"params.{field}"
        require(shape == wanted.shape, name, shape, f"give shape {wanted.shape}")
        remedy = f"give {wanted.dtype}, as the kernel has"
        require(own == wanted.dtype, name, own, remedy)
    return features, units


def _read_x(x, features: int, dtype) -> Array:
    remedy = "give floats (B, T, E), or int ids (B, T); (T, B, ...) if time_major"
    array = of_kinds("x", x, REAL, remedy)
    if array.ndim == 2:
        require(is_ids(array), "x", f"{array.dtype.name} {array.shape}", remedy)
        return _as_int32(array)
    require(array.ndim == 3, "x", array.shape, remedy)
    fits = array.shape[2] == features
    require(fits, "x", array.shape, f"the kernel reads {features} features")
    return _as_dtype(array, dtype)


def _read_state(what: str, given, like, batch: int):
    """Return a state with arrays (B, H). A part of a "reset_state" may be (H,), for all
    rows.
    """
    if given is None:
        return None
    listed = type(given) in (tuple, list)
    shown = type(given).__name__ + (f" of {len(given)}" if listed else "")
    fits = isinstance(given, type(like)) or (listed and len(given) == len(like))
    names = ", ".join(like._fields)
    remedy = f"give {type(like).__name__}({names}), or a tuple or list in this order"
    require(fits, what, shown, remedy)

    parts = []
    for field, part, wanted in zip(like._fields, given, like, strict=True):
        shape = (batch, *wanted.shape[1:])
        shapes = (shape, shape[1:]) if what == "reset_state" else (shape,)
        fitting = _fitting(f"{what}.{field}", part, REAL, *shapes)
        numbers = _as_dtype(fitting, wanted.dtype)
        if numbers.shape != shape:
            numbers = jnp.broadcast_to(numbers[None], shape)
        parts.append(numbers)
    return type(like)(*parts)


def _read_dropout(
    cell: Cell, given, sizes: tuple[int, int, int, int], like, dtype
) -> DropoutMasks:
    if given is None:
        return DropoutMasks()
    remedy = "give DropoutMasks(input, recurrent, zoneout)"
    check_class("dropout", given, DropoutMasks, remedy)
    steps, batch, features, units = sizes
    fits = given.recurrent is None or cell.has_recurrent_kernel
    remedy = f"the cell {cell.name} multiplies no state by a kernel"
    require(fits, "dropout.recurrent", "given", remedy)

    def read(field, mask, size):
        if mask is None:
            return None
        shapes = (batch, size), (cell.gates, batch, size)
        return _as_dtype(_fitting(f"dropout.{field}", mask, REAL, *shapes), dtype)

    zoneout = {}
    check_class("dropout.zoneout", given.zoneout, dict | None, "give {'h': mask}")
    for part, value in (given.zoneout or {}).items():
        check_zoneout(cell, part, "given")
        name = f"dropout.zoneout of {part}"
        shape = (steps, batch, *getattr(like, part).shape[1:])
        array = _fitting(name, value, REAL, (), shape)
        drawn = array.ndim > 0  # a mask instead of a rate
        fits = not (drawn and jnp.issubdtype(array.dtype, jnp.floating))
        require(fits, name, array.dtype.name, "give bools, or a scalar rate")
        zoneout[part] = _as_dtype(array, jnp.bool_ if drawn else dtype)
    return DropoutMasks(
        read("input", given.input, features),
        read("recurrent", given.recurrent, cell.output_size(units)),
        None if given.zoneout is None else zoneout,
    )


def as_array(name: str, value, remedy: str) -> AnyArray:
    """Return a value as a JAX or NumPy array.

    A list or a scalar becomes a NumPy array, since NumPy keeps 64-bit dtypes. A list
    that NumPy cannot convert, for example because it contains tracers, becomes a JAX
    array. None, what cannot be converted, and a deleted JAX array raise an
    `InputError`.
    """
    if isinstance(value, ndarray):
        return value
    if isinstance(value, Array):
        deleted = not isinstance(value, Tracer) and value.is_deleted()
        require(not deleted, name, "a deleted array", _DONATED)
        return value
    require(value is not None, name, value, remedy)
    kept = hasattr(value, "__jax_array__")
    for convert in (jnp.asarray,) if kept else (np.asarray, jnp.asarray):
        with contextlib.suppress(TypeError, ValueError, OverflowError):
            return convert(value)
    raise InputError(name, type(value).__name__, remedy)


def of_kinds(name: str, value, kinds: tuple, remedy: str) -> AnyArray:
    """Return a value as `as_array` does, after checking that its dtype is of one of
    `kinds`, abstract dtypes such as `jnp.integer`.
    """
    array = as_array(name, value, remedy)
    require(_is_of(array.dtype, kinds), name, array.dtype, remedy)
    return array


@lru_cache(maxsize=256)
def _is_of(dtype, kinds: tuple) -> bool:
    return any(jnp.issubdtype(dtype, kind) for kind in kinds)


def _fitting(name: str, value, kinds: tuple, *shapes: Ints) -> AnyArray:
    noun = _NOUNS[kinds]
    array = of_kinds(name, value, kinds, f"give {noun}")
    if array.shape not in shapes:
        remedy = f"give shape {' or '.join(map(str, shapes))}: {noun}"
        raise InputError(name, array.shape, remedy)
    return array


def _as_dtype(array: AnyArray, dtype) -> Array:
    if isinstance(array, ndarray):
        with np.errstate(over="ignore", invalid="ignore"):
            # NumPy converts the array, since jnp.asarray would first truncate int64 to
            # 32 bits
            return jnp.asarray(array.astype(dtype))
    return array if array.dtype == dtype else array.astype(dtype)


_as_bools = partial(_as_dtype, dtype=jnp.bool_)


def _as_int32(array: AnyArray) -> Array:
    return _as_dtype(clipped_int32(array), jnp.int32)


def as_int32(name: str, value) -> Array:
    """Convert an array, a list or a scalar of ints to int32, after clipping it to the
    range of int32, and return it.

    Raises:
        InputError: if the dtype of `value` is not an int. The message calls it `name`.
    """
    # what follows takes tens of microseconds outside of jit
    if isinstance(value, Array) and value.dtype == jnp.int32:
        return value
    return _as_int32(of_kinds(name, value, _INTS, "give ints"))


def check_32_bits(name: str, array) -> None:
    """Check that a NumPy array of 64-bit ints has no value beyond 32 bits, unless JAX
    computes in 64 bits. Other values are not checked.

    JAX would keep only the low 32 bits of a value beyond 32 bits. An id beyond the end
    of an embedding table could then become a valid id.

    Raises:
        InputError: if a value is beyond the range of int32 or, in an array of uint64,
            of uint32.
    """
    config: Any = jax.config
    if config.jax_enable_x64 or not isinstance(array, ndarray) or not array.size:
        return
    if array.dtype not in (np.int64, np.uint64):
        return
    bounds = np.iinfo(np.int32 if array.dtype == np.int64 else np.uint32)
    remedy = "JAX would cut it to 32 bits: reduce it, or enable jax_enable_x64"
    for value in map(int, (array.min(), array.max())):
        require(bounds.min <= value <= bounds.max, name, value, remedy)


def clipped_int32(array: AnyArray) -> Any:
    """Convert an array of ints to int32, after clipping it to the range of int32. A
    NumPy array stays a NumPy array.
    """
    if array.dtype == np.int32:
        return array
    bounds = jnp.iinfo(array.dtype)
    if bounds.max > HIGHEST:
        low = max(LOWEST, int(bounds.min))
        # a call of a server converts few ids, for which np.clip takes three times as
        # long
        if isinstance(array, ndarray):
            array = np.minimum(np.maximum(array, low), HIGHEST)
        else:
            array = jnp.clip(array, low, HIGHEST)
    return array.astype(np.int32)
