"""Benchmark of Memax: its LSTM, which has no tanh of the cell state, and the states of
its LRU, by `vmap` over the batch.
"""

import equinox as eqx  # pyright: ignore[reportMissingImports]
import jax
import jax.numpy as jnp
import numpy as np
from memax.equinox.semigroups.lru import LRU  # pyright: ignore[reportMissingImports]
from memax.equinox.set_actions.lstm import LSTM  # pyright: ignore[reportMissingImports]

from bench.peers import jax_step
from bench.peers.base import Built, Options
from bench.workloads import Arrays, Workload, in_layer


def build(work: Workload, arrays: Arrays, options: Options) -> Built:
    """Build a workload; see `base.Built`."""
    # None becomes False
    resets = jnp.broadcast_to(np.array(arrays.resets, bool), arrays.inputs.shape[:2])
    run = _lru(work) if work.cell == "lru" else _lstm(work)

    def forward(params, x, key):
        return jax.vmap(lambda x, resets: run(params, (x, resets)))(x, resets)

    return jax_step.build(work, arrays, arrays.cell(), forward, in_layer)


def _lstm(work: Workload):
    made = LSTM(work.units, jax.random.key(0))

    def parts(lstm):
        maps = [
            getattr(lstm.algebra.algebra, f"{kind}_{gate}")
            for kind in "WU"
            for gate in "ifco"
        ]
        return [part.bias for part in maps[:4]] + [part.weight for part in maps]

    # the leaves of `params` are bias, kernel, recurrent_kernel
    def run(params, inputs):
        lstm = eqx.tree_at(
            parts,
            made,
            [part for leaf in jax.tree.leaves(params) for part in jnp.split(leaf.T, 4)],
        )
        return lstm(lstm.initialize_carry(), inputs)[1]

    return run


def _lru(work: Workload):
    made = LRU(work.units, work.features, jax.random.key(0))

    def parts(lru):
        return lru.gamma_log, lru.B_re, lru.B_im, lru.nu_log, lru.theta_log

    def run(params, inputs):
        real, imaginary = jnp.split(params["kernel"].T, 2)
        lru = eqx.tree_at(
            parts,
            made,
            (params["gamma"], real, imaginary, params["nu"], params["theta"]),
        )
        (_, states), _ = lru.scan(
            lru.algebra, lru.initialize_carry(), jax.vmap(lru.forward_map)(inputs)
        )
        return jnp.concatenate([states.real, states.imag], axis=-1)

    return run
