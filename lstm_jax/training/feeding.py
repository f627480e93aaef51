"""Sources of batches: two methods to bring the training examples to the devices.

`OnDevices` places all examples on each device, where a training step selects its batch.
`FromHost` keeps the examples in host memory or in mapped files. While some steps run,
it places the batches of the next few steps on the devices. With `FromHost`, each
process of a run reads only the rows of its own devices.
"""

import math
import time
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from jax import Array, lax
from jax.sharding import Mesh

from lstm_jax.base import processes, sharding
from lstm_jax.training.examples import Examples, Order, Plan, steps_per_epoch

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
        self.examples, self.batch_size, self.everywhere = (
            examples,
            batch_size,
            sharding.replicated(mesh),
        )
        self.arrays, self.gather = (
            sharding.put(examples.arrays, self.everywhere),
            examples.gather,
        )

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
    are placed together. While the steps of a group run, a thread of the library Grain
    reads the next groups. Each process reads the rows of its own devices.
    """

    gather = staticmethod(take_batch)

    def __init__(self, examples: Examples, mesh: Mesh, batch_size: int):
        self.examples, self.mesh, self.batch_size = examples, mesh, batch_size
        self.steps = steps_per_epoch(examples.count, batch_size)
        self.rows = sharding.own_rows(mesh, batch_size)
        batch = jax.tree.leaves(
            examples.gather(
                examples.arrays, np.zeros(self.rows.stop - self.rows.start, np.int64)
            )
        )
        size = max(
            1,
            min(
                FED_STEPS,
                self.steps,
                FED_BYTES // max(1, sum(leaf.nbytes for leaf in batch)),
            ),
        )
        (self.size,) = processes.largest(size)

    def groups(self, key: Array, step: int) -> Iterator[Group]:
        import grain

        plan = self.examples.plan(key, self.examples.count, self.batch_size)
        numbers = range(step // self.size, math.ceil(self.steps / self.size))
        read = grain.MapDataset.range(numbers.start, numbers.stop).map(
            lambda number: self._read(plan, number)
        )
        found, self.waited = (
            iter(
                read.to_iter_dataset(
                    grain.ReadOptions(num_threads=1, prefetch_buffer_size=AHEAD)
                )
            ),
            0.0,
        )
        placed: list[Group] = []
        for number in numbers:
            began = time.perf_counter()
            batches, order = next(found)
            self.waited += time.perf_counter() - began
            order = sharding.put(order, sharding.replicated(self.mesh))
            placed.append(
                (
                    min(self.steps, (number + 1) * self.size),
                    sharding.from_own_rows(batches, self.mesh, 1),
                    order,
                )
            )
            # the devices receive a group while the steps of the one before it run
            if len(placed) > 1:
                yield placed.pop(0)
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
        return batches, Order(
            np.arange(self.size, dtype=np.int32), weight, counts, np.int32(first)
        )


def make_source(
    examples: Examples, mesh: Mesh, batch_size: int
) -> OnDevices | FromHost:
    """Return a source of batches: `FromHost` if the examples are streamed or if there
    are several processes, else `OnDevices`.
    """
    kind = FromHost if examples.stream or processes.several() else OnDevices
    return kind(examples, mesh, batch_size)
