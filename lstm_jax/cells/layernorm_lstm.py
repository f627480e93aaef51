"""The LSTM with layer normalisation (Ba, Kiros & Hinton 2016, equations 20 to 22).

    z = a_x norm(x W) + a_h norm(h U) + b, split into i, f, g, o
    c' = sigmoid(f) c + sigmoid(i) tanh(g);  h' = sigmoid(o) tanh(a_c norm(c') + b_c)

The kernels W and U, the gains a_x, a_h and a_c, and the biases b and b_c are
parameters. The function norm subtracts the mean over the last axis and divides by the
standard deviation over this axis. In x W and h U the last axis contains all four gates.
The paper adds one bias to norm(x W) and another bias to norm(h U). Here b is the sum of
both.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array
from jax.lax import rsqrt
from jax.nn import sigmoid
from jaxtyping import Float

from lstm_jax.base.types import GATES
from lstm_jax.cells import lstm
from lstm_jax.cells.cell import Cell
from lstm_jax.cells.lstm import LSTMState
from lstm_jax.cells.products import (
    Gates,
    Mask,
    Projected,
    Steps,
    masked_matmul,
    multiplied,
)

EPSILON = 1e-5
"""Number that is added to the variance, so that a variance of 0 causes no division by
zero."""


class LayerNormParams(NamedTuple):
    """Parameters of the LSTM with layer normalisation. An axis of size 4H contains the
    gates i, f, g, o, in this order.

    Attributes:
        kernel: kernel W (E, 4H).
        recurrent_kernel: recurrent kernel U (H, 4H).
        bias: bias b (4H,) of the gates.
        input_gain: factor a_x (4H,) of the normalised x W.
        recurrent_gain: factor a_h (4H,) of the normalised h U.
        memory_gain: factor a_c (H,) of the normalised cell state.
        memory_bias: bias b_c (H,) of the normalised cell state.
    """

    kernel: Array
    recurrent_kernel: Array
    bias: Array
    input_gain: Array
    recurrent_gain: Array
    memory_gain: Array
    memory_bias: Array


def init(key: Array, features: int, units: int, dtype=jnp.float32) -> LayerNormParams:
    """Return the initial parameters of the LSTM with layer normalisation."""
    return LayerNormParams(
        *lstm.init(key, features, units, dtype),
        # two arrays: a buffer can be donated only once
        input_gain=jnp.ones((GATES * units,), dtype),
        recurrent_gain=jnp.ones((GATES * units,), dtype),
        memory_gain=jnp.ones((units,), dtype),
        memory_bias=jnp.zeros((units,), dtype),
    )


def normalised(
    z: Float[Array, "... Z"], gain: Float[Array, "Z"]
) -> Float[Array, "... Z"]:
    """Normalise z over its last axis, multiply it by a gain, and return the result."""
    centred = z - z.mean(-1, keepdims=True)
    variance = (centred * centred).mean(-1, keepdims=True)
    return centred * rsqrt(variance + EPSILON) * jnp.broadcast_to(gain, z.shape)


def project(
    params: LayerNormParams, x: Steps, mask: Mask = None, compute_dtype=None
) -> Projected:
    """Return the normalised projection of the inputs of all steps, z = input_gain *
    norm(x W) + bias, with the shape (T, B, 4H).
    """
    by_x = multiplied(params.kernel, x, mask, compute_dtype)  # x W
    z = normalised(by_x, params.input_gain)
    return z + jnp.broadcast_to(params.bias, z.shape)


def step(
    params: LayerNormParams,
    state: LSTMState,
    z: Gates,
    mask: Mask = None,
    compute_dtype=None,
) -> LSTMState:
    """Return the state of the LSTM with layer normalisation after one step. B is the
    batch size and H the number of units.
    """
    by_h = masked_matmul(state.h, params.recurrent_kernel, mask, compute_dtype)  # h U
    z = z + normalised(by_h, params.recurrent_gain)
    i, f, g, o = jnp.split(z, GATES, axis=-1)
    c = sigmoid(f) * state.c + sigmoid(i) * jnp.tanh(g)  # (B, H)

    shown = normalised(c, params.memory_gain)
    shown = shown + jnp.broadcast_to(params.memory_bias, c.shape)
    h = sigmoid(o) * jnp.tanh(shown)  # (B, H)
    return LSTMState(h, c)


CELL = Cell(
    "lstm_layernorm",
    GATES,
    LayerNormParams,
    init,
    lstm.bias,
    lstm.initial_state,
    step,
    project,
    takes_ids=True,
)
