"""Benchmark of Flax Linen: nn.RNN over nn.OptimizedLSTMCell, which has one kernel for
each gate and concatenates them in every step.
"""

from typing import Any

import flax.linen as nn

from bench.peers import jax_step
from bench.peers.base import Built, Options
from bench.workloads import Arrays, Weights, Workload, in_layer
from lstm_jax import convert


class Net(nn.Module):
    """Embedding (of word ids), LSTM and dense layer (not of an LSTM alone)."""

    work: Workload
    rate: float

    @nn.compact
    def __call__(self, x, train: bool):
        work = self.work
        if work.words:
            x = nn.Embed(work.vocabulary, work.features, name="embedding")(x)
            # one mask for all words of a review, as in Keras
            x = nn.Dropout(self.rate, broadcast_dims=(1,))(x, deterministic=not train)
        result: Any = nn.RNN(
            nn.OptimizedLSTMCell(work.units, name="cell", parent=None),
            return_carry=True,
            name="rnn",
        )(x)
        (_, h), outputs = result
        if not work.classes:
            return outputs
        return nn.Dense(work.classes, name="head")(h)


def _to_ours(tree) -> Weights:
    return in_layer(convert.lstm_from_linen(tree["rnn"])) | jax_step.flat(tree)


def build(work: Workload, arrays: Arrays, options: Options) -> Built:
    """Build a workload; see `base.Built`."""
    net, tree = (
        Net(work, options.dropout),
        {"rnn": convert.lstm_to_linen(arrays.cell(), rnn=True)}
        | jax_step.outer(arrays),
    )

    def forward(params, x, key) -> Any:
        return net.apply(
            {"params": params},
            x,
            key is not None,
            rngs=None if key is None else {"dropout": key},
        )

    return jax_step.build(work, arrays, tree, forward, _to_ours)
