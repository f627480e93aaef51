"""Benchmark of an LSTM with resets as a user of Flax could write it: `lax.scan` over nnx.OptimizedLSTMCell.

A reset replaces the state by zeros, with `jnp.where`. The user writes the loop because nnx.RNN cannot reset the state within a sequence.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from bench.peers import jax_step
from bench.peers.base import Built, Options
from bench.workloads import LAYER, Arrays, Workload
from lstm_jax import convert


def build(work: Workload, arrays: Arrays, options: Options) -> Built:
    """Prepare the forward and backward pass of an LSTM that calls a Flax cell at each step; see `base.Built`."""
    del options
    resets = None if arrays.resets is None else jnp.asarray(arrays.resets.T)
    graph, state, rest = nnx.split(nnx.OptimizedLSTMCell(work.features, work.units, rngs=nnx.Rngs(0)), nnx.Param, ...)
    tree: dict[str, Any] = convert.lstm_to_nnx(arrays.cell(), optimized=True)
    nnx.replace_by_pure_dict(state, tree)

    def forward(params, x, key):
        del key
        cell = nnx.merge(graph, params, rest)
        zeros = jnp.zeros((x.shape[0], work.units), x.dtype)

        def step(carry, inputs):
            x_t, reset_t = inputs
            before = carry if reset_t is None else jax.tree.map(lambda part: jnp.where(reset_t[:, None], 0, part), carry)
            return cell(before, x_t)

        return jax.lax.scan(step, (zeros, zeros), (x.swapaxes(0, 1), resets))[1].swapaxes(0, 1)

    def to_ours(tree):
        return {LAYER + name: array for name, array in convert.lstm_from_nnx(nnx.to_pure_dict(tree)).items()}

    return jax_step.build(work, arrays, jax_step.Model(state, forward, to_ours))
