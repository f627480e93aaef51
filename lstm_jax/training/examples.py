"""Training examples, the order in which an epoch reads them, and the sources that bring
them to the devices.

The order is an integer array (steps, B). Each row holds the indices of the B examples
in the batch of one training step. In each epoch the order is a new random permutation,
unless the examples define another order.
"""

import math
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.sharding import Mesh
from numpy import ndarray

from lstm_jax.base import processes, sharding
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


def order_of(xp, rows, count: int, first=0) -> Order:
    """Return the `Order` for the rows of some steps, of which only the first `count`
    are real. `xp` is `numpy` or `jax.numpy`, and `first` is the index of the first step
    in the epoch.
    """
    real = xp.arange(rows.size).reshape(rows.shape) < count
    real = real.astype(xp.float32)
    counts = real.sum(1)
    weight = real / counts[:, None]
    return Order(rows, weight, counts, first)


@partial(jax.jit, static_argnums=(1, 2))
def epoch_order(key: Array, count: int, batch_size: int) -> Order:
    """Return an `Order` that reads `count` examples in random order and in batches of
    `batch_size` examples.
    """
    steps = steps_per_epoch(count, batch_size)
    spare = jnp.zeros(steps * batch_size - count, jnp.int32)
    rows = jnp.concatenate([jax.random.permutation(key, count), spare])
    rows = rows.astype(jnp.int32).reshape(steps, batch_size)
    return order_of(jnp, rows, count)


def in_parts(order: Order) -> Plan:
    """Return the plan of an epoch whose whole order is known."""
    parts = [np.asarray(part) for part in order[:3]]

    def plan(first, stop):
        rows, weight, examples = (part[first:stop] for part in parts)
        return Order(rows, weight, examples, first)

    return plan


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
    `make_source` says how they reach the devices."""
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


FED_BYTES = 4 * 2**20
"""Target size, in bytes, of a group: the batches of consecutive steps that a process
places on its devices at once."""
FED_STEPS = 256
"""Largest number of steps in a group."""
AHEAD = 2
"""Number of groups that are read ahead."""
Group = tuple[int, Any, Order]
"""Consecutive steps of an epoch: the step before which they end, their examples, and
the order in which they read these."""


class OnDevices:
    """Source that places all examples on each device of a mesh."""

    waited = None
    """Seconds in which the training loop has waited for examples since the epoch began,
    or None if it never waits."""

    def __init__(self, examples: Examples, mesh: Mesh, batch_size: int):
        self.examples = examples
        self.batch_size = batch_size
        self.everywhere = sharding.replicated(mesh)
        self.arrays = sharding.put(examples.arrays, self.everywhere)
        self.gather = examples.gather

    def groups(self, key: Array, step: int) -> Iterator[Group]:
        """Read an epoch from `step` on, which is not 0 if a run is resumed within an
        epoch. `key` gives the order of the examples.
        """
        steps = steps_per_epoch(self.examples.count, self.batch_size)
        plan = self.examples.plan(key, self.examples.count, self.batch_size)
        yield steps, self.arrays, sharding.put(plan(0, steps), self.everywhere)


def take_batch(batches, number: Array):
    """Return the batch with the index `number` from a pytree of arrays (S, B, ...),
    which hold S batches of B examples each.
    """
    return jax.tree.map(
        lambda rows: lax.dynamic_index_in_dim(rows, number, keepdims=False), batches
    )


class FromHost:
    """Source that reads batches on the host, and places them on the devices of a mesh.

    The batches of several consecutive steps form a group, and all batches of a group
    are placed together. While the steps of a group run, a thread reads the next groups.
    Each process reads the rows of its own devices.
    """

    gather = staticmethod(take_batch)

    def __init__(self, examples: Examples, mesh: Mesh, batch_size: int):
        self.examples = examples
        self.mesh = mesh
        self.batch_size = batch_size
        self.steps = steps_per_epoch(examples.count, batch_size)
        self.rows = sharding.own_rows(mesh, batch_size)
        numbers = np.zeros(self.rows.stop - self.rows.start, np.int64)
        batch = jax.tree.leaves(examples.gather(examples.arrays, numbers))
        fitting = FED_BYTES // max(1, sum(leaf.nbytes for leaf in batch))
        size = max(1, min(FED_STEPS, self.steps, fitting))
        (self.size,) = processes.largest(size)

    def groups(self, key: Array, step: int) -> Iterator[Group]:
        plan = self.examples.plan(key, self.examples.count, self.batch_size)
        numbers = range(step // self.size, math.ceil(self.steps / self.size))
        self.waited = 0.0
        placed: deque[Group] = deque()
        with ThreadPoolExecutor(1) as reader:
            coming = deque(
                reader.submit(self._read, plan, number) for number in numbers[:AHEAD]
            )
            for number in numbers:
                if number + AHEAD in numbers:
                    coming.append(reader.submit(self._read, plan, number + AHEAD))
                began = time.perf_counter()
                batches, order = coming.popleft().result()
                self.waited += time.perf_counter() - began
                last = min(self.steps, (number + 1) * self.size)
                batches = sharding.from_own_rows(batches, self.mesh, 1)
                order = sharding.put(order, sharding.replicated(self.mesh))
                placed.append((last, batches, order))
                # the devices receive a group while the steps of the one before it run
                if len(placed) > 1:
                    yield placed.popleft()
        yield from placed

    def _read(self, plan: Plan, number: int) -> tuple:
        first = number * self.size
        order = plan(first, min(first + self.size, self.steps))
        # the last group repeats a step, so that all have one shape
        filled = np.minimum(np.arange(self.size), len(order.rows) - 1)
        rows, weight, counts = (part[filled] for part in order[:3])
        own = rows[:, self.rows]
        batches = self.examples.gather(self.examples.arrays, own.reshape(-1))
        batches = jax.tree.map(
            lambda array: np.asarray(array).reshape(*own.shape, *array.shape[1:]),
            batches,
        )
        numbers = np.arange(self.size, dtype=np.int32)
        return batches, Order(numbers, weight, counts, np.int32(first))


def make_source(
    examples: Examples, mesh: Mesh, batch_size: int
) -> OnDevices | FromHost:
    """Return a source of batches: `FromHost` if the examples are streamed or if there
    are several processes, else `OnDevices`.
    """
    kind = FromHost if examples.stream or processes.several() else OnDevices
    return kind(examples, mesh, batch_size)
