"""Functions that check and convert the arguments of `unroll`, so that all backends read arrays of the same shapes and dtypes.

Classes, shapes and dtypes are checked. Values are not checked, so that the arguments may be tracers. Lengths are clipped to 0..T, and ids
are clipped to the range of int32. The arrays that a backend gets have these dtypes:

- bool: `valid`, the flags of `resets`, and zoneout masks.
- int32: `tokens`, and `x` if it contains ids.
- The dtype of `params.kernel`: all other arrays. Bools and ints are converted to this dtype.

If the parameters have different dtypes, an error is raised, since this is usually a mistake. Complex numbers also raise an error.

B is the batch size, T the number of steps, E the number of input features and H the number of units.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lstm_jax.cells import Cell
from lstm_jax.dropout import DropoutMasks
from lstm_jax.errors import InputError, require
from lstm_jax.recurrence.conversion import FLOATS, REAL, as_int32, as_numbers, of_kinds
from lstm_jax.recurrence.resets import Resets
from lstm_jax.recurrence.step_arguments import (
    apart_from_padding,
    check_alone,
    read_lengths,
    read_mask,
    read_resets,
    read_segments,
    read_tokens,
    starts_backwards,
)


class Operands(NamedTuple):
    """Checked and converted arguments of `unroll`, which a backend reads.

    Time is the first axis of all arrays. The steps are in the order in which they are processed.

    Attributes:
        params: parameters of the cell.
        x: inputs (T, B, E), or ids (T, B), with zeros at padded steps.
        state: initial state of the cell.
        valid: bool (T, B) that is False at padded steps, or None if no step is padded.
        dropout: dropout masks.
        resets: resets of the state within the sequence, or None.
        tokens: int32 (T, B), or None. If several steps of the same row have equal tokens, they also have equal inputs, so that a backend
            may compute the product of the inputs and the kernel only once for all of these steps.
    """

    params: Any
    x: jax.Array
    state: Any
    valid: jax.Array | None
    dropout: DropoutMasks
    resets: Resets | None
    tokens: jax.Array | None


def read_operands(
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
    time_major: bool = False,
) -> Operands:
    """Check the arguments of `unroll`, convert them to the shapes and dtypes that backends read, and return them.

    The docstring of `unroll` describes the arguments.

    Raises:
        InputError: in one of these cases.

            - An argument has a wrong class or shape, or a wrong dtype that cannot be converted.
            - The number of steps T is 0.
            - Two arguments are given that exclude each other.
            - `reset_state` is given, but neither `resets` nor `segment_ids` is given.
    """
    require(isinstance(cell, Cell), "cell", cell, "give a Cell, such as a row of CELLS")
    require(mask is None or lengths is None, "lengths", "given with mask", "give one of the two")
    params, features, units = _read_params(cell, params)
    dtype = params.kernel.dtype
    x = _read_x(x, features, dtype)
    given_shape, x = x.shape, x if time_major else jnp.swapaxes(x, 0, 1)
    steps, batch = x.shape[:2]
    require(steps >= 1, "x", given_shape, "give 1 or more time steps")
    start = reset_state if initial_state is None else initial_state
    state = _read_state(cell, start, batch, units, dtype, "reset_state" if initial_state is None else "initial_state")
    dropout = _read_dropout(cell, dropout, (steps, features, units), state, dtype)
    valid = read_mask(mask, steps, batch, time_major) if lengths is None else read_lengths(lengths, steps, batch)
    at = None if resets is None else read_resets(resets, steps, batch, time_major)
    if segment_ids is not None:
        check_alone(mask, lengths, resets)
        valid, at = read_segments(segment_ids, steps, batch, time_major)
    require(
        at is not None or reset_state is None, "reset_state", "given without resets", "give resets or segment_ids too, or initial_state"
    )
    tokens = None if tokens is None else read_tokens(tokens, steps, batch, time_major)
    if valid is not None:
        # values of x at padded steps must not enter any product, also not in the gradients: masking the results would not help, as 0 * NaN
        # is NaN
        x = jnp.where(valid if x.ndim == 2 else valid[:, :, None], x, 0)
        tokens = None if tokens is None else apart_from_padding(tokens, valid)
    if backwards:
        x = jnp.flip(x, 0)
        valid, tokens = (None if array is None else jnp.flip(array, 0) for array in (valid, tokens))
        at = None if at is None else starts_backwards(at)
    found = None if at is None else Resets(at, _read_state(cell, reset_state, batch, units, dtype, "reset_state"))
    return Operands(params, x, state, valid, dropout, found, tokens)


def check_zoneout(cell: Cell, part: str, given) -> None:
    """Check that the state of a cell contains the array to which zoneout shall be applied.

    Args:
        cell: the cell.
        part: name of the array, "h" or "c".
        given: the value that the user gave for zoneout, for the error message.

    Raises:
        InputError: if the state does not contain the array.
    """
    parts = [name for name in cell.state_like()._fields if name in ("h", "c")]
    require(part in parts, f"zoneout of {part}", given, f"the state of {cell.name} has {' and '.join(parts)} alone")


def compute_dtype_name(compute_dtype, dtype) -> str:
    """Return the name of the dtype in which matrix products are computed.

    Args:
        compute_dtype: the dtype that the user gave, or None for the dtype of the parameters.
        dtype: dtype of the parameters.

    Raises:
        InputError: if `compute_dtype` is not a dtype, or it is float64 while `jax_enable_x64` is off.
    """
    try:
        name = np.dtype(dtype if compute_dtype is None else compute_dtype).name
    except TypeError as error:
        raise InputError("compute_dtype", compute_dtype, f"give one of {', '.join(FLOATS)}, int8, or None") from error
    is_float64 = name == "float64" and compute_dtype is not None
    require(not is_float64 or bool(getattr(jax.config, "jax_enable_x64", False)), "compute_dtype", name, "switch jax_enable_x64 on")
    return name


@lru_cache(maxsize=256)
def _like_params(init: Callable, features: int, units: int, dtype):
    """Return the shapes and dtypes that the parameters of a cell must have. `init` is the function `Cell.init` of this cell."""
    return jax.eval_shape(lambda: init(jax.random.key(0), features, units, dtype))


@lru_cache(maxsize=256)
def _like_state(initial_state: Callable, units: int, dtype):
    """Return the shapes and dtypes of the state of a cell for a batch of one row. `initial_state` is `Cell.initial_state` of this cell."""
    return jax.eval_shape(lambda: initial_state(1, units, dtype))


def _read_params(cell: Cell, params) -> tuple[Any, int, int]:
    """Check the class, shapes and dtypes of a cell's parameters.

    Return a tuple (parameters as JAX arrays, number of features E, number of units H).

    Raises:
        InputError: if the class, a shape or a dtype is wrong.
    """
    require(isinstance(params, cell.params), "params", type(params).__name__, f"the cell {cell.name} has {cell.params.__name__}")
    remedy = f"give (E, {cell.gates} H), E and H of 1 or more"
    kernel = jnp.asarray(of_kinds("params.kernel", params.kernel, (jnp.floating,), f"give one of {', '.join(FLOATS)}"))
    dtype, shape = kernel.dtype, kernel.shape
    require(dtype.name in FLOATS, "params.kernel", dtype.name, f"give one of {', '.join(FLOATS)}")
    require(len(shape) == 2 and shape[0] >= 1 and shape[1] >= 1 and shape[1] % cell.gates == 0, "params.kernel", shape, remedy)
    features, units = shape[0], shape[1] // cell.gates
    parts = []
    for field, part, like in zip(params._fields, params, _like_params(cell.init, features, units, dtype), strict=True):
        name = f"params.{field}"
        array = jnp.asarray(of_kinds(name, part, REAL, f"give {like.dtype.name} {like.shape}"))
        require(array.shape == like.shape, name, array.shape, f"give shape {like.shape}")
        require(array.dtype == like.dtype, name, array.dtype.name, f"give {like.dtype.name}, as the kernel has")
        parts.append(array)
    return type(params)(*parts), features, units


def _read_x(x, features: int, dtype) -> jax.Array:
    """Check the inputs x of `unroll`. Return them as an array of `dtype` with three axes, or as int32 ids with two axes.

    The order of the axes is not changed. `features` is the expected number of input features E.

    Raises:
        InputError: if the shape or the dtype is wrong.
    """
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
    """Check a state of a cell, and return it with arrays (B, H) of `dtype`. If `given` is None, return the initial state of the cell.

    Args:
        cell: the cell.
        given: an instance of the state class of the cell, a tuple or list of the arrays of a state, or None. An array of a reset state may
            also have the shape (H,), and then it applies to all rows.
        batch: number of rows B.
        units: number of units H.
        dtype: dtype of the result.
        what: name of the argument for error messages, "initial_state" or "reset_state".

    Raises:
        InputError: if the class, a shape or a dtype is wrong.
    """
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
    """Check the dropout masks of a call, and return them as JAX arrays. None becomes `DropoutMasks()`, which contains no mask.

    Args:
        cell: the cell.
        given: a `DropoutMasks`, or None.
        sizes: number of steps T, number of input features E and number of units H.
        state: initial state of the call. Its arrays give the batch size B and the sizes that zoneout masks must have.
        dtype: dtype to which all masks are converted, except bool masks of zoneout.

    Raises:
        InputError: in one of these cases.

            - `given` is neither a `DropoutMasks` nor None.
            - A mask has a wrong shape or dtype.
            - There is a recurrent mask, but the cell has no recurrent kernel.
            - `_read_zoneout` rejects the zoneout masks.
    """
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
    """Check the zoneout masks and rates of a call. Return a dict with the same keys and with JAX arrays, or None if `given` is None.

    Args:
        cell: the cell.
        given: dict from the name of a state array, "h" or "c", to a mask or a rate; or None. A mask is a bool array with the shape of the
            state array at all steps, (T, B, H) or, for the h of a cell with P outputs, (T, B, P). A rate is a scalar.
        steps: number of steps T.
        state: initial state of the call. Its arrays give the batch size B and the sizes H and P that the masks must have.
        dtype: dtype to which rates are converted.

    Raises:
        InputError: if `given` is neither a dict nor None, if a key is not the name of an array of the state, or if a mask or a rate has a
            wrong shape or dtype.
    """
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
