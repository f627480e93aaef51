"""The function `on_mesh`, with which a backend runs a loop on each device's own rows of the batch."""

from collections.abc import Callable

import jax
from jax.sharding import PartitionSpec

from lstm_jax.runtime import sharding

TIME_FIRST = PartitionSpec(None, sharding.DATA)
BATCH_FIRST = PartitionSpec(sharding.DATA)
COPIED = PartitionSpec()


def on_mesh(function: Callable, batch: int, in_specs: tuple, out_specs, *args):
    """Call `function(*args)` and return its results. On a mesh each device calls the function on its own rows of the batch."""
    if not sharding.splits(batch):
        return function(*args)
    return jax.shard_map(function, in_specs=in_specs, out_specs=out_specs, check_vma=False)(*args)
