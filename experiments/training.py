"""Training loop for studies that define their own model, data and loss instead of using
a task of the library.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array, lax

from lstm_jax.cells import CELLS
from lstm_jax.cells.initializers import glorot_uniform
from lstm_jax.training.optimizers import clipped, keras_adam

CHUNK = 100
"""Number of parameter updates in one compiled call."""


class Params(NamedTuple):
    """Parameters of a recurrent cell, and the kernel and bias of a dense layer that
    follows it.
    """

    cell: Any
    kernel: Array
    bias: Array

    def dense(self, h: Array) -> Array:
        """Return the outputs of the dense layer for outputs h of the cell."""
        return h @ self.kernel + jnp.broadcast_to(
            self.bias, (*h.shape[:-1], len(self.bias))
        )


def initial(
    cell: str, keys: Sequence[Array], features: int, units: int, outputs: int
) -> Params:
    """Return random initial parameters. The two keys are those of the cell and of the
    dense layer.
    """
    kernel = glorot_uniform(keys[1], (units, outputs))
    return Params(
        CELLS[cell].init(keys[0], features, units), kernel, jnp.zeros((outputs,))
    )


def random_batches(
    key: Array, size: int, *arrays: Array
) -> Callable[[Any], tuple[Array, ...]]:
    """Return a function from the number of an update to a batch of random rows of the
    arrays.
    """

    def batch(number):
        rows = jax.random.randint(
            jax.random.fold_in(key, number), (size,), 0, len(arrays[0])
        )
        return tuple(array[rows] for array in arrays)

    return batch


def fit(
    loss: Callable[[Any, Any], Array],
    params,
    batch: Callable[[Any], Any],
    updates: int,
    rate: float,
    clip: float = 1.0,
):
    """Minimise a loss with gradient clipping and Keras' form of Adam, and return the
    trained parameters and the training losses.
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
