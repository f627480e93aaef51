"""Pytrees that tests save in checkpoints, and a bitwise comparison of two pytrees."""

from collections import namedtuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

Pair = namedtuple("Pair", "mu nu")


def make_state(seed: int):
    """Return a pytree of arrays of several dtypes, some of them sharded, some
    replicated, and one on the host.

    Some entries are -0.0 or NaN with particular bits, which only a bitwise copy keeps.
    """
    mesh = Mesh(np.array(jax.devices()), ("batch",))
    rows, all_over = (
        NamedSharding(mesh, PartitionSpec("batch")),
        NamedSharding(mesh, PartitionSpec()),
    )
    rng = np.random.default_rng(seed)
    table = rng.standard_normal((40, 8)).astype(np.float32)
    # quiet, signalling, negative NaN; -0.0
    table.view(np.uint32)[:4, 0] = [0x7FC00001, 0x7F800001, 0xFFC12345, 0x80000000]
    half = rng.integers(0, 2**16, (6, 3), np.uint16).view(jnp.bfloat16)
    return {
        "table": jax.device_put(table, rows),
        "minus_zero": jax.device_put(np.full((16, 2), -0.0, np.float32), rows),
        "optimizer": (
            Pair(
                jax.device_put(half, all_over),
                jax.device_put(np.int32([seed, -1]), all_over),
            ),
            (),
        ),
        "step": jax.device_put(np.int32(seed), all_over),
        "key": jax.device_put(np.uint32([2**32 - 1, seed]), all_over),
        "host": rng.standard_normal((3, 2)).astype(np.float32),
    }


def assert_same(got, want):
    assert jax.tree.structure(got) == jax.tree.structure(want)
    for left, right in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        assert type(left) is type(right)
        assert left.dtype == right.dtype
        assert left.shape == right.shape
        assert np.asarray(left).tobytes() == np.asarray(right).tobytes()
        if isinstance(left, jax.Array):
            assert left.sharding == right.sharding
