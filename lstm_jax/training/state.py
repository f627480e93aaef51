"""State that training carries from step to step, and its shardings."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding

from lstm_jax.runtime import sharding
from lstm_jax.training.row_sparse import Optimizer


class TrainState(NamedTuple):
    """State of a training; a tree of the same form holds the shardings of its leaves."""

    step: Any
    """int32 scalar: number of steps done."""
    params: Any
    opt_state: Any
    totals: dict[str, Any]
    """float32 sum of each metric over the examples that the current epoch has read so far."""
    carry: Any = ()
    """Pytree of (B, ...) arrays that each step hands to the next one, with B the batch size; () if steps hand nothing on."""
    behind: Any = ()
    """int32 (V,): number of steps of the current epoch that each of the V rows of a table has missed so far; () if no update is row-sparse,
    or if every call of `run_steps` applies all missed steps."""


def state_sharding(params: Any, optimizer: Optimizer, totals: tuple[str, ...], mesh: Mesh, carry: Any = (), behind: Any = ()) -> TrainState:
    """Return a `TrainState` that holds the sharding of each leaf.

    The moments of the optimiser are sharded like their parameters, and the carry like the rows of a batch.
    """
    copied = sharding.replicated(mesh)
    param_shardings = jax.tree_util.tree_map_with_path(
        lambda path, leaf: NamedSharding(mesh, sharding.param_spec(mesh.size, path, leaf)), params
    )
    shapes = {path: leaf.shape for path, leaf in jax.tree_util.tree_leaves_with_path(params)}
    sharding_of = dict(jax.tree_util.tree_leaves_with_path(param_shardings))

    def like_parameter(path: tuple, leaf: Any) -> Any:
        """Return the sharding of the parameter whose path is the end of `path`; moments of another shape (adafactor) are replicated."""
        ends = (path[n:] for n in range(len(path) + 1))
        return next((sharding_of[end] for end in ends if shapes.get(end) == leaf.shape), copied)

    opt_state = jax.tree_util.tree_map_with_path(like_parameter, jax.eval_shape(optimizer.init, params))
    rows = jax.tree.map(lambda leaf: sharding.rows(mesh), carry)
    return TrainState(copied, param_shardings, opt_state, dict.fromkeys(totals, copied), rows, jax.tree.map(lambda _: copied, behind))


def create_state(
    params: Any, optimizer: Optimizer, totals: tuple[str, ...], mesh: Mesh, carry: Any = (), behind: Any = ()
) -> tuple[TrainState, TrainState]:
    """Return a new state on the mesh, and its shardings.

    The arguments are copied, so that they stay valid when the state is donated to a compiled step.
    """
    shardings = state_sharding(params, optimizer, totals, mesh, carry, behind)

    def make(params, carry, behind):
        zeros = {name: jnp.zeros((), jnp.float32) for name in totals}
        params, carry, behind = jax.tree.map(jnp.copy, (params, carry, behind))
        return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params), zeros, carry, behind)

    return jax.jit(make, out_shardings=shardings)(params, carry, behind), shardings
