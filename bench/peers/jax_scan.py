"""Benchmark of an LSTM with resets that is written by hand in JAX: `lax.scan` over the steps.

A reset replaces the state by zeros, with `jnp.where`. The input projection of all steps is computed before the loop. JAX computes the
gradients by automatic differentiation.
"""

import jax
import jax.numpy as jnp

from bench.peers import jax_step
from bench.peers.base import Built, Options
from bench.workloads import LAYER, Arrays, Workload


def build(work: Workload, arrays: Arrays, options: Options) -> Built:
    """Prepare the forward and backward pass of an LSTM in JAX, and return functions that run it; see `base.Built`."""
    del options
    resets = None if arrays.resets is None else jnp.asarray(arrays.resets.T)

    def forward(params, x, key):
        del key
        z = x.swapaxes(0, 1) @ params["kernel"] + params["bias"]
        zeros = jnp.zeros((x.shape[0], work.units), x.dtype)

        def step(state, inputs):
            z_t, reset_t = inputs
            h, c = state if reset_t is None else jax.tree.map(lambda part: jnp.where(reset_t[:, None], 0, part), state)
            i, f, g, o = jnp.split(z_t + h @ params["recurrent_kernel"], 4, axis=-1)
            c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
            h = jax.nn.sigmoid(o) * jnp.tanh(c)
            return (h, c), h

        return jax.lax.scan(step, (zeros, zeros), (z, resets))[1].swapaxes(0, 1)

    def to_ours(tree):
        return {LAYER + name: array for name, array in tree.items()}

    return jax_step.build(work, arrays, jax_step.Model(arrays.cell(), forward, to_ours))
