"""Keras' default initial weights (Keras 3: `keras.initializers`), as functions of (key, shape, dtype).

Source of the formulas: Glorot & Bengio 2010 (uniform with limit sqrt(6 / (fan_in + fan_out))), Saxe et al. 2014 (orthogonal),
Jozefowicz et al. 2015 (forget bias 1).
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from lstm_jax.shapes import GATES

Initializer = Callable[..., jax.Array]

glorot_uniform: Initializer = jax.nn.initializers.glorot_uniform()
zeros: Initializer = jax.nn.initializers.zeros


def orthogonal(key: jax.Array, shape: tuple[int, ...], dtype=jnp.float32) -> jax.Array:
    """Orthonormal rows or columns, whichever are fewer; drawn in float32 where `dtype` is shorter, since QR needs it."""
    drawn_in = jnp.float32 if jnp.dtype(dtype).itemsize < 4 else dtype
    return jax.nn.initializers.orthogonal()(key, shape, drawn_in).astype(dtype)


def uniform_embedding(key: jax.Array, shape: tuple[int, ...], dtype=jnp.float32) -> jax.Array:
    """Uniform in [-0.05, 0.05), as Keras' `Embedding`."""
    return jax.random.uniform(key, shape, dtype, -0.05, 0.05)


def lstm_bias(units: int, dtype=jnp.float32, unit_forget_bias: bool = True) -> jax.Array:
    """(4 * units,) zeros, with ones in the forget gate's part if `unit_forget_bias`."""
    bias = jnp.zeros((GATES, units), dtype)
    return (bias.at[1].set(1) if unit_forget_bias else bias).reshape(-1)
