"""Functions that convert the arguments of `unroll` to arrays of a given dtype. A value that cannot be converted raises an `InputError`."""

from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from lstm_jax.errors import InputError, require

FLOATS = ("float16", "bfloat16", "float32", "float64")
"""Dtypes that the parameters of a cell may have."""
REAL = (jnp.floating, jnp.integer, jnp.bool_)
"""Kinds of dtypes that are converted to floats: floats, ints and bools."""
LOWEST, HIGHEST = -(2**31), 2**31 - 1
"""Lowest and highest int32."""


def as_array(name: str, value, remedy: str) -> jax.Array | np.ndarray:
    """Return a value as a JAX or NumPy array.

    A list or a scalar becomes a NumPy array, since NumPy keeps 64-bit dtypes. A list that NumPy cannot convert, for example because it
    contains tracers, becomes a JAX array.

    Args:
        name: name of the value in the error message.
        value: an array, a list or a scalar.
        remedy: advice at the end of the error message.

    Raises:
        InputError: if `value` is None or cannot be converted, or is a deleted JAX array.
    """
    if isinstance(value, jax.Array | np.ndarray):
        check_usable(name, value)
        return value
    require(value is not None, name, value, remedy)
    try:
        return jnp.asarray(value) if hasattr(value, "__jax_array__") else np.asarray(value)
    except (TypeError, ValueError, OverflowError):
        pass
    try:
        return jnp.asarray(value)  # a list that contains tracers
    except (TypeError, ValueError, OverflowError) as error:
        raise InputError(name, type(value).__name__, remedy) from error


def check_usable(name: str, value: Any) -> None:
    """Check that a value is no deleted JAX array.

    Raises:
        InputError: if it is.
    """
    deleted = isinstance(value, jax.Array) and not isinstance(value, Tracer) and value.is_deleted()
    require(not deleted, name, "a deleted array", "a function that donates its argument took its memory: give the array that it returned")


def of_kinds(name: str, value, kinds: tuple, remedy: str) -> jax.Array | np.ndarray:
    """Return a value as a JAX or NumPy array, after checking its dtype.

    Args:
        name: name of the value in the error message.
        value: an array, a list or a scalar.
        kinds: abstract dtypes, such as `jnp.integer`. The dtype of the array must belong to one of them.
        remedy: advice at the end of the error message.

    Raises:
        InputError: if `value` cannot be converted to an array, or its dtype is of another kind.
    """
    array = as_array(name, value, remedy)
    require(_is_of(array.dtype, kinds), name, array.dtype, remedy)
    return array


@lru_cache(maxsize=256)
def _is_of(dtype: Any, kinds: tuple) -> bool:
    return any(jnp.issubdtype(dtype, kind) for kind in kinds)


def as_numbers(name: str, value, dtype, remedy: str) -> jax.Array:
    """Convert an array of floats, ints or bools to `dtype`, and return it."""
    array = of_kinds(name, value, REAL, remedy)
    if isinstance(array, np.ndarray):
        with np.errstate(over="ignore", invalid="ignore"):
            return jnp.asarray(array.astype(dtype))  # NumPy converts the array, since jnp.asarray would first truncate int64 to 32 bits
    return array if array.dtype == dtype else array.astype(dtype)


def as_int32(name: str, value, remedy: str) -> jax.Array:
    """Convert an array of ints to int32, after clipping it to the range of int32, and return it.

    Args:
        name: name of the array in the error message.
        value: an array, a list or a scalar.
        remedy: advice at the end of the error message.

    Raises:
        InputError: if the dtype of `value` is not an int.
    """
    if isinstance(value, jax.Array) and value.dtype == jnp.int32:  # what follows takes tens of microseconds outside of jit
        return value
    return jnp.asarray(clipped_int32(of_kinds(name, value, (jnp.integer,), remedy)))


def check_32_bits(name: str, array: Any) -> None:
    """Check that a NumPy array of 64-bit ints has no value beyond 32 bits, unless JAX computes in 64 bits. Other values are not checked.

    JAX would keep only the low 32 bits of a value beyond 32 bits. An id beyond the end of an embedding table could then become a valid id.

    Raises:
        InputError: if a value is beyond the range of int32 or, in an array of uint64, of uint32.
    """
    config: Any = jax.config
    if not isinstance(array, np.ndarray) or array.dtype not in (np.int64, np.uint64) or config.jax_enable_x64 or not array.size:
        return
    bounds = np.iinfo(np.int32 if array.dtype == np.int64 else np.uint32)
    for value in (array.min(), array.max()):
        require(
            bounds.min <= int(value) <= bounds.max, name, int(value), "JAX would cut it to 32 bits: reduce it, or enable jax_enable_x64"
        )


def clipped_int32(array: jax.Array | np.ndarray) -> Any:
    """Convert an array of ints to int32, after clipping it to the range of int32. A NumPy array stays a NumPy array."""
    if array.dtype == np.int32:
        return array
    bounds = jnp.iinfo(array.dtype)
    if bounds.max > HIGHEST:
        low = max(LOWEST, int(bounds.min))
        # a call of a server converts few ids, for which np.clip takes three times as long
        array = np.minimum(np.maximum(array, low), HIGHEST) if isinstance(array, np.ndarray) else jnp.clip(array, low, HIGHEST)
    return array.astype(np.int32)
