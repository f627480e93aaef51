"""Training loop for studies that define their own model, data and loss instead of using a task of the library."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import lax

from lstm_jax.training.optimizers import clipped, keras_adam

CHUNK = 100
"""Number of parameter updates in one compiled call."""


def fit(loss: Callable[[Any, Any], jax.Array], params: Any, batch: Callable[[Any], Any], updates: int, rate: float, clip: float = 1.0):
    """Minimise a loss with gradient clipping and Keras' form of Adam, and return the trained parameters and the training losses."""
    optimizer = clipped(keras_adam(rate), clip)

    @partial(jax.jit, static_argnames="count")
    def train(carry, start, count):
        def step(carry, number):
            params, state = carry
            value, gradient = jax.value_and_grad(loss)(params, batch(number))
            changes, state = optimizer.update(gradient, state, params)
            return (optax.apply_updates(params, changes), state), value

        return lax.scan(step, carry, start + jnp.arange(count))

    carry, losses = (params, optimizer.init(params)), []
    for start in range(0, updates, CHUNK):
        carry, chunk_losses = train(carry, start, min(CHUNK, updates - start))
        losses.append(float(chunk_losses.mean()))
    return carry[0], losses
