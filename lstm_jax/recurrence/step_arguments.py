"""Functions that check the arguments `mask`, `lengths`, `resets`, `segment_ids` and `tokens` of `unroll`.

The checked arguments are returned as arrays (T, B), where T is the number of steps and B the batch size.
"""

import jax
import jax.numpy as jnp
import numpy as np

from lstm_jax.errors import require
from lstm_jax.recurrence.conversion import LOWEST, REAL, as_int32, of_kinds


def _of_steps(name: str, value, kinds: tuple, remedy: str, steps: int, batch: int, time_major: bool) -> jax.Array | np.ndarray:
    """Convert an argument to an array, check its dtype and shape, and return it.

    The argument has one value for each step of each row. The order of its axes is not changed.

    Args:
        name: name of the argument in the error message.
        value: array (B, T), or (T, B) if `time_major` is true, or a list.
        kinds: abstract dtypes, such as `jnp.integer`. The dtype of the array must belong to one of them.
        remedy: advice in the error message if the dtype is wrong.
        steps: number of steps T.
        batch: number of rows B.
        time_major: whether time is the first axis.

    Raises:
        InputError: if the shape or the dtype is wrong.
    """
    array = of_kinds(name, value, kinds, remedy)
    fits = array.shape == ((steps, batch) if time_major else (batch, steps))
    require(fits, name, array.shape, "give (B, T), or (T, B) if time_major")
    return array


def _numbered(array: np.ndarray) -> np.ndarray:
    """Return an int32 array in which the numbers 0, 1, 2, ... replace the distinct entries of `array`. Equal entries get equal numbers."""
    return np.unique(array, return_inverse=True)[1].reshape(array.shape).astype(np.int32)


def read_mask(mask, steps: int, batch: int, time_major: bool) -> jax.Array | None:
    """Check a mask over steps, and return it as a bool array (T, B). As in Keras, nonzero numbers become True.

    If the mask is None, return None.

    Args:
        mask: array (B, T), or (T, B) if `time_major` is true, or None.
        steps: number of steps T.
        batch: number of rows B.
        time_major: whether time is the first axis of the mask.

    Raises:
        InputError: if the shape or the dtype is wrong.
    """
    if mask is None:
        return None
    array = jnp.asarray(_of_steps("mask", mask, REAL, "give bools", steps, batch, time_major).astype(bool))
    return array if time_major else array.T


def read_lengths(lengths, steps: int, batch: int) -> jax.Array:
    """Check the lengths (B,) of the rows, and return a bool array (T, B) that is True at the first lengths[b] steps of row b.

    A negative length means 0, and a length above the number of steps T means T.

    Raises:
        InputError: if the shape or the dtype is wrong.
    """
    array = of_kinds("lengths", lengths, (jnp.integer,), "give ints")
    require(array.shape == (batch,), "lengths", array.shape, f"give shape ({batch},)")
    return jnp.arange(steps, dtype=jnp.int32)[:, None] < as_int32("lengths", array, "give ints")[None, :]


def check_alone(mask, lengths, resets) -> None:
    """Check that `mask`, `lengths` and `resets` are None, as `unroll` requires if its argument `segment_ids` is given.

    Raises:
        InputError: if one of them is not None.
    """
    for name, other in (("mask", mask), ("lengths", lengths), ("resets", resets)):
        remedy = "the ids say where sequences begin and, by 0, what is padding: give one of the two"
        require(other is None, "segment_ids", f"given with {name}", remedy)


def read_resets(resets, steps: int, batch: int, time_major: bool) -> jax.Array:
    """Check the argument `resets` of `unroll`, and return it as a bool array (T, B) whose first axis is time.

    Args:
        resets: bool array (B, T), or (T, B) if `time_major` is true.
        steps: number of steps T.
        batch: number of rows B.
        time_major: whether time is the first axis of the array.

    Raises:
        InputError: if the shape or the dtype is wrong.
    """
    array = _of_steps("resets", resets, (jnp.bool_,), "give bools", steps, batch, time_major)
    array = jnp.asarray(array)
    return array if time_major else array.T


def read_segments(segment_ids, steps: int, batch: int, time_major: bool) -> tuple[jax.Array, jax.Array]:
    """Check the argument `segment_ids` of `unroll`. Return (valid, resets), two bool arrays (T, B) whose first axis is time.

    `valid` is False at steps with the id 0, which are padded. A segment begins at a step whose id is not 0 and differs from the id of the
    previous step. `resets` is True at the first step of each segment except the first segment of a row. The first segment starts from the
    initial state, even if padded steps come before it.

    Args:
        segment_ids: int array (B, T), or (T, B) if `time_major` is true.
        steps: number of steps T.
        batch: number of rows B.
        time_major: whether time is the first axis of the array.

    Raises:
        InputError: if the shape or the dtype is wrong.
    """
    array = _of_steps("segment_ids", segment_ids, (jnp.integer,), "give ints", steps, batch, time_major)
    if isinstance(array, np.ndarray) and array.dtype.itemsize == 8:  # distinct numbers stay distinct, and 0 stays 0
        array = np.where(array == 0, 0, _numbered(array) + 1)
    ids = jnp.asarray(array)
    ids = ids if time_major else ids.T
    valid = ids != 0
    begun = jnp.cumsum(valid, axis=0) > 0
    return valid, valid & (ids != _delayed(ids)) & _delayed(begun)


def _delayed(array: jax.Array) -> jax.Array:
    """Return an array (T, B) shifted by one step: each step gets the value of the step before it, and the first step gets 0 or False.

    The array is shifted by padding, since the slice `array[:-1]` would be empty if T is 1. If a program contains empty arrays, jaxlib 0.10
    may lose the attributes of calls of compiled code, and these calls then fail.
    """
    return jax.lax.pad(array, jnp.zeros((), array.dtype), ((1, -1, 0), (0, 0, 0)))


def starts_backwards(at: jax.Array) -> jax.Array:
    """Convert the resets of a sequence to the resets of the reversed sequence, and return them as a bool array (T, B).

    The resets divide a sequence into parts, and the reversed sequence is divided into the same parts. For example, a reset at step 2
    divides the steps 0 .. 4 into the parts (0, 1) and (2, 3, 4). The reversed sequence is 4, 3, 2, 1, 0, and its second part begins with
    step 1. The resets of the reversed sequence are therefore False, False, False, True, False.

    Args:
        at: bool (T, B), True where the state is reset before a step, in the order of time.
    """
    return _delayed(jnp.flip(at, 0))


def read_tokens(tokens, steps: int, batch: int, time_major: bool) -> jax.Array | None:
    """Check the argument `tokens` of `unroll`, and return it as an int32 array (T, B).

    If the tokens are a NumPy array of 64-bit ints or a list, the numbers 0, 1, 2, ... replace their distinct values. Values of uint32 above
    the highest int32 become negative. In both cases, equal tokens stay equal, and distinct tokens stay distinct. Other tokens keep their
    values. If the tokens are a JAX array of 64-bit ints, return None, since distinct values may become equal when they are truncated to 32
    bits.

    Args:
        tokens: int array (B, T), or (T, B) if `time_major` is true.
        steps: number of steps T.
        batch: number of rows B.
        time_major: whether time is the first axis of the tokens.

    Raises:
        InputError: if the shape or the dtype is wrong.
    """
    array = _of_steps("tokens", tokens, (jnp.integer,), "give ints", steps, batch, time_major)
    if array.dtype.itemsize == 8:
        if not isinstance(array, np.ndarray):
            return None
        array = _numbered(array)
    array = jnp.asarray(array.astype(np.int32))  # values of uint32 may wrap around, but distinct tokens stay distinct
    return array if time_major else array.T


def apart_from_padding(tokens: jax.Array, valid: jax.Array) -> jax.Array:
    """Return the tokens (T, B), changed so that no padded step has the same token as a valid step of the same row.

    The change is necessary because steps with equal tokens must have equal inputs x, and x has been set to 0 at padded steps. The token of
    a padded step becomes the lowest int32. If a valid step of a row already has the lowest int32 as its token, the tokens of the whole
    row become 0, 1, 2, ..., T - 1 instead. Tokens that all differ are always right, because they claim no equal inputs.

    Args:
        tokens: int32 (T, B).
        valid: bool (T, B), False at padded steps.
    """
    marked = jnp.where(valid, tokens, LOWEST)
    taken = (valid & (tokens == LOWEST)).any(0, keepdims=True)  # rows in which a valid step has the lowest int32 as its token
    return jnp.where(taken, jax.lax.broadcasted_iota(jnp.int32, tokens.shape, 0), marked)
