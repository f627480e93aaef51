"""Orders in which the examples of an epoch are read, computed for a few steps at a time.

The order of a whole epoch may be too large for the memory, if the examples are in files that are larger than the memory.
"""

from functools import lru_cache

import jax
import numpy as np

from lstm_jax.training.examples import Order, Plan

BLOCK = 256
"""Number of consecutive examples in a block; see `shuffled`."""
WINDOW = 256
"""Number of shuffled blocks in a window, whose examples are permuted together; see `shuffled`."""


def shuffled(key: jax.Array, count: int, batch_size: int) -> Plan:
    """Return a function that computes any part of a random order of `count` examples."""
    import grain

    seed = [int(word) for word in np.asarray(jax.random.key_data(key)).reshape(-1)]
    blocks, size = count // BLOCK, BLOCK * WINDOW
    windows = max(1, -(-blocks // WINDOW))

    @lru_cache(2)
    def window(number: int) -> np.ndarray:
        """Return the indices of the examples in the window with the index `number`, permuted."""
        places = range(number * WINDOW, min((number + 1) * WINDOW, blocks))
        chosen = [grain.experimental.index_shuffle(place, blocks - 1, seed[-1], 4) for place in places] if blocks > 1 else list(places)
        examples = (np.asarray(chosen, np.int64)[:, None] * BLOCK + np.arange(BLOCK)).reshape(-1)
        if number == windows - 1:
            examples = np.concatenate([examples, np.arange(blocks * BLOCK, count)])
        return np.random.default_rng([*seed, number]).permutation(examples)

    def numbers(first: int, stop: int) -> np.ndarray:
        """Return the indices of the examples at the positions first .. stop - 1 of the order."""
        parts = []
        for number in range(min(first // size, windows - 1), windows):
            begin = number * size
            part = window(number)
            parts.append(part[max(0, first - begin) : max(0, stop - begin)])
            if stop <= begin + len(part):
                break
        return np.concatenate(parts)

    def plan(first: int, stop: int) -> Order:
        rows = numbers(first * batch_size, min(stop * batch_size, count))
        spare = (stop - first) * batch_size - len(rows)
        real = (np.arange((stop - first) * batch_size) < len(rows)).astype(np.float32).reshape(-1, batch_size)
        counts = real.sum(1)
        filled = np.concatenate([rows, np.zeros(spare, rows.dtype)]).reshape(-1, batch_size)
        return Order(filled, real / counts[:, None], counts, first)

    return plan


def streams(key: jax.Array, count: int, batch_size: int, length: int) -> Plan:
    """Return a function that gives the order in which a text is read in parallel streams; see `data.stream_chunks`."""
    steps, shift = count // batch_size, int(jax.random.randint(key, (), 0, length))

    def plan(first: int, stop: int) -> Order:
        chunks = np.arange(batch_size, dtype=np.int64) * steps + np.arange(first, stop, dtype=np.int64)[:, None]
        shape = chunks.shape
        weight, counts = np.full(shape, 1 / batch_size, np.float32), np.full(len(chunks), batch_size, np.float32)
        return Order(chunks * length + shift, weight, counts, first)

    return plan
