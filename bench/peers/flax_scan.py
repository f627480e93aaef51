"""Benchmark of an LSTM with resets as a user of Flax could write it: `lax.scan` over
nnx.OptimizedLSTMCell.

A reset replaces the state by zeros, with `jnp.where`. The user writes the loop because
nnx.RNN cannot reset the state within a sequence.
"""

from typing import Any

from flax import nnx

from bench.peers import jax_step
from bench.peers.base import Built, Options
from bench.workloads import Arrays, Workload, in_layer
from lstm_jax import convert


def build(work: Workload, arrays: Arrays, options: Options) -> Built:
    """Build a workload; see `base.Built`."""
    graph, state, rest = nnx.split(
        nnx.OptimizedLSTMCell(work.features, work.units, rngs=nnx.Rngs(0)),
        nnx.Param,
        ...,
    )
    tree: dict[str, Any] = convert.lstm_to_nnx(arrays.cell(), optimized=True)
    nnx.replace_by_pure_dict(state, tree)

    def forward(params, x, key):
        return jax_step.scan(nnx.merge(graph, params, rest), x.swapaxes(0, 1), arrays)

    def to_ours(tree):
        return in_layer(convert.lstm_from_nnx(nnx.to_pure_dict(tree)))

    return jax_step.build(work, arrays, state, forward, to_ours)
