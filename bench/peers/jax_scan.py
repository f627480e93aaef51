"""Benchmark of an LSTM with resets that is written by hand in JAX: `lax.scan` over the
steps.

A reset replaces the state by zeros, with `jnp.where`. The input projection of all steps
is computed before the loop.
"""

import jax
import jax.numpy as jnp

from bench.peers import jax_step
from bench.peers.base import Built, Options
from bench.workloads import Arrays, Workload, in_layer


def build(work: Workload, arrays: Arrays, options: Options) -> Built:
    """Build a workload; see `base.Built`."""

    def forward(params, x, key):
        z = x.swapaxes(0, 1) @ params["kernel"] + params["bias"]

        def step(state, z_t):
            h, c = state
            i, f, g, o = jnp.split(z_t + h @ params["recurrent_kernel"], 4, axis=-1)
            c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
            h = jax.nn.sigmoid(o) * jnp.tanh(c)
            return (h, c), h

        return jax_step.scan(step, z, arrays)

    return jax_step.build(work, arrays, arrays.cell(), forward, in_layer)
