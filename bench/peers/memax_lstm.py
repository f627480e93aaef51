"""Benchmark of Memax' LSTM, a `lax.scan` over one sequence with resets, which vmap maps over the batch.

It has no tanh of the cell state, as our cell `lstm_no_output_activation`, with which it is compared.
"""

import equinox as eqx  # pyright: ignore[reportMissingImports]
import jax
import jax.numpy as jnp
import numpy as np
from memax.equinox.set_actions.lstm import LSTM  # pyright: ignore[reportMissingImports]

from bench.peers import jax_step
from bench.peers.base import Built, Options
from bench.workloads import Arrays, Workload, in_layer


def build(work: Workload, arrays: Arrays, options: Options) -> Built:
    """Prepare the forward and backward pass of an LSTM in Memax, and return functions that run it; see `base.Built`."""
    made = LSTM(work.units, jax.random.key(0))
    resets = jnp.broadcast_to(np.array(arrays.resets, bool), arrays.inputs.shape[:2])  # None becomes False

    def parts(lstm):
        maps = [getattr(lstm.algebra.algebra, f"{kind}_{gate}") for kind in "WU" for gate in "ifco"]
        return [part.bias for part in maps[:4]] + [part.weight for part in maps]

    def forward(params, x, key):  # the leaves of `params` are bias, kernel, recurrent_kernel
        lstm = eqx.tree_at(parts, made, [part for leaf in jax.tree.leaves(params) for part in jnp.split(leaf.T, 4)])
        return jax.vmap(lambda x, resets: lstm(lstm.initialize_carry(), (x, resets))[1])(x, resets)

    return jax_step.build(work, arrays, arrays.cell(), forward, in_layer)
