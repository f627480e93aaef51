"""The LSTM cell as pure functions (Hochreiter & Schmidhuber 1997 with the forget gate of Gers et al. 2000).

    z = x W + h U + b, split i, f, g, o;  c' = sigmoid(f) c + sigmoid(i) tanh(g);  h' = sigmoid(o) tanh(c')

Departs from the sources: no peepholes; the forget gate's bias starts at 1 (Jozefowicz et al. 2015), as Keras has it.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from lstm_jax import initializers
from lstm_jax.errors import require
from lstm_jax.shapes import GATES


class LSTMParams(NamedTuple):
    """kernel (E, 4H), recurrent_kernel (H, 4H), bias (4H,); gates i, f, g, o side by side."""

    kernel: jax.Array
    recurrent_kernel: jax.Array
    bias: jax.Array


class LSTMState(NamedTuple):
    """h (B, H): the output; c (B, H): the memory. Named, since libraries disagree on the order."""

    h: jax.Array
    c: jax.Array


def init(key: Array, features: int, units: int, dtype=jnp.float32, *, unit_forget_bias: bool = True) -> LSTMParams:
    """Keras' initial weights.

    Raises:
        InputError: if `features` or `units` is below 1.
    """
    require(features >= 1, "features", features, "give 1 or more")
    require(units >= 1, "units", units, "give 1 or more")
    kernel_key, recurrent_key = jax.random.split(key)
    return LSTMParams(
        initializers.glorot_uniform(kernel_key, (features, GATES * units), dtype),
        initializers.orthogonal(recurrent_key, (units, GATES * units), dtype),
        initializers.lstm_bias(units, dtype, unit_forget_bias),
    )


def initial_state(batch: int, units: int, dtype=jnp.float32) -> LSTMState:
    """Zeros (B, H)."""
    return LSTMState(jnp.zeros((batch, units), dtype), jnp.zeros((batch, units), dtype))


def matmul(a: Array, b: Array, compute_dtype=None) -> Array:
    """`a @ b` in `compute_dtype` (None: as they are), accumulated and returned in the type of `b`."""
    if compute_dtype is None:
        return a @ b
    return jnp.matmul(a.astype(compute_dtype), b.astype(compute_dtype), preferred_element_type=b.dtype)


def masked_matmul(x: Array, kernel: Array, mask: Array | None, compute_dtype=None) -> Array:
    """(x * mask) @ kernel for x (..., B, D), kernel (D, 4H), mask None, (B, D) or (4, B, D), where gate g reads x * mask[g]."""
    if mask is None:
        return matmul(x, kernel, compute_dtype)
    if mask.ndim == 2:
        return matmul(x * jnp.broadcast_to(mask, x.shape), kernel, compute_dtype)
    gates = [
        matmul(x * jnp.broadcast_to(m, x.shape), part, compute_dtype)
        for m, part in zip(mask, jnp.split(kernel, GATES, axis=-1), strict=True)
    ]
    return jnp.concatenate(gates, axis=-1)


def project(
    params: LSTMParams, x: Float[Array, "T B E"] | Int[Array, "T B"], mask: Array | None = None, compute_dtype=None
) -> Float[Array, "T B Z"]:
    """The input's part of z for all steps at once: x W + b.

    x may also be int ids (T, B), which stand for one-hot rows: their product with W is a gather of W's rows.
    """
    if jnp.issubdtype(x.dtype, jnp.integer):
        require(mask is None, "input mask", "given with ids", "give x as one-hot rows to drop some of it")
        z = jnp.take(params.kernel, x, axis=0)
    else:
        z = masked_matmul(x, params.kernel, mask, compute_dtype)
    return z + jnp.broadcast_to(params.bias, z.shape)


def step(params: LSTMParams, state: LSTMState, z: Float[Array, "B Z"], mask: Array | None = None, compute_dtype=None) -> LSTMState:
    """One step from `state`, given this step's projected input `z`; `mask` is the recurrent dropout's, (B, H) or (4, B, H)."""
    z = z + masked_matmul(state.h, params.recurrent_kernel, mask, compute_dtype)
    i, f, g, o = jnp.split(z, GATES, axis=-1)
    c = jax.nn.sigmoid(f) * state.c + jax.nn.sigmoid(i) * jnp.tanh(g)
    return LSTMState(jax.nn.sigmoid(o) * jnp.tanh(c), c)
