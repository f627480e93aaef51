"""The cells minGRU and minLSTM, whose gates do not depend on h (Feng et al. 2024, "Were RNNs all we needed?", sections 3.1 and 3.2).

    minGRU:   u = sigmoid(z_u);  h' = (1 - u) h + u z_n
    minLSTM:  f = sigmoid(z_f), i = sigmoid(z_i);  h' = (f h + i z_g) / (f + i)

Here h' is the output after the step, and z_u, z_n, z_f, z_i and z_g are the columns of the pre-activations z = x W + bias that belong to
one gate or candidate. Since z does not depend on h, it is computed for all T steps together. Each step then has the form h' = a h + b,
where a and b depend on z only. A parallel scan can therefore compute all steps in log2(T) rounds. E is the number of input features and H
the number of units.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from lstm_jax import initializers
from lstm_jax.cells.cell import zero_bias
from lstm_jax.cells.products import check_sizes
from lstm_jax.cells.simple_rnn import HiddenState


class MinParams(NamedTuple):
    """Parameters of minGRU or minLSTM: kernel (E, gates * H) and bias (gates * H,), for E input features and H units.

    Here the candidate counts as a gate. The columns of minGRU are those of the update gate u and the candidate n, in this order. The
    columns of minLSTM are those of the input gate i, the forget gate f and the candidate g, in this order.
    """

    kernel: jax.Array
    bias: jax.Array


def make_init(gates: int) -> Callable[..., MinParams]:
    """Return the function init(key, features, units, dtype) of minGRU or minLSTM, which draws the initial parameters."""

    def init(key: Array, features: int, units: int, dtype=jnp.float32) -> MinParams:
        check_sizes(features, units)
        return MinParams(initializers.glorot_uniform(key, (features, gates * units), dtype), zero_bias(gates)(units, dtype))

    return init


def linear_gru(z: Float[Array, "... Z"]) -> tuple[Array, Array]:
    """Return the arrays a and b, each (..., H) for H units, with which a step of minGRU changes the output h to a h + b, elementwise."""
    u, n = jnp.split(z, 2, axis=-1)
    u = jax.nn.sigmoid(u)
    return 1 - u, u * n


@jax.custom_jvp
def _share(log_ratio: jax.Array) -> jax.Array:
    return jax.nn.sigmoid(log_ratio)  # with a derivative that does not round to 0 for a large ratio


@_share.defjvp
def _share_jvp(primals: tuple[jax.Array], tangents: tuple[jax.Array]) -> tuple[jax.Array, jax.Array]:
    (log_ratio,), (change,) = primals, tangents
    share = _share(log_ratio)
    return share, share * _share(-log_ratio) * change


def linear_lstm(z: Float[Array, "... Z"]) -> tuple[Array, Array]:
    """Return the arrays a and b, each (..., H) for H units, with which a step of minLSTM changes the output h to a h + b, elementwise."""
    i, f, g = jnp.split(z, 3, axis=-1)
    log_ratio = jax.nn.log_sigmoid(f) - jax.nn.log_sigmoid(i)  # f / (f + i), accurate also where both gates are near 0
    return _share(log_ratio), _share(-log_ratio) * g


def make_step(linear: Callable[[Array], tuple[Array, Array]]) -> Callable[..., HiddenState]:
    """Return the function step(params, state, z, mask, compute_dtype) of minGRU or minLSTM."""

    def step(params: MinParams, state: HiddenState, z: Float[Array, "B Z"], mask: None = None, compute_dtype=None) -> HiddenState:
        a, b = linear(z)
        return HiddenState(a * state.h + b)

    return step
