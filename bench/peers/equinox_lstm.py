"""Benchmark of Equinox: lax.scan applies eqx.nn.LSTMCell to one sequence, and vmap maps
this scan over the batch, as Equinox' docs show.
"""

from collections.abc import Mapping
from typing import Any

import equinox as eqx  # pyright: ignore[reportMissingImports]
import jax
import jax.numpy as jnp
import numpy as np

from bench.peers import jax_step
from bench.peers.base import Built, Options
from bench.workloads import Arrays, Weights, Workload


class Net(eqx.Module):
    """Embedding (of word ids), LSTM and dense layer (not of an LSTM alone), applied to a
    single sequence.
    """

    embedding: Any
    dropout: Any
    cell: Any
    head: Any

    def __init__(self, work: Workload, rate: float, key):
        self.embedding = (
            eqx.nn.Embedding(work.vocabulary, work.features, key=key)
            if work.words
            else None
        )
        self.dropout = eqx.nn.Dropout(rate)
        self.cell = eqx.nn.LSTMCell(work.features, work.units, key=key)
        self.head = (
            eqx.nn.Linear(work.units, work.classes, key=key) if work.classes else None
        )

    def __call__(self, x, key):
        if self.embedding is not None:
            x = jax.vmap(self.embedding)(x)
            # one mask for all words of a review, as in Keras
            x = x * self.dropout(jnp.ones_like(x[:1]), key=key, inference=key is None)
        zeros = jnp.zeros(self.cell.hidden_size)

        def body(state, x_t):
            state = self.cell(x_t, state)
            return state, state[0] if self.head is None else None

        (h, _), outputs = jax.lax.scan(body, (zeros, zeros), x)
        if self.head is None:
            return outputs
        return self.head(h)


def _arrays(net) -> dict[str, Any]:
    """Return the arrays of a model under the names of our weights. All matrices but the
    embedding are transposed.
    """
    found = {
        "recurrent/0/kernel": net.cell.weight_ih,
        "recurrent/0/recurrent_kernel": net.cell.weight_hh,
    }
    found["recurrent/0/bias"] = net.cell.bias
    if net.head is not None:
        found |= {"head/kernel": net.head.weight, "head/bias": net.head.bias}
    return (
        found
        if net.embedding is None
        else found | {"embedding/embedding": net.embedding.weight}
    )


def _turned(arrays: Mapping[str, Any]) -> Weights:
    return {
        name: np.asarray(array if name == "embedding/embedding" else array.T)
        for name, array in arrays.items()
    }


def build(work: Workload, arrays: Arrays, options: Options) -> Built:
    """Build a workload; see `base.Built`."""
    net, given = Net(work, options.dropout, jax.random.key(0)), _turned(arrays.weights)
    net = eqx.tree_at(
        lambda net: list(_arrays(net).values()),
        net,
        [jnp.asarray(given[name]) for name in _arrays(net)],
    )
    params, static = eqx.partition(net, eqx.is_array)

    def forward(params, x, key):
        net = eqx.combine(params, static)
        if key is None:
            return jax.vmap(lambda row: net(row, None))(x)
        return jax.vmap(net)(x, jax.random.split(key, x.shape[0]))

    return jax_step.build(
        work, arrays, params, forward, lambda tree: _turned(_arrays(tree))
    )
