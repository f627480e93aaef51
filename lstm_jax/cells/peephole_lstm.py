"""The LSTM whose gates see the memory (Gers & Schmidhuber 2000, as Graves 2013 writes it).

i = sigmoid(z_i + p_i c);  f = sigmoid(z_f + p_f c);  c' = f c + i tanh(z_g);  o = sigmoid(z_o + p_o c');  h' = o tanh(c')
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
    """kernel (E, 4H), recurrent_kernel (H, 4H), bias (4H,), peepholes (3H,): p_i, p_f, p_o side by side."""

    kernel: jax.Array
    recurrent_kernel: jax.Array
    bias: jax.Array
    peepholes: jax.Array


def init(key: Array, features: int, units: int, dtype=jnp.float32) -> PeepholeParams:
    """The LSTM's initial weights, peepholes of zero: it starts as an LSTM without.

    Raises:
        InputError: if `features` or `units` is below 1.
    """
    return PeepholeParams(*lstm.init(key, features, units, dtype), jnp.zeros((3 * units,), dtype))


def step(params: PeepholeParams, state: LSTMState, z: Float[Array, "B Z"], mask: Array | None = None, compute_dtype=None) -> LSTMState:
    """One step; `mask` is the recurrent dropout's, (B, H) or (4, B, H)."""
    z = z + masked_matmul(state.h, params.recurrent_kernel, mask, compute_dtype)
    i, f, g, o = jnp.split(z, GATES, axis=-1)
    p_i, p_f, p_o = (jnp.broadcast_to(p, i.shape) for p in jnp.split(params.peepholes, 3))
    c = jax.nn.sigmoid(f + p_f * state.c) * state.c + jax.nn.sigmoid(i + p_i * state.c) * jnp.tanh(g)
    return LSTMState(jax.nn.sigmoid(o + p_o * c) * jnp.tanh(c), c)
