"""Random order of more examples than an order in memory can hold."""

from functools import lru_cache

import jax
import numpy as np
from jax import Array

from lstm_jax.training.examples import Plan, order_of

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
        return order_of(np, rows, len(read), first)

    return plan
