"""The cells minGRU and minLSTM, whose gates do not depend on h (Feng et al. 2024, "Were
RNNs all we needed?", sections 3.1 and 3.2).

    minGRU:   u = sigmoid(z_u);  h' = (1 - u) h + u z_n
    minLSTM:  f = sigmoid(z_f), i = sigmoid(z_i);  h' = (f h + i z_g) / (f + i)

Here h' is the output after the step, and z_u, z_n, z_f, z_i and z_g are the columns of
the pre-activations z = x W + bias that belong to one gate or candidate. Since z does
not depend on h, it is computed for all T steps together. Each step then has the form h'
= a h + b, where a and b depend on z only. A parallel scan can therefore compute all
steps in log2(T) rounds. E is the number of input features and H the number of units.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.nn import log_sigmoid, sigmoid
from jaxtyping import Float

from lstm_jax.cells import initializers
from lstm_jax.cells.cell import Cell, zero_bias
from lstm_jax.cells.products import check_sizes
from lstm_jax.cells.simple_rnn import HiddenState, initial_state


class MinParams(NamedTuple):
    """Parameters of minGRU (gates u and n) or minLSTM (gates i, f and g): kernel (E,
    gates * H) and bias (gates * H,).
    """

    kernel: Array
    bias: Array


def linear_gru(z: Float[Array, "... Z"]) -> tuple[Array, Array]:
    """Return the arrays a and b, each (..., H) for H units, with which a step of minGRU
    changes the output h to a h + b, elementwise.
    """
    u, n = jnp.split(z, 2, axis=-1)
    u = sigmoid(u)
    return 1 - u, u * n  # h' = (1 - u) h + u n


@jax.custom_jvp
def share(log_ratio: Array) -> Array:
    """Return a / (a + b) from log(a / b), with a derivative that does not round to 0
    for a large ratio.
    """
    return sigmoid(log_ratio)


@share.defjvp
def _share_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    (log_ratio,), (change,) = primals, tangents
    part = share(log_ratio)
    return part, part * share(-log_ratio) * change


def linear_lstm(z: Float[Array, "... Z"]) -> tuple[Array, Array]:
    """Return the arrays a and b, each (..., H) for H units, with which a step of
    minLSTM changes the output h to a h + b, elementwise.
    """
    i, f, g = jnp.split(z, 3, axis=-1)
    # f / (f + i), accurate also where both gates are near 0
    log_ratio = log_sigmoid(f) - log_sigmoid(i)
    return share(log_ratio), share(-log_ratio) * g  # h' = (f h + i g) / (f + i)


def make_step(
    linear: Callable[[Array], tuple[Array, Array]],
) -> Callable[..., HiddenState]:
    """Return the function step(params, state, z, mask, compute_dtype) of a cell whose
    output after a step is a h + b, see `Cell.linear`.
    """

    def step(params, state, z, mask=None, compute_dtype=None):
        a, b = linear(z)
        return HiddenState(a * state.h + b)  # (B, H)

    return step


def _cell(
    name: str, gates: int, linear: Callable[[Array], tuple[Array, Array]]
) -> Cell:
    bias = zero_bias(gates)

    def init(key, features, units, dtype=jnp.float32):
        check_sizes(features, units)
        shape = (features, gates * units)
        kernel = initializers.glorot_uniform(key, shape, dtype)
        return MinParams(kernel, bias(units, dtype))

    return Cell(
        name,
        gates,
        MinParams,
        init,
        bias,
        initial_state,
        make_step(linear),
        linear=linear,
    )


CELLS = _cell("min_lstm", 3, linear_lstm), _cell("min_gru", 2, linear_gru)
