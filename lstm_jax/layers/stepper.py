"""The function `make_stepper`, which compiles the single step of a layer for a server
or an agent.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array

from lstm_jax.base.errors import require
from lstm_jax.cells.products import is_ids
from lstm_jax.recurrence import REAL, as_array, clipped_int32, of_kinds


def make_stepper(module: nnx.Module) -> Callable[..., tuple[Array, Any]]:
    """Return a compiled function step(x, state, reset=None) that returns (output,
    state) of one step of a layer, without dropout.

        step = make_stepper(layer)
        state = layer.initial_state(1)
        for x in stream:  # each (1, features)
            output, state = step(x, state)

    The function keeps a copy of the weights as they are now, so that a call passes no
    Flax module. JAX compiles it, and its arguments are checked, at the first call with
    new shapes. It may be called from several threads.

    Args:
        module: a `Recurrent` layer, a `RecurrentStack`, or a module of your own with a
            method step(x, state, reset=...).

    Raises:
        InputError: if the module has no method `step`.
    """
    steps = isinstance(module, nnx.Module) and hasattr(module, "step")
    remedy = "give a recurrent layer or a RecurrentStack"
    require(steps, "module", type(module).__name__, remedy)
    graph, variables = nnx.split(module)
    # a call passes a flat list faster than a tree
    weights, tree = jax.tree.flatten(jax.tree.map(jnp.copy, variables))

    @jax.jit
    def run(x, state, reset, *weights: Array):
        layer: Any = nnx.merge(graph, tree.unflatten(weights))
        return layer.step(x, state, reset=reset)

    def step(x, state, reset=None):
        if not isinstance(x, Array):
            x = of_kinds("x", x, REAL, "give floats or int ids")
            x = clipped_int32(x) if is_ids(x) else x  # `jit` would cut 64 bits
        try:
            return run(x, state, reset, *weights)
        except (RuntimeError, ValueError):
            for name, value in {"x": x, "state": state, "reset": reset}.items():
                for leaf in jax.tree.leaves(value):
                    as_array(name, leaf, "give an array")  # raises if it is deleted
            raise

    return step
