"""Training state, which each training step updates, and the sharding of its arrays."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding

from lstm_jax.base import processes, sharding
from lstm_jax.base.types import RUNS, Texts, Values
from lstm_jax.training.row_sparse import Optimizer, row_sparse

EXAMPLES = "examples"
"""Name of the entry of `TrainState.totals` that counts the examples. Each other entry
is the sum of a metric over the examples."""
FINITE = "last finite step"
"""Name of the entry of `TrainState.totals` that is the last step of the epoch until
which the sum of the losses is finite."""


class TrainState(NamedTuple):
    """Training state, which each training step updates.

    A `TrainState` can also hold shardings: it then has the sharding of each array in
    place of the array.
    """

    step: Any
    """int32 scalar: number of steps since the start of the run."""
    params: Any
    opt_state: Any
    totals: Values
    """Sum of each metric over the examples that the current epoch has read so far, as
    float32 scalars, and `EXAMPLES` and `FINITE` as int32."""
    carry: Any = ()
    """Pytree of arrays that each step hands to the next step, such as recurrent states.
    Their shapes are (B, ...), where B is the batch size. If there are no such arrays,
    it is ()."""
    behind: Any = ()
    """Dict from the name of the table whose updates are row-sparse to an int32 array
    (V,): the number of steps that each of the V rows has missed and not yet taken,
    because row-sparse updates change only the rows that a step looks up. It is empty if
    all updates are dense."""


def over_runs(tree) -> Any:
    """Map arrays over the runs of a sweep that run together, as they are after the
    first step, which else would be compiled twice.
    """
    try:
        run = lax.axis_index(RUNS)
    except NameError:
        return tree
    # `run` is never negative
    return jax.jit(
        lambda run, tree: jax.tree.map(
            lambda a: jnp.where(run < 0, 0, a) if a.ndim else a, tree
        )
    )(run, tree)


def create_state(
    params, optimizer: Optimizer, totals: Texts, mesh: Mesh, carry=(), table: str = ""
) -> tuple[TrainState, TrainState]:
    """Create the training state at the start of a run, sharded over the devices of a
    mesh, and return it with its shardings.

    The given arrays are copied. Therefore they stay valid when a compiled step reuses
    the memory of the state. Parameters are sharded as `sharding.param_spec` says, and
    the moments of the optimiser like their parameters. The arrays of the carry are
    sharded along their first axis, which is the batch axis. All other arrays are
    replicated.

    `totals` are the names in `TrainState.totals`. `table` names a parameter that the
    objective uses only to look up rows, such as an embedding; see `lookups`. If the
    optimiser has a row-sparse update, each step updates only the rows that its batch
    looks up.
    """

    def make(params, carry, behind):
        zeros = {
            name: jnp.zeros(
                (), jnp.int32 if name in (EXAMPLES, FINITE) else jnp.float32
            )
            for name in totals
        }
        params, carry, behind = jax.tree.map(jnp.copy, (params, carry, behind))
        return TrainState(
            jnp.zeros((), jnp.int32),
            params,
            optimizer.init(params),
            zeros,
            carry,
            behind,
        )

    def place(path, leaf):
        return (
            sharding.rows(mesh)
            if path[0].name == "carry"
            else NamedSharding(mesh, sharding.param_spec(mesh.size, path, leaf))
        )

    behind = (
        {table: np.zeros(len(params[table]), np.int32)}
        if row_sparse(table, optimizer, params)
        else {}
    )
    shardings = jax.tree_util.tree_map_with_path(
        place, jax.eval_shape(make, params, carry, behind)
    )
    # on the host, since arrays on a device of one process are no operands of a function
    # of all processes
    params, carry = processes.gathered((params, carry))
    return jax.jit(make, out_shardings=shardings)(params, carry, behind), shardings
