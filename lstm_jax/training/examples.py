"""Training examples on the device, and the order in which an epoch reads them.

The order is a table of example numbers (steps, B), with B examples in a batch. It is a random permutation with a new key for each epoch,
unless the examples define an order of their own.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp


class Order(NamedTuple):
    """Numbers of the examples that each step of an epoch reads."""

    rows: jax.Array
    """int32 (steps, B): numbers of the examples that each step reads."""
    weight: jax.Array
    """float32 (steps, B): weights that sum to 1 over B. Rows that only fill up the last batch have weight 0."""
    examples: jax.Array
    """float32 (steps,): number of examples of each step, not counting rows that only fill up the batch."""


def steps_per_epoch(count: int, batch_size: int) -> int:
    """Return the number of steps of an epoch over `count` examples; the last batch may be smaller, as in Keras' `fit`."""
    return -(-count // batch_size)


@partial(jax.jit, static_argnums=(1, 2))
def epoch_order(key: jax.Array, count: int, batch_size: int) -> Order:
    """Return a random permutation of `count` example numbers, cut into batches."""
    steps = steps_per_epoch(count, batch_size)
    spare = steps * batch_size - count
    rows = jnp.concatenate([jax.random.permutation(key, count), jnp.zeros(spare, jnp.int32)]).astype(jnp.int32)
    real = (jnp.arange(steps * batch_size) < count).astype(jnp.float32).reshape(steps, batch_size)
    counts = real.sum(1)
    return Order(rows.reshape(steps, batch_size), real / counts[:, None], counts)


def take_rows(arrays: Any, numbers: jax.Array) -> Any:
    """Return rows `numbers` (B,) of each array of a pytree."""
    return jax.tree.map(lambda rows: jnp.take(rows, numbers, axis=0, mode="clip"), arrays)


@dataclass(frozen=True)
class Examples:
    """Arrays that hold the examples, and functions that say how an epoch reads them."""

    arrays: Any
    """Pytree of arrays, which are copied to each device."""
    count: int
    """Number of examples in an epoch."""
    gather: Callable[[Any, jax.Array], Any] = take_rows
    """gather(arrays, numbers (B,)) -> batch of the examples with these numbers; it is compiled as part of the step."""
    order: Callable[[jax.Array, int, int], Order] = epoch_order
    """order(key of the epoch, count, batch size) -> Order of the epoch."""

    @staticmethod
    def of_rows(arrays: Any) -> "Examples":
        """Return examples in which example n is row n of each array; an epoch reads them in random order."""
        return Examples(arrays, jax.tree.leaves(arrays)[0].shape[0])
