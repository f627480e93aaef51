"""The LSTM cell as pure functions (Hochreiter & Schmidhuber 1997 with the forget gate of Gers et al. 2000).

    z = x W + h U + b, split i, f, g, o;  c' = sigmoid(f) c + sigmoid(i) tanh(g);  h' = sigmoid(o) tanh(c')

Departs from the sources: no peepholes; the forget gate's bias starts at 1 (Jozefowicz et al. 2015), as in Keras.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from lstm_jax import initializers
from lstm_jax.cells.activations import Activation
from lstm_jax.cells.products import check_sizes, masked_matmul, zeros
from lstm_jax.shapes import GATES


class LSTMParams(NamedTuple):
    """Parameters: kernel (E, 4H), recurrent_kernel (H, 4H), bias (4H,), with gates in the order i, f, g, o."""

    kernel: jax.Array
    recurrent_kernel: jax.Array
    bias: jax.Array


class LSTMState(NamedTuple):
    """State: the output h (B, H) and the cell state c (B, H). It has names since libraries disagree on the order."""

    h: jax.Array
    c: jax.Array


bias = initializers.lstm_bias


def init(key: Array, features: int, units: int, dtype=jnp.float32, *, unit_forget_bias: bool = True) -> LSTMParams:
    """Return Keras' initial weights: glorot uniform, orthogonal, and a bias of zeros, with ones for the forget gate if `unit_forget_bias`.

    Raises:
        InputError: if `features` or `units` is below 1.
    """
    check_sizes(features, units)
    kernel_key, recurrent_key = jax.random.split(key)
    return LSTMParams(
        initializers.glorot_uniform(kernel_key, (features, GATES * units), dtype),
        initializers.orthogonal(recurrent_key, (units, GATES * units), dtype),
        initializers.lstm_bias(units, dtype, unit_forget_bias),
    )


def initial_state(batch: int, units: int, dtype=jnp.float32) -> LSTMState:
    """Return a state of zeros (B, H)."""
    return LSTMState(zeros(batch, units, dtype), zeros(batch, units, dtype))


def make_step(activation: Activation, recurrent_activation: Activation) -> Callable[..., LSTMState]:
    """Return step(params, state, z (B, 4H), mask, compute_dtype) with these functions for tanh and sigmoid.

    `mask` is that of recurrent dropout, (B, H) or (4, B, H).
    """

    def step(params: LSTMParams, state: LSTMState, z: Float[Array, "B Z"], mask: Array | None = None, compute_dtype=None) -> LSTMState:
        z = z + masked_matmul(state.h, params.recurrent_kernel, mask, compute_dtype)
        i, f, g, o = jnp.split(z, GATES, axis=-1)
        c = recurrent_activation(f) * state.c + recurrent_activation(i) * activation(g)
        return LSTMState(recurrent_activation(o) * activation(c), c)

    return step


step = make_step(jnp.tanh, jax.nn.sigmoid)
