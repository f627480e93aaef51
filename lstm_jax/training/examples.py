"""Training examples, and the order in which an epoch reads them.

The order is an integer array (steps, B). Each row holds the indices of the B examples
in the batch of one training step. In each epoch the order is a new random permutation,
unless the examples define another order.
"""

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from numpy import ndarray

from lstm_jax.base.checks import frozen

AnyArray = Array | ndarray


class Order(NamedTuple):
    """Order in which an epoch reads the training examples."""

    rows: AnyArray
    """int32 (steps, B): indices of the B examples in the batch of each step."""
    weight: AnyArray
    """float32 (steps, B): weight of each example in its batch. Examples that only fill
    up the last batch have weight 0.

    The weights of a batch sum to 1, unless the examples are rows of packed reviews. The
    weight of such a row is the weight of each single review in it, not the sum over its
    reviews; see `tasks.review_rows`.
    """
    examples: AnyArray
    """float32 (steps,): number of examples in each batch, without those that only fill
    up the batch. If examples are rows of packed reviews, it is the number of reviews.
    """
    first: Any = 0
    """Index in the epoch of the step to which the first row of each array belongs. It
    is 0 if the arrays hold all steps of the epoch."""


Plan = Callable[[int, int], Order]
"""Function from the two ints `first` and `stop` to the `Order` of the steps first ..
stop - 1 of an epoch, as NumPy arrays."""
Gather = Callable[[Any, Any], Any]
"""Function gather(arrays, numbers) that returns the batch of the examples with the
indices `numbers` (B,)."""


def steps_per_epoch(count: int, batch_size: int) -> int:
    """Return the number of steps in an epoch over `count` examples."""
    return -(-count // batch_size)


def _order(xp, rows, count: int, first=0) -> Order:
    """Return the `Order` for the rows of some steps, of which only the first `count`
    are real. `xp` is `numpy` or `jax.numpy`.
    """
    real = (xp.arange(rows.size) < count).astype(xp.float32).reshape(rows.shape)
    counts = real.sum(1)
    return Order(rows, real / counts[:, None], counts, first)


@partial(jax.jit, static_argnums=(1, 2))
def epoch_order(key: Array, count: int, batch_size: int) -> Order:
    """Return an `Order` that reads `count` examples in random order and in batches of
    `batch_size` examples.
    """
    steps = steps_per_epoch(count, batch_size)
    spare = steps * batch_size - count
    rows = jnp.concatenate(
        [jax.random.permutation(key, count), jnp.zeros(spare, jnp.int32)]
    ).astype(jnp.int32)
    return _order(jnp, rows.reshape(steps, batch_size), count)


def in_parts(order: Order) -> Plan:
    """Return the plan of an epoch whose whole order is known."""
    rows, weight, examples = (np.asarray(part) for part in order[:3])
    return lambda first, stop: Order(
        rows[first:stop], weight[first:stop], examples[first:stop], first
    )


def permuted(key: Array, count: int, batch_size: int) -> Plan:
    """Return the plan of an epoch that reads `count` examples in random order."""
    return in_parts(epoch_order(key, count, batch_size))


def take_rows(arrays, numbers) -> Any:
    """Select the rows with the indices `numbers` (B,) from each array of a pytree, and
    return the pytree of the selected rows.
    """
    return jax.tree.map(lambda rows: rows.take(numbers, axis=0, mode="clip"), arrays)


@frozen
class Examples:
    """Training examples: arrays that hold the examples, and functions that select
    batches and determine their order.

    The function `gather` returns a batch of examples. The function `plan` returns the
    order in which an epoch reads the examples.
    """

    arrays: Any
    """Pytree of NumPy arrays that hold the examples. They may be memory-mapped files.
    `feeding` says how they reach the devices."""
    count: int
    """Number of examples in an epoch."""
    gather: Gather = take_rows
    """If the examples are on the devices, it is compiled as a part of the training
    step. If the batches are read on the host, it is called with NumPy arrays."""
    plan: Callable[[Array, int, int], Plan] = permuted
    """Function plan(key, count, batch size) that returns the `Plan` of an epoch. The
    random key differs from epoch to epoch."""
    stream: bool = False
    """Whether the examples stay on the host, because they may be larger than the memory
    of a device or of the host."""

    @staticmethod
    def of_rows(arrays) -> "Examples":
        """Return training examples in which example n is row n of each array in the
        pytree `arrays`.
        """
        return Examples(arrays, jax.tree.leaves(arrays)[0].shape[0])


BLOCK = 256
"""Number of consecutive examples in a block; see `shuffled`."""
WINDOW = 256
"""Number of shuffled blocks in a window, whose examples are permuted together; see
`shuffled`."""


def shuffled(key: Array, count: int, batch_size: int) -> Plan:
    """Return a function that computes any part of a random order of `count` examples,
    for an order that is too large for the memory.
    """
    import grain

    seed = jax.random.key_data(key).ravel().tolist()
    blocks, size = count // BLOCK, BLOCK * WINDOW
    windows = max(1, -(-blocks // WINDOW))

    @lru_cache(2)
    def window(number):
        """Return the indices of the examples in the window with the index `number`,
        permuted.
        """
        places = range(number * WINDOW, min((number + 1) * WINDOW, blocks))
        chosen = (
            [
                grain.experimental.index_shuffle(place, blocks - 1, seed[-1], 4)
                for place in places
            ]
            if blocks > 1
            else places
        )
        examples = (
            np.asarray(chosen, np.int64)[:, None] * BLOCK + np.arange(BLOCK)
        ).reshape(-1)
        if number == windows - 1:
            examples = np.concatenate([examples, np.arange(blocks * BLOCK, count)])
        return np.random.default_rng([*seed, number]).permutation(examples)

    def plan(first, stop):
        begin, end = first * batch_size, min(stop * batch_size, count)
        low, high = (min(place // size, windows - 1) for place in (begin, end - 1))
        read = np.concatenate([window(number) for number in range(low, high + 1)])[
            begin - low * size : end - low * size
        ]
        rows = np.zeros((stop - first, batch_size), np.int64)
        rows.flat[: len(read)] = read
        return _order(np, rows, len(read), first)

    return plan


def streams(key: Array, count: int, batch_size: int, length: int) -> Plan:
    """Return a function that gives the order in which a text is read in parallel
    streams; see `data.stream_chunks`.
    """
    steps, shift = count // batch_size, int(jax.random.randint(key, (), 0, length))

    def plan(first, stop):
        chunks = (
            np.arange(batch_size, dtype=np.int64) * steps
            + np.arange(first, stop, dtype=np.int64)[:, None]
        )
        return _order(np, chunks * length + shift, chunks.size, first)

    return plan
