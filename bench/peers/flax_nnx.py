"""Benchmark of Flax NNX: nnx.RNN over nnx.OptimizedLSTMCell (two wide linear layers)."""

from dataclasses import replace
from typing import Any

from flax import nnx

from bench.peers import jax_step
from bench.peers.base import Built, Options
from bench.workloads import Arrays, Weights, Workload, in_layer
from lstm_jax import convert


class Net(nnx.Module):
    """Embedding (of word ids), LSTM and dense layer (not of an LSTM alone)."""

    def __init__(self, work: Workload, rate: float, rngs: nnx.Rngs):
        self.embedding = (
            nnx.Embed(work.vocabulary, work.features, rngs=rngs) if work.words else None
        )
        # one mask for all words of a review, as in Keras
        self.dropout = nnx.Dropout(rate, broadcast_dims=(1,))
        self.rnn = nnx.RNN(
            nnx.OptimizedLSTMCell(work.features, work.units, rngs=rngs),
            return_carry=True,
            rngs=False,
        )
        self.head = (
            nnx.Linear(work.units, work.classes, rngs=rngs) if work.classes else None
        )

    def __call__(self, x, key):
        if self.embedding is not None:
            x = self.embedding(x)
            x = (
                x
                if key is None
                else self.dropout(x, deterministic=False, rngs=nnx.Rngs(dropout=key))
            )
        # the RNG has no effect: the initial state is zero
        result: Any = self.rnn(x, rngs=nnx.Rngs(0))
        (_, h), outputs = result
        if self.head is None:
            return outputs
        return self.head(h)


def _to_ours(state) -> Weights:
    tree: dict[str, Any] = nnx.to_pure_dict(state)
    return in_layer(convert.lstm_from_nnx(tree["rnn"])) | jax_step.flat(tree)


def build(work: Workload, arrays: Arrays, options: Options) -> Built:
    """Build a workload; see `base.Built`."""
    graph, state, rest = nnx.split(
        Net(work, options.dropout, nnx.Rngs(0)), nnx.Param, ...
    )
    rnn: Any = convert.lstm_to_nnx(arrays.cell(), optimized=True, rnn=True)
    nnx.replace_by_pure_dict(state, {"rnn": rnn} | jax_step.outer(arrays))

    def forward(params, x, key):
        return nnx.merge(graph, params, rest)(x, key)

    built = jax_step.build(work, arrays, state, forward, _to_ours)
    return replace(built, backend="OptimizedLSTMCell")
