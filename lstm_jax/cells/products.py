"""Matrix products of the cells. They support a separate compute dtype, dropout masks, and ids in place of one-hot rows.

B is the batch size, T the number of steps, E the number of input features and H the number of units.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from lstm_jax.errors import require


def matmul(a: Array, b: Array, compute_dtype=None) -> Array:
    """Return `a @ b`, computed in `compute_dtype`, and accumulated and returned in the dtype of `b`.

    If `compute_dtype` is None, the product is computed in the dtypes of `a` and `b`.
    """
    if compute_dtype is None:
        return a @ b
    return jnp.matmul(a.astype(compute_dtype), b.astype(compute_dtype), preferred_element_type=b.dtype)


def masked_matmul(x: Array, kernel: Array, mask: Array | None, compute_dtype=None) -> Array:
    """Return (x * mask) @ kernel.

    Args:
        x: array (..., B, D).
        kernel: array (D, gates * H).
        mask: dropout mask (B, D) that all gates share; (gates, B, D), from which gate n reads x * mask[n]; or None for no mask.
        compute_dtype: dtype of the product, as in `matmul`.
    """
    if mask is None:
        return matmul(x, kernel, compute_dtype)
    if not is_per_gate(mask):
        return matmul(x * jnp.broadcast_to(mask, x.shape), kernel, compute_dtype)
    gates = [
        matmul(x * jnp.broadcast_to(m, x.shape), part, compute_dtype)
        for m, part in zip(mask, jnp.split(kernel, len(mask), axis=-1), strict=True)
    ]
    return jnp.concatenate(gates, axis=-1)


def is_per_gate(mask: Any) -> bool:
    """Return whether a dropout mask has one mask per gate, (gates, B, D), rather than one that all gates share, (B, D).

    If `mask` is None, return False.
    """
    return mask is not None and mask.ndim == 3


def one_hot_rows(ids: Array, features: int, dtype) -> Array:
    """Return the one-hot rows (..., features) of ids.

    Negative ids count from the end, and an id out of range gives a row of NaN. The product of the rows with a kernel thus equals the result
    of `multiplied` for ids.
    """
    ids = jnp.where(ids < 0, ids + features, ids)
    in_range = (ids >= 0) & (ids < features)
    return jnp.where(in_range[..., None], jax.nn.one_hot(ids, features, dtype=dtype), jnp.nan)


def multiplied(
    kernel: Array, x: Float[Array, "T B E"] | Int[Array, "T B"], mask: Array | None = None, compute_dtype=None
) -> Float[Array, "T B Z"]:
    """Return the product x W of the input of all steps with a kernel W.

    Args:
        x: inputs (T, B, E); or int ids (T, B), which stand for one-hot rows, so that the product is a lookup of rows of the kernel.
        kernel: kernel W (E, gates * H).
        mask: input dropout mask, as in `masked_matmul`.
        compute_dtype: dtype of the product, as in `matmul`.

    Returns:
        array (T, B, gates * H).

    Raises:
        InputError: if x is ids and `mask` is given.
    """
    if jnp.issubdtype(x.dtype, jnp.integer):
        require(mask is None, "input mask", "given with ids", "give x as one-hot rows to drop some of it")
        return jnp.take(kernel, x, axis=0)
    return masked_matmul(x, kernel, mask, compute_dtype)


def project(
    params: Any, x: Float[Array, "T B E"] | Int[Array, "T B"], mask: Array | None = None, compute_dtype=None
) -> Float[Array, "T B Z"]:
    """Return x W + b for all steps, where W and b are the fields `kernel` and `bias` of `params`; see `Cell.project`.

    If `params` has no field `bias`, return x W. x may also be int ids (T, B), as in `multiplied`.
    """
    z = multiplied(params.kernel, x, mask, compute_dtype)
    bias = getattr(params, "bias", None)
    return z if bias is None else z + jnp.broadcast_to(bias, z.shape)


def check_sizes(features: int, units: int) -> None:
    """Check the numbers of features and units of a cell.

    Raises:
        InputError: if `features` or `units` is below 1.
    """
    require(features >= 1, "features", features, "give 1 or more")
    require(units >= 1, "units", units, "give 1 or more")


def zeros(batch: int, units: int, dtype=jnp.float32) -> jax.Array:
    """Return an array of zeros (batch, units) for an initial state."""
    return jnp.zeros((batch, units), dtype)
