"""The LSTM cell as pure functions (Hochreiter & Schmidhuber 1997 with the forget gate
of Gers et al. 2000).

    z = x W + h U + b, split into i, f, g, o
    c' = sigmoid(f) c + sigmoid(i) tanh(g)
    h' = sigmoid(o) tanh(c')

The bias of the forget gate is initialised to 1 (Jozefowicz et al. 2015), as in Keras.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from jax import Array
from jax.nn import sigmoid

from lstm_jax.base.types import GATES
from lstm_jax.cells import initializers
from lstm_jax.cells.activations import Activation
from lstm_jax.cells.cell import Cell, make_init
from lstm_jax.cells.products import Gates, Mask, masked_matmul, zeros


class LSTMParams(NamedTuple):
    """Parameters of the LSTM: kernel W (E, 4H), recurrent_kernel U (H, 4H) and bias b
    (4H,), with the gates in the order i, f, g, o.
    """

    kernel: Array
    recurrent_kernel: Array
    bias: Array


class LSTMState(NamedTuple):
    """State of the LSTM: the output h and the cell state c, each (batch size, number of
    units).
    """

    h: Array
    c: Array


bias = initializers.lstm_bias
init = make_init(LSTMParams, GATES, bias)


def initial_state(batch: int, units: int, dtype=jnp.float32) -> LSTMState:
    """Return the initial state of the LSTM: h and c, each zeros (batch, units)."""
    return LSTMState(zeros(batch, units, dtype), zeros(batch, units, dtype))


def preactivations(params, state, z: Gates, mask: Mask, compute_dtype) -> list[Array]:
    """Return the pre-activations of the gates i, f, g and o: the projected input z plus
    the product of h and the recurrent kernel.
    """
    by_h = masked_matmul(state.h, params.recurrent_kernel, mask, compute_dtype)
    return jnp.split(z + by_h, GATES, axis=-1)  # i, f, g, o, each (B, H)


def gates(
    params: LSTMParams,
    state: LSTMState,
    z: Gates,
    mask: Mask = None,
    compute_dtype=None,
    activation=jnp.tanh,
    recurrent_activation=sigmoid,
) -> dict[str, Array]:
    """Return the gates of one step of the LSTM, in the order i, f, g, o; see
    `Cell.step` and `make_step`.
    """
    i, f, g, o = preactivations(params, state, z, mask, compute_dtype)
    return {
        "input": recurrent_activation(i),
        "forget": recurrent_activation(f),
        "candidate": activation(g),
        "output": recurrent_activation(o),
    }


def make_step(
    activation: Activation,
    recurrent_activation: Activation,
    output_activation: Activation | None = None,
) -> Callable[..., LSTMState]:
    """Return the function step(params, state, z, mask, compute_dtype) of the LSTM. The
    cell state has `activation`, too, by default.
    """
    squash = output_activation or activation

    def step(params, state, z, mask=None, compute_dtype=None):
        i, f, g, o = gates(
            params, state, z, mask, compute_dtype, activation, recurrent_activation
        ).values()
        c = f * state.c + i * g  # (B, H)
        h = o * squash(c)  # (B, H)
        return LSTMState(h, c)

    return step


step = make_step(jnp.tanh, sigmoid)
CELL = Cell(
    "lstm", GATES, LSTMParams, init, bias, initial_state, step, make_step=make_step
)
