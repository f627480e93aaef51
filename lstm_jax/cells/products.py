"""Matrix products of the recurrent cells. Inputs are float arrays, or int ids that
stand for one-hot vectors.

The products support dropout masks. The argument `compute_dtype` lets a product be
computed in another dtype than that of the arrays.

B is the batch size, T the number of steps, E the number of input features and H the
number of units.
"""

from typing import TypeGuard

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from lstm_jax.base.errors import InputError, require

# inputs of all steps, or ids that stand for one-hot vectors
Steps = Float[Array, "T B E"] | Int[Array, "T B"]
Projected = Float[Array, "T B Z"]  # projected inputs of all steps, for all gates
Gates = Float[Array, "B Z"]  # those of one step
Mask = Array | None
INT8 = "int8"
NOT_DIFFERENTIABLE = "give a float dtype"


def matmul(a: Array, b: Array, compute_dtype=None) -> Array:
    """Return the matrix product `a @ b`.

    If `compute_dtype` is None, a and b keep their dtypes. If it is int8, the result is
    that of `int8_matmul`. For any other dtype, a and b are first cast to this dtype,
    and the product is accumulated and returned in the dtype that b had before the cast.
    """
    if compute_dtype is None:
        return a @ b
    if np.dtype(compute_dtype) == INT8:
        return int8_matmul(a, b)
    narrow_a = a.astype(compute_dtype)
    narrow_b = b.astype(compute_dtype)
    return jnp.matmul(narrow_a, narrow_b, preferred_element_type=b.dtype)


def _codes(array: Array, axis: int) -> tuple[Array, Array]:
    # float16 has room neither for the sums, which exceed 65504, nor for the scales of
    # small numbers
    if array.dtype.itemsize < 4:
        array = array.astype(jnp.float32)
    scale = jnp.max(jnp.abs(array), axis, keepdims=True) / 127
    codes = jnp.round(array / jnp.where(scale == 0, 1, scale))
    return codes.astype(jnp.int8), scale


@jax.custom_jvp
def int8_matmul(a: Array, b: Array) -> Array:
    """Return the matrix product of a (..., B, D) and b (D, F), computed with numbers
    that are rounded to int8.

    The result has the shape (..., B, F) and the dtype of b. Each row of a and each
    column of b is scaled so that its largest absolute number becomes 127. The int8
    products are summed exactly. If a and b have fewer than 32 bits, the scales are
    computed in float32, and only the result is rounded to the dtype of b.

    This function computes the scales of `a` and `b` anew in each call. By contrast,
    `torch.ao.quantization.quantize_dynamic` and `quantize_dynamic` of ONNX Runtime
    scale the inputs `a` in each call (dynamic quantisation), but the weights `b` only
    once.

    Raises:
        InputError: if the product is differentiated.
    """
    a_codes, a_scale = _codes(a, -1)  # a scale for each row
    b_codes, b_scale = _codes(b, -2)  # and for each column
    product = jnp.matmul(a_codes, b_codes, preferred_element_type=jnp.int32)
    a_scale = jnp.broadcast_to(a_scale, product.shape)
    scales = (a_scale * jnp.broadcast_to(b_scale, product.shape)).astype(b_scale.dtype)
    return (product.astype(b_scale.dtype) * scales).astype(b.dtype)


@int8_matmul.defjvp
def _int8_matmul_jvp(primals: tuple, tangents: tuple) -> tuple:
    del primals, tangents
    raise InputError("products in int8", "differentiated", NOT_DIFFERENTIABLE)


def masked(x: Array, mask: Mask) -> Array:
    """Return x * mask for a dropout mask of the last axes of x, or x if `mask` is None."""
    return x if mask is None else x * jnp.broadcast_to(mask, x.shape)


def masked_matmul(x: Array, kernel: Array, mask: Mask, compute_dtype=None) -> Array:
    """Return the matrix product (x * mask) @ kernel of x (..., B, D) and a kernel (D,
    gates * H) in `compute_dtype`; see `matmul`.

    The mask is (B, D) if all gates share it; or (gates, B, D) with one mask per gate,
    so that the columns of gate n are computed from x * mask[n]; or None.
    """
    if not is_per_gate(mask):
        return matmul(masked(x, mask), kernel, compute_dtype)
    kernels = jnp.split(kernel, len(mask), axis=-1)  # one a gate
    products = [
        matmul(masked(x, of_gate), part, compute_dtype)
        for of_gate, part in zip(mask, kernels, strict=True)
    ]
    return jnp.concatenate(products, axis=-1)


def block_matmul(
    x: Array, kernel: Array, gates: int, mask: Mask, compute_dtype=None
) -> Array:
    """Return the products (..., gates * H) of x (..., H) and a kernel (H / blocks,
    gates * H) of diagonal blocks; see `masked_matmul`.
    """
    size = len(kernel)
    blocks = x.shape[-1] // size

    def cut(array):  # (..., H) -> (blocks, ..., H / blocks)
        return jnp.moveaxis(array.reshape(*array.shape[:-1], blocks, size), -2, 0)

    @jax.vmap
    def multiply(x, kernel, mask):
        return masked_matmul(x, kernel, mask, compute_dtype)

    kernels = jnp.moveaxis(kernel.reshape(size, gates, blocks, size), 2, 0)
    kernels = kernels.reshape(blocks, size, gates * size)
    masks = None if mask is None else cut(mask)
    products = multiply(cut(x), kernels, masks)  # (blocks, ..., gates * H / blocks)

    products = products.reshape(*products.shape[:-1], gates, size)
    return jnp.moveaxis(products, 0, -2).reshape(*x.shape[:-1], -1)


def is_ids(x) -> bool:
    """Return whether inputs are int ids, which stand for one-hot vectors, and not
    floats.
    """
    return bool(jnp.issubdtype(x.dtype, jnp.integer))


def is_per_gate(mask) -> TypeGuard[Array]:
    """Return whether a dropout mask contains one mask per gate: whether its shape is
    (gates, batch size, columns).
    """
    return mask is not None and mask.ndim == 3


def one_hot_rows(ids: Array, features: int, dtype) -> Array:
    """Return the one-hot vectors (..., features) of an array of int ids (...) of any
    shape.

    A negative id counts from the end: -1 means the last feature. An id out of range
    gives a vector of NaN. The function `jnp.take` treats ids in the same way.
    """
    ids = jnp.where(ids < 0, ids + features, ids)
    in_range = (ids >= 0) & (ids < features)
    vectors = jax.nn.one_hot(ids, features, dtype=dtype)
    return jnp.where(in_range[..., None], vectors, jnp.nan)


def multiplied(
    kernel: Array, x: Steps, mask: Mask = None, compute_dtype=None
) -> Projected:
    """Return the product x W (T, B, gates * H) of the inputs x of all steps and a
    kernel W (E, gates * H).

    For ids, the product is a lookup of rows of the kernel. `project` describes the
    other arguments and the error.
    """
    if is_ids(x):
        remedy = "give x as one-hot rows to drop some of it"
        require(mask is None, "input mask", "given with ids", remedy)
        return jnp.take(kernel, x, axis=0)
    return masked_matmul(x, kernel, mask, compute_dtype)


def project(params, x: Steps, mask: Mask = None, compute_dtype=None) -> Projected:
    """Return the projected inputs x W + b (T, B, gates * H) of all steps, where `gates`
    is the number of gates of the cell.

    Args:
        params: parameters of a cell. W is the field `kernel`, and b is the field
            `bias`, or 0 if there is no such field.
        x: inputs (T, B, E); or int ids (T, B), which stand for one-hot vectors.
        mask: mask of input dropout, with E columns; see `masked_matmul`.
        compute_dtype: dtype of the product; see `matmul`.

    Raises:
        InputError: if x contains ids and `mask` is not None.
    """
    z = multiplied(params.kernel, x, mask, compute_dtype)
    bias = getattr(params, "bias", None)
    return z if bias is None else z + jnp.broadcast_to(bias, z.shape)


def check_sizes(features: int, units: int, heads: int = 1) -> None:
    """Raise an `InputError` if the number of input features or of units of a cell is
    below 1, or if the number of heads does not divide the units.
    """
    require(features >= 1, "features", features, "give 1 or more")
    require(units >= 1, "units", units, "give 1 or more")
    remedy = f"give a divisor of the {units} units"
    require(units % heads == 0, "heads", heads, remedy)


def zeros(batch: int, units: int, dtype=jnp.float32) -> Array:
    """Return an array of zeros (batch, units), for the initial state of a cell."""
    return jnp.zeros((batch, units), dtype)
