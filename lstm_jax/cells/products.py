"""Matrix products of the cells: in a given dtype, with dropout masks, and of ids that stand for one-hot rows."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from lstm_jax.errors import require


def matmul(a: Array, b: Array, compute_dtype=None) -> Array:
    """Return `a @ b`, computed in `compute_dtype` (None: in the dtypes of a and b), accumulated and returned in the dtype of `b`."""
    if compute_dtype is None:
        return a @ b
    return jnp.matmul(a.astype(compute_dtype), b.astype(compute_dtype), preferred_element_type=b.dtype)


def masked_matmul(x: Array, kernel: Array, mask: Array | None, compute_dtype=None) -> Array:
    """Return (x * mask) @ kernel for x (..., B, D), kernel (D, G H), mask None, (B, D) or (G, B, D), where gate g reads x * mask[g]."""
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
    """Return whether a dropout mask has a part for each gate, (G, B, D), rather than one for all, (B, D); False for None."""
    return mask is not None and mask.ndim == 3


def one_hot_rows(ids: Array, features: int, dtype) -> Array:
    """Return the one-hot rows (..., E) of ids.

    Their product with W equals the rows that `multiplied` gathers: negative ids count from the end, an id beyond E gives NaN.
    """
    ids = jnp.where(ids < 0, ids + features, ids)
    in_range = (ids >= 0) & (ids < features)
    return jnp.where(in_range[..., None], jax.nn.one_hot(ids, features, dtype=dtype), jnp.nan)


def multiplied(
    kernel: Array, x: Float[Array, "T B E"] | Int[Array, "T B"], mask: Array | None = None, compute_dtype=None
) -> Float[Array, "T B Z"]:
    """Return x W for all steps (T, B, Z).

    x may also be int ids (T, B), which stand for one-hot rows: their product with W is a gather of W's rows.

    Raises:
        InputError: if ids have a mask.
    """
    if jnp.issubdtype(x.dtype, jnp.integer):
        require(mask is None, "input mask", "given with ids", "give x as one-hot rows to drop some of it")
        return jnp.take(kernel, x, axis=0)
    return masked_matmul(x, kernel, mask, compute_dtype)


def project(
    params: Any, x: Float[Array, "T B E"] | Int[Array, "T B"], mask: Array | None = None, compute_dtype=None
) -> Float[Array, "T B Z"]:
    """Return the input's part of z for all steps, x W + b, of a cell's `kernel` and, if any, `bias`; ids as in `multiplied`."""
    z = multiplied(params.kernel, x, mask, compute_dtype)
    bias = getattr(params, "bias", None)
    return z if bias is None else z + jnp.broadcast_to(bias, z.shape)


def check_sizes(features: int, units: int) -> None:
    """Check the sizes of a cell.

    Raises:
        InputError: if one is below 1.
    """
    require(features >= 1, "features", features, "give 1 or more")
    require(units >= 1, "units", units, "give 1 or more")


def zeros(batch: int, units: int, dtype=jnp.float32) -> jax.Array:
    """Return zeros (B, H), a part of an initial state."""
    return jnp.zeros((batch, units), dtype)
