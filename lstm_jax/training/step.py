"""Compiled training steps over device-resident examples.

`make_run_steps` compiles one program that takes any chunk of the steps of an epoch, so that progress, checkpoints and interrupts between
chunks cost no compilation and change no number.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from lstm_jax.runtime import sharding
from lstm_jax.training.examples import Order, take_rows
from lstm_jax.training.row_sparse import Optimizer, RowOptimizer, RowUpdate
from lstm_jax.training.state import TrainState

Objective = Callable[..., tuple[jax.Array, Any]]
"""objective(params, batch, weight (B,), key) -> loss, metrics. The weights sum to 1 and are 0 for rows that fill up a batch; each metric
is a weighted mean. With a carry in the state: objective(params, batch, weight, key, carry) -> loss, (metrics, carry of the next step)."""
EXAMPLES = "examples"
"""Name of the total that counts rows; the other totals are sums of each metric over rows."""
CATCH_UP_INTERVAL = 32
"""Steps after which rows of a table that no batch has read are caught up. The interval is fixed within an epoch, since catching up changes
last bits: `TrainState.behind` carries the lag from one chunk of steps to the next. Its effect on speed is within noise (LOG.md)."""


@dataclass(frozen=True)
class LookupObjective:
    """An objective that reads one parameter, a table, only by looking rows up in it.

    A step then differentiates by the rows looked up, at most B x T of them, and never forms the gradient of the table, where the optimiser
    has a row-sparse update.
    """

    loss: Callable
    """loss(params, batch, weight, key, vectors=None) as `Objective`; `vectors` are the rows that it would look up. Only the sum of its
    gradients by the vectors of an id matters."""
    table: str
    """Name of the parameter."""
    ids: Callable[[Any], jax.Array]
    """ids(batch) -> numbers of the rows, of the shape of `vectors` without its last axis; the last axis of the ids is that of the batch."""

    def __call__(self, *args, **options) -> tuple[jax.Array, Any]:
        return self.loss(*args, **options)


def row_sparse(objective: Any, optimizer: Any, params: Any) -> bool:
    """Return whether steps differentiate by the rows looked up, and update only those."""
    return isinstance(objective, LookupObjective) and isinstance(optimizer, RowOptimizer) and optimizer.rows.serves(params[objective.table])


def no_rows_behind(objective: Any, optimizer: Any, params: Any) -> Any:
    """Return `TrainState.behind` of a new state, with which chunks may end at any step; () if no update is row-sparse."""
    return np.zeros(len(params[objective.table]), np.int32) if row_sparse(objective, optimizer, params) else ()


def make_run_steps(
    objective: Objective,
    optimizer: Optimizer,
    shardings: TrainState,
    mesh: Mesh,
    gather: Callable[[Any, jax.Array], Any] = take_rows,
) -> Callable:
    """Compile `steps_program` for a mesh: `run_steps(state, arrays, order, start, stop, key) -> state`; the state is donated.

    Args:
        objective: the loss of a batch.
        optimizer: dense or row-sparse.
        shardings: shardings of the state.
        mesh: devices.
        gather: gather(arrays, numbers) -> batch.
    """
    run_steps = steps_program(objective, optimizer, gather, bool(jax.tree.leaves(shardings.carry)))
    compiled = jax.jit(run_steps, donate_argnums=0, out_shardings=shardings)

    def call(state, arrays, order, start: int, stop: int, key):
        with sharding.on(mesh):
            return compiled(state, arrays, order, np.int32(start), np.int32(stop), key)

    return call


def steps_program(
    objective: Objective,
    optimizer: Optimizer,
    gather: Callable[[Any, jax.Array], Any] = take_rows,
    carries: bool = False,
) -> Callable[[TrainState, Any, Order, jax.Array, jax.Array, jax.Array], TrainState]:
    """Return `run_steps(state, arrays, order, start, stop, key) -> state`, a pure function that takes steps start .. stop - 1 of an epoch.

    Args:
        objective: the loss of a batch.
        optimizer: dense or row-sparse.
        gather: gather(arrays, numbers) -> batch.
        carries: whether the state has a carry, see `Objective`.
    """

    def run_steps(state: TrainState, arrays: Any, order: Order, start: jax.Array, stop: jax.Array, key: jax.Array) -> TrainState:
        body = partial(_take_step, gather, arrays, order, key)
        if row_sparse(objective, optimizer, state.params):
            lookup, rows = cast(LookupObjective, objective), cast(RowOptimizer, optimizer).rows
            lag = rows.begin(state.params[lookup.table], state.opt_state, len(order.rows), start, state.behind)
            return _row_sparse_steps(
                partial(body, partial(_row_sparse_update, lookup, rows)), lookup.table, rows, lag, state, order, start, stop
            )
        update = partial(_dense_update, objective, optimizer, carries)
        return jax.lax.fori_loop(start, stop, partial(body, update), ((), state))[1]

    return run_steps


def _dense_update(objective: Objective, optimizer: Any, carries: bool, state: TrainState, lag, batch, weight, key):
    """Return lag, state of the optimiser, parameters, metrics and carry after one step."""

    def loss(params, batch, weight, key, carry):
        if carries:
            return objective(params, batch, weight, key, carry)
        value, metrics = objective(params, batch, weight, key)
        return value, (metrics, carry)

    gradient, (metrics, carry) = jax.grad(loss, has_aux=True)(state.params, batch, weight, key, state.carry)
    updates, opt_state = optimizer.update(gradient, state.opt_state, state.params)
    return lag, opt_state, optax.apply_updates(state.params, updates), metrics, carry


def _row_sparse_update(lookup: LookupObjective, rows_only: RowUpdate, state: TrainState, lag, batch, weight, key):
    """Like `_dense_update`, for a table that only the looked-up rows of are differentiated and updated."""
    name, ids = lookup.table, lookup.ids(batch)
    lag, opt_state, params = rows_only.catch_up(name, ids, lag, state.opt_state, state.params)
    others = {key: param for key, param in params.items() if key != name}

    def loss_of(others, vectors):
        return lookup.loss(others | {name: params[name]}, batch, weight, key, vectors)

    vectors = sharding.gather_columns(params[name], ids)
    (gradient, rows), metrics = jax.grad(loss_of, (0, 1), has_aux=True)(others, vectors)
    return *rows_only.update(gradient, name, ids, rows, lag, opt_state, params), metrics, state.carry


def _take_step(
    gather, arrays, order: Order, key, update: Callable, n: jax.Array, carried: tuple[Any, TrainState]
) -> tuple[Any, TrainState]:
    """Take step n: update the state and add its metrics to the totals."""
    lag, state = carried
    step_key = jax.random.fold_in(key, state.step)
    lag, opt_state, params, metrics, carry = update(state, lag, gather(arrays, order.rows[n]), order.weight[n], step_key)
    metrics = {name: value.astype(jnp.float32) for name, value in metrics.items()} | {EXAMPLES: jnp.ones(())}
    totals = {name: total + metrics[name] * order.examples[n] for name, total in state.totals.items()}
    return lag, TrainState(state.step + 1, params, opt_state, totals, carry, state.behind)


def _row_sparse_steps(body: Callable, table: str, rows: RowUpdate, lag, state: TrainState, order: Order, start, stop) -> TrainState:
    """Take the steps between multiples of `CATCH_UP_INTERVAL` together, and catch all rows up at those multiples."""
    keeps = bool(jax.tree.leaves(state.behind))

    def interval(carried):
        n, lag, state = carried
        end = jnp.minimum(stop, (n // CATCH_UP_INTERVAL + 1) * CATCH_UP_INTERVAL)
        lag, state = jax.lax.fori_loop(n, end, body, (lag, state))
        due = (end % CATCH_UP_INTERVAL == 0) | (end == len(order.rows)) | (not keeps)
        # a branch would copy the table: where catching up is not due, every row counts as caught up
        whole = lag._replace(done=jnp.where(due, lag.done, lag.at))
        caught, opt_state, params = rows.catch_up(table, None, whole, state.opt_state, state.params)
        state = state._replace(params=params, opt_state=opt_state)
        return end, lag._replace(done=jnp.where(due, caught.done, lag.done)), state

    _, lag, state = jax.lax.while_loop(lambda carried: carried[0] < stop, interval, (start, lag, state))
    return state._replace(behind=stop - lag.done) if keeps else state
