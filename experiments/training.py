"""A plain training loop for studies whose data or loss are not those of the library's tasks."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import lax

from lstm_jax.training.optimizers import keras_adam

STRETCH = 100
"""Updates in a compiled call."""


def fit(loss: Callable[[Any, Any], jax.Array], params: Any, batch: Callable[[Any], Any], updates: int, rate: float, clip: float = 1.0):
    """Keras' Adam on `loss(params, batch(number))` for so many updates, the gradient's norm at most `clip`.

    Returns:
        The parameters, and the mean loss of every `STRETCH` updates.
    """
    optimizer = optax.chain(optax.clip_by_global_norm(clip), keras_adam(rate))

    @partial(jax.jit, static_argnames="count")
    def train(carry, start, count):
        def step(carry, number):
            params, state = carry
            value, gradient = jax.value_and_grad(loss)(params, batch(number))
            changes, state = optimizer.update(gradient, state, params)
            return (optax.apply_updates(params, changes), state), value

        return lax.scan(step, carry, start + jnp.arange(count))

    carry, losses = (params, optimizer.init(params)), []
    for start in range(0, updates, STRETCH):
        carry, some = train(carry, start, min(STRETCH, updates - start))
        losses.append(float(some.mean()))
    return carry[0], losses
