"""minGRU and minLSTM (Feng et al. 2024, "Were RNNs all we needed?", sections 3.1 and 3.2), whose gates do not depend on h.

    minGRU:   u = sigmoid(z_u);  h' = (1 - u) h + u z_n
    minLSTM:  f = sigmoid(z_f), i = sigmoid(z_i);  h' = f / (f + i) h + i / (f + i) z_g

With z = x W + b known for all steps, h' = a h + b with known a and b, which a parallel scan computes in log2(T) rounds.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from lstm_jax import initializers
from lstm_jax.cells.products import check_sizes
from lstm_jax.cells.simple_rnn import HiddenState


class MinParams(NamedTuple):
    """Parameters: kernel (E, G H), bias (G H,); gates u, n of minGRU, and i, f, g of minLSTM."""

    kernel: jax.Array
    bias: jax.Array


def make_bias(gates: int) -> Callable[..., jax.Array]:
    """Return bias(units, dtype) -> zeros (G H,)."""
    return lambda units, dtype=jnp.float32: jnp.zeros((gates * units,), dtype)


def make_init(gates: int) -> Callable[..., MinParams]:
    """Return init(key, features, units, dtype) -> params with this number of gates."""

    def init(key: Array, features: int, units: int, dtype=jnp.float32) -> MinParams:
        check_sizes(features, units)
        return MinParams(initializers.glorot_uniform(key, (features, gates * units), dtype), make_bias(gates)(units, dtype))

    return init


def linear_gru(z: Float[Array, "... Z"]) -> tuple[Array, Array]:
    """Return a and b of h' = a h + b for minGRU, each (..., H)."""
    u, n = jnp.split(z, 2, axis=-1)
    u = jax.nn.sigmoid(u)
    return 1 - u, u * n


def linear_lstm(z: Float[Array, "... Z"]) -> tuple[Array, Array]:
    """Return a and b of h' = a h + b for minLSTM; f / (f + i) comes from a difference of logarithms, accurate where a gate is near 0."""
    i, f, g = jnp.split(z, 3, axis=-1)
    log_ratio = jax.nn.log_sigmoid(f) - jax.nn.log_sigmoid(i)
    return jax.nn.sigmoid(log_ratio), jax.nn.sigmoid(-log_ratio) * g


def make_step(linear: Callable[[Array], tuple[Array, Array]]) -> Callable[..., HiddenState]:
    """Return step(params, state, z, mask, compute_dtype); `mask` is None, since the cell has no recurrent product."""

    def step(params: MinParams, state: HiddenState, z: Float[Array, "B Z"], mask: None = None, compute_dtype=None) -> HiddenState:
        a, b = linear(z)
        return HiddenState(a * state.h + b)

    return step
