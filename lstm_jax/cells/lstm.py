"""The LSTM cell as pure functions (Hochreiter & Schmidhuber 1997 with the forget gate of Gers et al. 2000).

    z = x W + h U + b, split i, f, g, o;  c' = sigmoid(f) c + sigmoid(i) tanh(g);  h' = sigmoid(o) tanh(c')

Departs from the sources: no peepholes; the forget gate's bias starts at 1 (Jozefowicz et al. 2015), as Keras has it.
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
    """kernel (E, 4H), recurrent_kernel (H, 4H), bias (4H,); gates i, f, g, o side by side."""

    kernel: jax.Array
    recurrent_kernel: jax.Array
    bias: jax.Array


class LSTMState(NamedTuple):
    """h (B, H): the output; c (B, H): the memory. Named, since libraries disagree on the order."""

    h: jax.Array
    c: jax.Array


bias = initializers.lstm_bias


def init(key: Array, features: int, units: int, dtype=jnp.float32, *, unit_forget_bias: bool = True) -> LSTMParams:
    """Keras' initial weights.

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
    """Zeros (B, H)."""
    return LSTMState(zeros(batch, units, dtype), zeros(batch, units, dtype))


def make_step(activation: Activation, recurrent_activation: Activation) -> Callable[..., LSTMState]:
    """step(params, state, z, mask, compute_dtype) with `activation` in the place of tanh, and the other in that of sigmoid."""

    def step(params: LSTMParams, state: LSTMState, z: Float[Array, "B Z"], mask: Array | None = None, compute_dtype=None) -> LSTMState:
        """One step from `state`, given this step's projected input `z`; `mask` is the recurrent dropout's, (B, H) or (4, B, H)."""
        z = z + masked_matmul(state.h, params.recurrent_kernel, mask, compute_dtype)
        i, f, g, o = jnp.split(z, GATES, axis=-1)
        c = recurrent_activation(f) * state.c + recurrent_activation(i) * activation(g)
        return LSTMState(recurrent_activation(o) * activation(c), c)

    return step


step = make_step(jnp.tanh, jax.nn.sigmoid)
