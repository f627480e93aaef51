"""Benchmark of the RG-LRU of recurrentgemma, a `lax.scan` over the steps."""

from importlib import import_module

import jax.numpy as jnp
import typeguard  # pyright: ignore[reportMissingImports]

from bench.peers import jax_step
from bench.peers.base import Built, Options
from bench.workloads import Arrays, Workload, in_layer

# newer versions cannot read its annotations
typeguard.typechecked = lambda function: function


def build(work: Workload, arrays: Arrays, options: Options) -> Built:
    """Prepare the forward and backward pass of an RG-LRU in recurrentgemma; see
    `base.Built`.
    """
    layer = import_module("recurrentgemma.jax.layers").RGLRU(work.units, work.heads)
    # it computes other outputs at the position 0
    after = jnp.broadcast_to(1 + jnp.arange(work.length), arrays.inputs.shape[:2])

    def forward(params, x, key):
        # (gates, heads, inputs, outputs)
        w = (
            params["kernel"]
            .reshape(-1, 2, work.heads, work.units // work.heads)
            .transpose(1, 2, 0, 3)
        )
        b = params["bias"].reshape(2, work.heads, -1)
        gates = {
            name: {"w": w[n], "b": b[n]}
            for n, name in enumerate(("a_gate", "input_gate"))
        }
        return layer.apply({"params": gates | {"a_param": -params["decay"]}}, x, after)[
            0
        ]

    return jax_step.build(work, arrays, arrays.cell(), forward, in_layer)
