"""What a run carries from step to step, and where it lives on the mesh."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from lstm_jax import sharding


class TrainState(NamedTuple):
    """step: int32 scalar, steps done; params and opt_state: pytrees; totals: float32 sums over the rows of the current epoch so far.

    A tree of this form also holds the shardings of its leaves.
    """

    step: Any
    params: Any
    opt_state: Any
    totals: dict[str, Any]


def state_sharding(params: Any, optimizer: optax.GradientTransformation, totals: tuple[str, ...], mesh: Mesh) -> TrainState:
    """A TrainState of shardings: each of the optimiser's moments lives where its parameter does."""
    copied = sharding.replicated(mesh)
    places = jax.tree_util.tree_map_with_path(lambda path, leaf: sharding.param_sharding(mesh, path, leaf), params)
    shapes = {path: leaf.shape for path, leaf in jax.tree_util.tree_leaves_with_path(params)}
    home = dict(jax.tree_util.tree_leaves_with_path(places))

    def beside(path: tuple, leaf: Any) -> Any:
        """A moment's path ends in its parameter's; factored moments (adafactor) have another shape and are copied."""
        ends = (path[n:] for n in range(len(path) + 1))
        return next((home[end] for end in ends if shapes.get(end) == leaf.shape), copied)

    opt_state = jax.tree_util.tree_map_with_path(beside, jax.eval_shape(optimizer.init, params))
    return TrainState(copied, places, opt_state, dict.fromkeys(totals, copied))


def create_state(
    params: Any, optimizer: optax.GradientTransformation, totals: tuple[str, ...], mesh: Mesh
) -> tuple[TrainState, TrainState]:
    """A new state on the mesh, and its shardings. `params` are copied, so that donating the state leaves them alone."""
    places = state_sharding(params, optimizer, totals, mesh)

    def make(params):
        zeros = {name: jnp.zeros((), jnp.float32) for name in totals}
        return TrainState(jnp.zeros((), jnp.int32), jax.tree.map(jnp.copy, params), optimizer.init(params), zeros)

    return jax.jit(make, out_shardings=places)(params), places
