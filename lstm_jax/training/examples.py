"""Training examples on the device, and the order in which an epoch reads them.

An epoch is a table of example numbers (steps, batch): a permutation drawn from `fold_in(key, epoch)`, unless the examples have an order of
their own.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp


class Order(NamedTuple):
    """Examples of every step of an epoch."""

    rows: jax.Array
    """int32 (steps, B): numbers of the examples that each step reads."""
    weight: jax.Array
    """float32 (steps, B): weights that sum to 1 over B; 0 for rows that only fill up the last batch."""
    examples: jax.Array
    """float32 (steps,): examples of each step without those that fill it up."""


def steps_per_epoch(count: int, batch_size: int) -> int:
    """Return the steps of an epoch over `count` rows; the last one may be short, as in Keras' `fit`."""
    return -(-count // batch_size)


@partial(jax.jit, static_argnums=(1, 2))
def epoch_order(key: jax.Array, count: int, batch_size: int) -> Order:
    """Return a random permutation of `count` rows, cut into batches."""
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
    """Arrays that an epoch reads, and how it reads them."""

    arrays: Any
    """Pytree of arrays, copied to each device."""
    count: int
    """Examples in an epoch."""
    gather: Callable[[Any, jax.Array], Any] = take_rows
    """gather(arrays, numbers (B,)) -> batch, compiled into the step."""
    order: Callable[[jax.Array, int, int], Order] = epoch_order
    """order(key of the epoch, count, batch size) -> Order."""

    @staticmethod
    def of_rows(arrays: Any) -> "Examples":
        """Return examples of which number n is row n of each array; an epoch is a permutation of them."""
        return Examples(arrays, jax.tree.leaves(arrays)[0].shape[0])
