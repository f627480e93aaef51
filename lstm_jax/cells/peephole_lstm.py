"""The LSTM with peepholes, whose gates also read the cell state c (Gers & Schmidhuber 2000, in the form of Graves 2013).

    z = x W + h U + b, split into z_i, z_f, z_g, z_o
    i = sigmoid(z_i + p_i c);  f = sigmoid(z_f + p_f c);  c' = f c + i tanh(z_g);  o = sigmoid(z_o + p_o c');  h' = o tanh(c')

B is the batch size, E the number of input features and H the number of units.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from lstm_jax.cells import lstm
from lstm_jax.cells.lstm import LSTMState
from lstm_jax.cells.products import masked_matmul
from lstm_jax.shapes import GATES


class PeepholeParams(NamedTuple):
    """Parameters of the LSTM with peepholes: kernel (E, 4H), recurrent_kernel (H, 4H), bias (4H,) and peepholes (3H,).

    E is the number of input features and H the number of units. The columns of the kernels and the entries of the bias belong to the gates
    i, f, g, o, in this order. `peepholes` contains the weights of the cell state in the gates i, f and o, in this order.
    """

    kernel: jax.Array
    recurrent_kernel: jax.Array
    bias: jax.Array
    peepholes: jax.Array


def init(key: Array, features: int, units: int, dtype=jnp.float32) -> PeepholeParams:
    """Return the initial parameters of the LSTM with peepholes: those of an LSTM without peepholes, and peephole weights that are zero."""
    return PeepholeParams(*lstm.init(key, features, units, dtype), jnp.zeros((3 * units,), dtype))


def step(params: PeepholeParams, state: LSTMState, z: Float[Array, "B Z"], mask: Array | None = None, compute_dtype=None) -> LSTMState:
    """Return the state of the LSTM with peepholes after one step."""
    z = z + masked_matmul(state.h, params.recurrent_kernel, mask, compute_dtype)
    i, f, g, o = jnp.split(z, GATES, axis=-1)
    p_i, p_f, p_o = (jnp.broadcast_to(p, i.shape) for p in jnp.split(params.peepholes, 3))
    c = jax.nn.sigmoid(f + p_f * state.c) * state.c + jax.nn.sigmoid(i + p_i * state.c) * jnp.tanh(g)
    return LSTMState(jax.nn.sigmoid(o + p_o * c) * jnp.tanh(c), c)
