"""The LSTM with layer normalisation (Ba, Kiros & Hinton 2016, equations 20 to 22).

    z = a_x norm(x W) + a_h norm(h U) + b, split i, f, g, o
    c' = sigmoid(f) c + sigmoid(i) tanh(g);  h' = sigmoid(o) tanh(a_c norm(c') + b_c)

norm subtracts the mean and divides by the standard deviation over the last axis, for all four gates together. The paper's shifts of x W and
h U are added, so here they are one, b.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from lstm_jax.cells import lstm
from lstm_jax.cells.lstm import LSTMState
from lstm_jax.cells.products import masked_matmul, multiplied
from lstm_jax.shapes import GATES

EPSILON = 1e-5
"""Added to the variance."""


class LayerNormParams(NamedTuple):
    """Parameters: kernel (E, 4H), recurrent_kernel (H, 4H), bias, input_gain and recurrent_gain (4H,), memory_gain and memory_bias (H,)."""

    kernel: jax.Array
    recurrent_kernel: jax.Array
    bias: jax.Array
    input_gain: jax.Array
    recurrent_gain: jax.Array
    memory_gain: jax.Array
    memory_bias: jax.Array


def init(key: Array, features: int, units: int, dtype=jnp.float32) -> LayerNormParams:
    """Return the LSTM's initial weights, gains of one and shifts of zero.

    Raises:
        InputError: if `features` or `units` is below 1.
    """
    gates = jnp.ones((GATES * units,), dtype)
    return LayerNormParams(*lstm.init(key, features, units, dtype), gates, gates, jnp.ones((units,), dtype), jnp.zeros((units,), dtype))


def normalised(z: Float[Array, "... Z"], gain: Float[Array, "Z"]) -> Float[Array, "... Z"]:
    """Return gain * (z - mean) / standard deviation, over the last axis."""
    centred = z - z.mean(-1, keepdims=True)
    return centred * jax.lax.rsqrt((centred * centred).mean(-1, keepdims=True) + EPSILON) * jnp.broadcast_to(gain, z.shape)


def project(
    params: LayerNormParams, x: Float[Array, "T B E"] | Int[Array, "T B"], mask: Array | None = None, compute_dtype=None
) -> Float[Array, "T B Z"]:
    """Return the input's part of z for all steps, normalised: (T, B, 4H); ids as in `products.multiplied`."""
    z = normalised(multiplied(params.kernel, x, mask, compute_dtype), params.input_gain)
    return z + jnp.broadcast_to(params.bias, z.shape)


def step(params: LayerNormParams, state: LSTMState, z: Float[Array, "B Z"], mask: Array | None = None, compute_dtype=None) -> LSTMState:
    """Return the state after one step; `mask` is that of recurrent dropout, (B, H) or (4, B, H)."""
    z = z + normalised(masked_matmul(state.h, params.recurrent_kernel, mask, compute_dtype), params.recurrent_gain)
    i, f, g, o = jnp.split(z, GATES, axis=-1)
    c = jax.nn.sigmoid(f) * state.c + jax.nn.sigmoid(i) * jnp.tanh(g)
    shown = normalised(c, params.memory_gain) + jnp.broadcast_to(params.memory_bias, c.shape)
    return LSTMState(jax.nn.sigmoid(o) * jnp.tanh(shown), c)
