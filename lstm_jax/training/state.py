"""Training state, which each training step updates, and the sharding of its arrays."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding

from lstm_jax.runtime import processes, sharding
from lstm_jax.training.row_sparse import Optimizer

EXAMPLES = "examples"
"""Name of the entry of `TrainState.totals` that counts the examples. Each other entry is the sum of a metric over the examples."""
FINITE = "last finite step"
"""Name of the entry of `TrainState.totals` that is the last step of the epoch until which the sum of the losses is finite."""


class TrainState(NamedTuple):
    """Training state, which each training step updates.

    A `TrainState` can also hold shardings: it then has the sharding of each array in place of the array.
    """

    step: Any
    """int32 scalar: number of steps since the start of the run."""
    params: Any
    opt_state: Any
    totals: dict[str, Any]
    """Sum of each metric over the examples that the current epoch has read so far, as float32 scalars, and `EXAMPLES` and `FINITE` as
    int32."""
    carry: Any = ()
    """Pytree of arrays that each step hands to the next step, such as recurrent states. Their shapes are (B, ...), where B is the batch
    size. If there are no such arrays, it is ()."""
    behind: Any = ()
    """int32 (V,): number of steps that each of the V rows of a table has missed and not yet taken, because row-sparse updates change only
    the rows that a step looks up. In a `TrainStep` it is a dict from the name of the table to this array. If no update is row-sparse, it is
    (). If `step.make_run_steps` is used with row-sparse updates and `behind` is (), all rows take their missed steps at the end of each
    compiled call."""
    rounded: Any = ()
    """float32 scalar in a checkpoint, otherwise (): exact number of examples minus the float32 number in `totals`; see `for_checkpoint`."""


def state_sharding(params: Any, optimizer: Optimizer, totals: tuple[str, ...], mesh: Mesh, carry: Any = (), behind: Any = ()) -> TrainState:
    """Return the sharding of each array of a training state, as a `TrainState`.

    Parameters are sharded as `sharding.param_spec` says. The moments of the optimiser are sharded like their parameters. The arrays of the
    carry are sharded along their first axis, which is the batch axis. All other arrays are replicated. The arguments are those of
    `create_state`.
    """
    copied = sharding.replicated(mesh)
    param_shardings = jax.tree_util.tree_map_with_path(
        lambda path, leaf: NamedSharding(mesh, sharding.param_spec(mesh.size, path, leaf)), params
    )
    shapes = {path: leaf.shape for path, leaf in jax.tree_util.tree_leaves_with_path(params)}
    sharding_of = dict(jax.tree_util.tree_leaves_with_path(param_shardings))

    def like_parameter(path: tuple, leaf: Any) -> Any:
        ends = (path[n:] for n in range(len(path) + 1))
        return next((sharding_of[end] for end in ends if shapes.get(end) == leaf.shape), copied)

    opt_state = jax.tree_util.tree_map_with_path(like_parameter, jax.eval_shape(optimizer.init, params))
    rows = jax.tree.map(lambda leaf: sharding.rows(mesh), carry)
    return TrainState(copied, param_shardings, opt_state, dict.fromkeys(totals, copied), rows, jax.tree.map(lambda _: copied, behind))


def create_state(
    params: Any, optimizer: Optimizer, totals: tuple[str, ...], mesh: Mesh, carry: Any = (), behind: Any = ()
) -> tuple[TrainState, TrainState]:
    """Create the training state at the start of a run, sharded over the devices of a mesh.

    The arrays in the arguments are copied. Therefore they stay valid when a compiled step reuses the memory of the state.

    Args:
        params: initial parameters.
        optimizer: optimiser, whose initial state becomes a part of the training state.
        totals: names of the entries of `TrainState.totals`, which are sums over examples.
        mesh: devices that the state is sharded over.
        carry: initial carry; see `TrainState.carry`.
        behind: initial value of `TrainState.behind`.

    Returns:
        A pair of the training state and its shardings. The second member is a `TrainState`, too; see `state_sharding`.
    """
    shardings = state_sharding(params, optimizer, totals, mesh, carry, behind)

    def make(params, carry, behind):
        zeros = {name: jnp.zeros((), jnp.int32 if name in (EXAMPLES, FINITE) else jnp.float32) for name in totals}
        params, carry, behind = jax.tree.map(jnp.copy, (params, carry, behind))
        return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params), zeros, carry, behind)

    if processes.several():  # arrays on a device of one process are no operands of a function of all processes
        params, carry, behind = jax.tree.map(np.asarray, (params, carry, behind))
    return jax.jit(make, out_shardings=shardings)(params, carry, behind), shardings


def for_checkpoint(state: TrainState, put: Callable[[Any], Any]) -> TrainState:
    """Return the state that a checkpoint stores for a training state.

    The checkpoint stores the number of examples in `TrainState.totals` as a float32, because older versions did so. A large number is
    rounded in float32. The field `rounded` therefore stores the exact number minus the rounded number, as a float32 scalar, too.

    Args:
        state: training state.
        put: function that places the arrays of a pytree on all devices.
    """
    count = int(state.totals[EXAMPLES])
    shown, rounded = put((np.float32(count), np.float32(count - int(np.float32(count)))))
    totals = {name: total for name, total in state.totals.items() if name != FINITE}
    return state._replace(totals=totals | {EXAMPLES: shown}, rounded=rounded)


def from_checkpoint(state: TrainState, put: Callable[[Any], Any]) -> TrainState:
    """Return the training state for the state that a checkpoint stores, as the inverse of `for_checkpoint`.

    Args:
        state: state that a checkpoint stores.
        put: function that places the arrays of a pytree on all devices.
    """
    count, finite = put((np.int32(int(state.totals[EXAMPLES]) + int(state.rounded)), np.int32(0)))
    return state._replace(totals=state.totals | {EXAMPLES: count, FINITE: finite}, rounded=())
