"""The gated recurrent unit (Cho et al. 2014) in its two forms, as `keras.layers.GRU`; gates u (update), r (reset), n (new) side by side.

    u = sigmoid(x W_u + h U_u + b_u);  r = sigmoid(x W_r + h U_r + b_r);  h' = u h + (1 - u) n

    reset after the product (`keras.layers.GRU`, `torch.nn.GRU`, cuDNN):  n = tanh(x W_n + b_n + r (h U_n + d_n)),  d a second bias
    reset before it (the paper; `reset_after=False`):                     n = tanh(x W_n + b_n + (r h) U_n)

The papers differ on which of u and 1 - u keeps h; this is Keras' and PyTorch's choice.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from lstm_jax import initializers
from lstm_jax.cells.activations import Activation
from lstm_jax.cells.products import check_sizes, masked_matmul, matmul, zeros
from lstm_jax.cells.simple_rnn import HiddenState

GATES = 3


class GRUParams(NamedTuple):
    """kernel (E, 3H), recurrent_kernel (H, 3H), bias (3H,), and recurrent_bias (3H,) that is added to h U."""

    kernel: jax.Array
    recurrent_kernel: jax.Array
    bias: jax.Array
    recurrent_bias: jax.Array


class ResetBeforeParams(NamedTuple):
    """kernel (E, 3H), recurrent_kernel (H, 3H), bias (3H,)."""

    kernel: jax.Array
    recurrent_kernel: jax.Array
    bias: jax.Array


def bias(units: int, dtype=jnp.float32) -> jax.Array:
    """Zeros (3H,)."""
    return jnp.zeros((GATES * units,), dtype)


def init_reset_before(key: Array, features: int, units: int, dtype=jnp.float32) -> ResetBeforeParams:
    """Keras' initial weights.

    Raises:
        InputError: if `features` or `units` is below 1.
    """
    check_sizes(features, units)
    kernel_key, recurrent_key = jax.random.split(key)
    return ResetBeforeParams(
        initializers.glorot_uniform(kernel_key, (features, GATES * units), dtype),
        initializers.orthogonal(recurrent_key, (units, GATES * units), dtype),
        bias(units, dtype),
    )


def init(key: Array, features: int, units: int, dtype=jnp.float32) -> GRUParams:
    """As `init_reset_before`."""
    return GRUParams(*init_reset_before(key, features, units, dtype), bias(units, dtype))


def initial_state(batch: int, units: int, dtype=jnp.float32) -> HiddenState:
    """Zeros (B, H)."""
    return HiddenState(zeros(batch, units, dtype))


def make_step(activation: Activation, recurrent_activation: Activation) -> Callable[..., HiddenState]:
    """step(params, state, z, mask, compute_dtype), reset after the product, with these in the places of tanh and sigmoid."""

    def step(params: GRUParams, state: HiddenState, z: Float[Array, "B Z"], mask: Array | None = None, compute_dtype=None) -> HiddenState:
        """One step, reset after the product; `mask` is the recurrent dropout's, (B, H) or (3, B, H)."""
        inner = masked_matmul(state.h, params.recurrent_kernel, mask, compute_dtype)
        inner = inner + jnp.broadcast_to(params.recurrent_bias, inner.shape)
        x_u, x_r, x_n = jnp.split(z, GATES, axis=-1)
        h_u, h_r, h_n = jnp.split(inner, GATES, axis=-1)
        u = recurrent_activation(x_u + h_u)
        n = activation(x_n + recurrent_activation(x_r + h_r) * h_n)
        return HiddenState(u * state.h + (1 - u) * n)

    return step


def make_step_reset_before(activation: Activation, recurrent_activation: Activation) -> Callable[..., HiddenState]:
    """Like `make_step`, but reset before the product."""

    def step(
        params: ResetBeforeParams, state: HiddenState, z: Float[Array, "B Z"], mask: Array | None = None, compute_dtype=None
    ) -> HiddenState:
        """One step, reset before the product; `mask` is the recurrent dropout's, (B, H) or (3, B, H)."""
        gates, of_new = (mask, mask) if mask is None or mask.ndim == 2 else (mask[:2], mask[2])
        both, kernel = jnp.split(params.recurrent_kernel, [2 * state.h.shape[-1]], axis=-1)
        x_u, x_r, x_n = jnp.split(z, GATES, axis=-1)
        h_u, h_r = jnp.split(masked_matmul(state.h, both, gates, compute_dtype), 2, axis=-1)
        u, r = recurrent_activation(x_u + h_u), recurrent_activation(x_r + h_r)
        kept = state.h if of_new is None else state.h * of_new
        n = activation(x_n + matmul(r * kept, kernel, compute_dtype))
        return HiddenState(u * state.h + (1 - u) * n)

    return step


step = make_step(jnp.tanh, jax.nn.sigmoid)
step_reset_before = make_step_reset_before(jnp.tanh, jax.nn.sigmoid)
