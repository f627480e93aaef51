"""What a run carries from step to step, and where it lives on the mesh."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding

from lstm_jax.runtime import sharding


class TrainState(NamedTuple):
    """step: int32 scalar, steps done; params and opt_state: pytrees; totals: float32 sums over the rows of the current epoch so far;
    carry: pytree of (B, ...) arrays that each step hands to the next one, () for none; behind: int32 (V,), steps of the epoch so far that
    each row of a table has still to take, () where no table is updated by rows, or each call of `run_steps` ends with none.

    A tree of this form also holds the shardings of its leaves.
    """

    step: Any
    params: Any
    opt_state: Any
    totals: dict[str, Any]
    carry: Any = ()
    behind: Any = ()


def state_sharding(
    params: Any, optimizer: optax.GradientTransformation, totals: tuple[str, ...], mesh: Mesh, carry: Any = (), behind: Any = ()
) -> TrainState:
    """A TrainState of shardings: each of the optimiser's moments lives where its parameter does, the carry with the batch's rows."""
    copied = sharding.replicated(mesh)
    places = jax.tree_util.tree_map_with_path(lambda path, leaf: NamedSharding(mesh, sharding.param_spec(mesh.size, path, leaf)), params)
    shapes = {path: leaf.shape for path, leaf in jax.tree_util.tree_leaves_with_path(params)}
    home = dict(jax.tree_util.tree_leaves_with_path(places))

    def beside(path: tuple, leaf: Any) -> Any:
        """A moment's path ends in its parameter's; factored moments (adafactor) have another shape and are copied."""
        ends = (path[n:] for n in range(len(path) + 1))
        return next((home[end] for end in ends if shapes.get(end) == leaf.shape), copied)

    opt_state = jax.tree_util.tree_map_with_path(beside, jax.eval_shape(optimizer.init, params))
    rows = jax.tree.map(lambda leaf: sharding.rows(mesh), carry)
    return TrainState(copied, places, opt_state, dict.fromkeys(totals, copied), rows, jax.tree.map(lambda _: copied, behind))


def create_state(
    params: Any, optimizer: optax.GradientTransformation, totals: tuple[str, ...], mesh: Mesh, carry: Any = (), behind: Any = ()
) -> tuple[TrainState, TrainState]:
    """A new state on the mesh, and its shardings. What is given is copied, so that donating the state leaves it alone."""
    places = state_sharding(params, optimizer, totals, mesh, carry, behind)

    def make(params, carry, behind):
        zeros = {name: jnp.zeros((), jnp.float32) for name in totals}
        params, carry, behind = jax.tree.map(jnp.copy, (params, carry, behind))
        return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params), zeros, carry, behind)

    return jax.jit(make, out_shardings=places)(params, carry, behind), places
