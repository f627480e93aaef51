"""The simple recurrent network (Elman 1990), equal to `keras.layers.SimpleRNN` and
`torch.nn.RNN`.

h' = tanh(x W + h U + b)
"""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from jax import Array

from lstm_jax.cells.activations import Activation
from lstm_jax.cells.cell import Cell, make_init, zero_bias
from lstm_jax.cells.products import masked_matmul, zeros


class SimpleRNNParams(NamedTuple):
    """Parameters of the simple recurrent network: kernel W (E, H), recurrent_kernel U
    (H, H) and bias b (H,).
    """

    kernel: Array
    recurrent_kernel: Array
    bias: Array


class HiddenState(NamedTuple):
    """State of a cell that keeps only its output h, such as a GRU or a simple RNN. The
    shape of h is (batch size, number of units).
    """

    h: Array


bias = zero_bias(1)


def initial_state(batch: int, units: int, dtype=jnp.float32) -> HiddenState:
    """Return the initial state of a cell that keeps only its output h, zeros (batch,
    units).
    """
    return HiddenState(zeros(batch, units, dtype))


def make_step(
    activation: Activation, recurrent_activation: Activation | None = None
) -> Callable[..., HiddenState]:
    """Return the function step(params, state, z, mask, compute_dtype) of the simple
    RNN, which has no gates to activate.
    """

    def step(params, state, z, mask=None, compute_dtype=None):
        by_h = masked_matmul(state.h, params.recurrent_kernel, mask, compute_dtype)
        return HiddenState(activation(z + by_h))  # (B, H)

    return step


init = make_init(SimpleRNNParams, 1, bias)
CELL = Cell(
    "simple_rnn",
    1,
    SimpleRNNParams,
    init,
    bias,
    initial_state,
    make_step(jnp.tanh),
    make_step=make_step,
)
