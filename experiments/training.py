"""Training loop for studies whose data or loss differ from those of the library's tasks."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import lax

from lstm_jax.training.optimizers import clipped, keras_adam

CHUNK = 100
"""Number of updates in one compiled call."""


def fit(loss: Callable[[Any, Any], jax.Array], params: Any, batch: Callable[[Any], Any], updates: int, rate: float, clip: float = 1.0):
    """Minimize a loss with Keras' form of Adam.

    Args:
        loss: loss(params, batch) -> loss of one batch.
        params: initial parameters.
        batch: batch(number) -> batch of the update with that number; it is called under jit.
        updates: number of updates.
        rate: learning rate.
        clip: largest global norm of the gradient; a larger gradient is scaled down to it.

    Returns:
        The trained parameters, and the mean loss of each chunk of `CHUNK` updates.
    """
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
