"""The two forms of the GRU (gated recurrent unit, Cho et al. 2014), which compute the
same as the two forms of `keras.layers.GRU`.

The gates are u (update), r (reset) and n (new), in this order:

    u = sigmoid(x W_u + h U_u + b_u)
    r = sigmoid(x W_r + h U_r + b_r)
    h' = u h + (1 - u) n

The two forms differ in n. The reset gate r is applied either after or before h is
multiplied by U:

    reset after the product:   n = tanh(x W_n + b_n + r (h U_n + d_n))
    reset before the product:  n = tanh(x W_n + b_n + (r h) U_n)

`keras.layers.GRU`, `torch.nn.GRU` and cuDNN use the first form. In the first form each
of the three gates has a second bias d, which is added to h U. The equations of u and r
above leave it out. The paper and `keras.layers.GRU` with `reset_after=False` use the
second form.

Papers differ on whether h is multiplied by u or by 1 - u. Here h is multiplied by u, as
in Keras and PyTorch.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from jax import Array
from jax.nn import sigmoid

from lstm_jax.cells.activations import Activation
from lstm_jax.cells.cell import Cell, make_init, zero_bias
from lstm_jax.cells.products import (
    Gates,
    Mask,
    is_per_gate,
    masked,
    masked_matmul,
    matmul,
)
from lstm_jax.cells.simple_rnn import HiddenState, initial_state

GATES = 3
"""Number of gates of the GRU: update, reset and new."""


class GRUParams(NamedTuple):
    """Parameters of the GRU: kernel W (E, 3H), recurrent_kernel U (H, 3H), bias (3H,)
    and recurrent_bias (3H,), which is added to h U.

    The columns belong to the update gate u, the reset gate r and the candidate n, in
    this order.
    """

    kernel: Array
    recurrent_kernel: Array
    bias: Array
    recurrent_bias: Array


class ResetBeforeParams(NamedTuple):
    """Parameters of the GRU in the form of Keras' `reset_after=False`: kernel W (E,
    3H), recurrent_kernel U (H, 3H) and bias (3H,).

    The columns belong to the update gate u, the reset gate r and the candidate n, in
    this order.
    """

    kernel: Array
    recurrent_kernel: Array
    bias: Array


bias = zero_bias(GATES)
init_reset_before = make_init(ResetBeforeParams, GATES, bias)


def init(key: Array, features: int, units: int, dtype=jnp.float32) -> GRUParams:
    """Return the initial parameters of the GRU."""
    return GRUParams(
        *init_reset_before(key, features, units, dtype), bias(units, dtype)
    )


def gates(
    params: GRUParams,
    state: HiddenState,
    z: Gates,
    mask: Mask = None,
    compute_dtype=None,
    activation=jnp.tanh,
    recurrent_activation=sigmoid,
) -> dict[str, Array]:
    """Return the gates of one step of the GRU, in the order u, r, n; see `Cell.step`
    and `make_step`.
    """
    inner = masked_matmul(state.h, params.recurrent_kernel, mask, compute_dtype)
    inner = inner + jnp.broadcast_to(params.recurrent_bias, inner.shape)
    x_u, x_r, x_n = jnp.split(z, GATES, axis=-1)  # each (B, H)
    h_u, h_r, h_n = jnp.split(inner, GATES, axis=-1)
    u = recurrent_activation(x_u + h_u)
    r = recurrent_activation(x_r + h_r)
    n = activation(x_n + r * h_n)  # r after the product with U
    return {"update": u, "reset": r, "candidate": n}


def make_step(
    activation: Activation, recurrent_activation: Activation
) -> Callable[..., HiddenState]:
    """Return the function step(params, state, z, mask, compute_dtype) of the GRU."""

    def step(params, state, z, mask=None, compute_dtype=None):
        u, _, n = gates(
            params, state, z, mask, compute_dtype, activation, recurrent_activation
        ).values()
        return HiddenState(u * state.h + (1 - u) * n)  # (B, H)

    return step


def make_step_reset_before(
    activation: Activation, recurrent_activation: Activation
) -> Callable[..., HiddenState]:
    """Return the function step(params, state, z, mask, compute_dtype) of the GRU in the
    form of Keras' `reset_after=False`.
    """

    def step(params, state, z, mask=None, compute_dtype=None):
        mask_gates, mask_n = (mask[:2], mask[2]) if is_per_gate(mask) else (mask, mask)
        units = state.h.shape[-1]
        kernel_gates = params.recurrent_kernel[:, : 2 * units]
        kernel_n = params.recurrent_kernel[:, 2 * units :]
        x_u, x_r, x_n = jnp.split(z, GATES, axis=-1)  # each (B, H)

        inner = masked_matmul(state.h, kernel_gates, mask_gates, compute_dtype)
        h_u, h_r = jnp.split(inner, 2, axis=-1)
        u = recurrent_activation(x_u + h_u)
        r = recurrent_activation(x_r + h_r)

        kept = r * masked(state.h, mask_n)  # r before the product with U
        n = activation(x_n + matmul(kept, kernel_n, compute_dtype))
        return HiddenState(u * state.h + (1 - u) * n)  # (B, H)

    return step


CELL = Cell(
    "gru",
    GATES,
    GRUParams,
    init,
    bias,
    initial_state,
    make_step(jnp.tanh, sigmoid),
    make_step=make_step,
)
RESET_BEFORE = Cell(
    name="gru_reset_before",
    gates=GATES,
    params=ResetBeforeParams,
    init=init_reset_before,
    bias=bias,
    initial_state=initial_state,
    step=make_step_reset_before(jnp.tanh, sigmoid),
    make_step=make_step_reset_before,
)
