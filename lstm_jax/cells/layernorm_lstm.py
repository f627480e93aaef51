"""The LSTM with layer normalisation (Ba, Kiros & Hinton 2016, equations 20 to 22).

    z = a_x norm(x W) + a_h norm(h U) + b, split into i, f, g, o
    c' = sigmoid(f) c + sigmoid(i) tanh(g);  h' = sigmoid(o) tanh(a_c norm(c') + b_c)

norm subtracts the mean over the last axis and divides by the standard deviation, both taken over all four gates together. The paper adds
one shift to norm(x W) and another to norm(h U); here their sum is the single parameter b.

B is the batch size, T the number of steps, E the number of input features and H the number of units.
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
"""Number that is added to the variance, so that the division is defined for a variance of 0."""


class LayerNormParams(NamedTuple):
    """Parameters of the LSTM with layer normalisation; the equations of the module use the letters in brackets.

    They are kernel [W] (E, 4H), recurrent_kernel [U] (H, 4H), bias [b] (4H,), input_gain [a_x] (4H,), recurrent_gain [a_h] (4H,),
    memory_gain [a_c] (H,) and memory_bias [b_c] (H,).
    """

    kernel: jax.Array
    recurrent_kernel: jax.Array
    bias: jax.Array
    input_gain: jax.Array
    recurrent_gain: jax.Array
    memory_gain: jax.Array
    memory_bias: jax.Array


def init(key: Array, features: int, units: int, dtype=jnp.float32) -> LayerNormParams:
    """Return initial parameters: those of the LSTM, gains of one and a memory bias of zero.

    Raises:
        InputError: if `features` or `units` is below 1.
    """
    gates = jnp.ones((GATES * units,), dtype)
    return LayerNormParams(*lstm.init(key, features, units, dtype), gates, gates, jnp.ones((units,), dtype), jnp.zeros((units,), dtype))


def normalised(z: Float[Array, "... Z"], gain: Float[Array, "Z"]) -> Float[Array, "... Z"]:
    """Return gain * (z - mean) / standard deviation, with the mean and the standard deviation over the last axis."""
    centred = z - z.mean(-1, keepdims=True)
    return centred * jax.lax.rsqrt((centred * centred).mean(-1, keepdims=True) + EPSILON) * jnp.broadcast_to(gain, z.shape)


def project(
    params: LayerNormParams, x: Float[Array, "T B E"] | Int[Array, "T B"], mask: Array | None = None, compute_dtype=None
) -> Float[Array, "T B Z"]:
    """Return a_x norm(x W) + b for all steps, (T, B, 4H); see `Cell.project`.

    x may also be int ids (T, B), as in `products.multiplied`.
    """
    z = normalised(multiplied(params.kernel, x, mask, compute_dtype), params.input_gain)
    return z + jnp.broadcast_to(params.bias, z.shape)


def step(params: LayerNormParams, state: LSTMState, z: Float[Array, "B Z"], mask: Array | None = None, compute_dtype=None) -> LSTMState:
    """Return the state after one step; see `Cell.step`. `mask` is the mask of recurrent dropout, (B, H) or one per gate (4, B, H)."""
    z = z + normalised(masked_matmul(state.h, params.recurrent_kernel, mask, compute_dtype), params.recurrent_gain)
    i, f, g, o = jnp.split(z, GATES, axis=-1)
    c = jax.nn.sigmoid(f) * state.c + jax.nn.sigmoid(i) * jnp.tanh(g)
    shown = normalised(c, params.memory_gain) + jnp.broadcast_to(params.memory_bias, c.shape)
    return LSTMState(jax.nn.sigmoid(o) * jnp.tanh(shown), c)
