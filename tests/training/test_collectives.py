"""Collectives of a training step: none grows with the vocabulary, and a single
all-reduce sums the gradients.
"""

import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from tables import BACKENDS

import lstm_jax
from lstm_jax.base import sharding
from lstm_jax.cells import CELLS

OPTIMIZED = True
BATCH, LENGTH, EMBED, UNITS, WORDS = 4, 7, 16, 8, 1103


def expected(others: int) -> list[tuple[str, int]]:
    """Return the expected collectives of a step on two devices, as pairs of an
    operation and its size in bytes.

    `others` is the number of entries of all parameters except the embedding table. The
    loss is added.
    """
    vectors = 4 * (BATCH // 2) * LENGTH * EMBED  # a device's part of the word vectors
    ids = 4 * BATCH * LENGTH
    return [
        ("all-gather", ids),
        ("all-reduce", 4 * (others + 1)),
        ("all-to-all", vectors),
        ("all-to-all", vectors),
    ]


def collectives(program: str) -> list[tuple[str, int]]:
    """Return the collectives in the text of a compiled program: the name of each, and
    the bytes of its result, whose entries have 4 bytes, on one device.
    """
    found = []
    for shapes, name in re.findall(r" = (.*?) (all-[a-z-]+)\(", program):
        sizes = re.findall(r"[fsu]32\[([\d,]*)\]", shapes)
        entries = [math.prod(map(int, filter(None, own.split(",")))) for own in sizes]
        found.append((name, 4 * sum(entries)))
    return found


LOOKUPS = {
    "Embedding": lambda table, ids: sharding.gather_columns(table, ids, 0),
    "take": lambda table, ids: jnp.take(table, ids, axis=0),
    "time first": lambda table, ids: jnp.take(
        table, ids.T, axis=0, mode="clip"
    ).swapaxes(0, 1),
    "flat": lambda table, ids: jnp.take(table, ids.reshape(-1), axis=0).reshape(
        *ids.shape, -1
    ),
}


@pytest.mark.slow(keep=2)
@pytest.mark.skipif(
    "compiled" not in BACKENDS, reason="the row-sparse update needs the compiled code"
)
@pytest.mark.parametrize("lookup", LOOKUPS)
def test_collectives_of_the_public_step(lookup):
    """For each kind of lookup, the step finds the embedding table, and the devices
    exchange vectors in only two all-to-all operations.

    One operation exchanges the vectors, and the other their gradients.
    """

    def loss_fn(params, ids, labels):
        vectors = LOOKUPS[lookup](params["embedding"], ids)
        h, _ = lstm_jax.unroll(
            CELLS["lstm"], params["lstm"], jnp.tanh(vectors), return_sequences=False
        )
        return ((h @ params["head"] - labels) ** 2).mean()

    mesh = sharding.make_mesh(2)
    lstm = lstm_jax.LSTM(EMBED, UNITS, rngs=nnx.Rngs(0)).cell_params()
    params = {
        "embedding": jnp.ones((WORDS, EMBED)),
        "lstm": lstm,
        "head": jnp.ones(UNITS),
    }
    step = lstm_jax.make_train_step(params, loss_fn, lstm_jax.adam(1e-3), mesh=mesh)
    lowered = step.lower(
        step.init(), np.zeros((BATCH, LENGTH), np.int32), np.zeros(BATCH, np.float32)
    )
    assert step.table == "embedding"
    others = sum(leaf.size for leaf in jax.tree.leaves((lstm, params["head"])))
    assert sorted(collectives(lowered.compile().as_text())) == expected(others)
