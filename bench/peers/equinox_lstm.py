"""Benchmark of Equinox: lax.scan applies eqx.nn.LSTMCell to one sequence, and vmap maps this scan over the batch, as Equinox' docs show."""

from typing import Any

import equinox as eqx  # pyright: ignore[reportMissingImports]
import jax
import jax.numpy as jnp
import numpy as np

from bench.peers import jax_step
from bench.peers.base import Built, Options, no_recurrent_dropout
from bench.workloads import Arrays, Workload


class Net(eqx.Module):
    """Equinox model of a workload, applied to a single sequence: embedding (if the inputs are word ids), LSTM, and dense output layer.

    The workload "recurrence" measures a recurrent layer alone. For it, the model consists of the LSTM only.
    """

    embedding: Any
    dropout: Any
    cell: Any
    head: Any

    def __init__(self, work: Workload, rate: float, key):
        self.embedding = eqx.nn.Embedding(work.vocabulary, work.features, key=key) if work.words else None
        self.dropout = eqx.nn.Dropout(rate)
        self.cell = eqx.nn.LSTMCell(work.features, work.units, key=key)
        self.head = eqx.nn.Linear(work.units, work.classes, key=key) if work.classes else None

    def __call__(self, x, key):
        if self.embedding is not None:
            x = jax.vmap(self.embedding)(x)
            x = x * self.dropout(jnp.ones_like(x[:1]), key=key, inference=key is None)  # one mask for all words of a review, as in Keras
        zeros = jnp.zeros(self.cell.hidden_size)

        def body(state, x_t):
            state = self.cell(x_t, state)
            return state, state[0] if self.head is None else None

        (h, _), outputs = jax.lax.scan(body, (zeros, zeros), x)
        if self.head is None:
            return outputs
        logits = self.head(h)
        return logits if self.embedding is None else logits[0]


def _to_ours(tree: Any) -> dict[str, np.ndarray]:
    cell = tree.cell
    ours = {"recurrent/0/kernel": cell.weight_ih.T, "recurrent/0/recurrent_kernel": cell.weight_hh.T, "recurrent/0/bias": cell.bias}
    if tree.head is not None:
        ours |= {"head/kernel": tree.head.weight.T, "head/bias": tree.head.bias}
    if tree.embedding is not None:
        ours["embedding/embedding"] = tree.embedding.weight
    return {name: np.asarray(array) for name, array in ours.items()}


def build(work: Workload, arrays: Arrays, options: Options) -> Built:
    """Prepare a benchmark workload, such as a training step, in Equinox, and return functions that run it; see `base.Built`."""
    weights, lstm = arrays.weights, arrays.cell()
    net = Net(work, options.dropout, jax.random.key(0))
    put = [
        (lambda n: n.cell.weight_ih, lstm["kernel"].T),
        (lambda n: n.cell.weight_hh, lstm["recurrent_kernel"].T),
        (lambda n: n.cell.bias, lstm["bias"]),
    ]
    if work.classes:
        put += [(lambda n: n.head.weight, weights["head/kernel"].T), (lambda n: n.head.bias, weights["head/bias"])]
    if work.words:
        put += [(lambda n: n.embedding.weight, weights["embedding/embedding"])]
    for where, array in put:
        net = eqx.tree_at(where, net, jnp.asarray(array))
    params, static = eqx.partition(net, eqx.is_array)

    def forward(params, x, key):
        net = eqx.combine(params, static)
        if key is None:
            return jax.vmap(lambda row: net(row, None))(x)
        return jax.vmap(net)(x, jax.random.split(key, x.shape[0]))

    return jax_step.build(work, arrays, jax_step.Model(params, forward, _to_ours, no_recurrent_dropout(options)))
