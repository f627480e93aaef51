"""Compiled training steps over device-resident examples.

`make_run_steps` compiles one program that takes any chunk of the steps of an epoch. Progress, checkpoints and interrupts between chunks
therefore need no further compilation and change no number.
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
"""objective(params, batch, weight (B,), key) -> loss, metrics. The weights sum to 1; they are 0 for rows that only fill up a batch. Each
metric is a weighted mean. If the state has a carry, the form is objective(params, batch, weight, key, carry) -> loss, (metrics, new
carry)."""
EXAMPLES = "examples"
"""Name of the total that counts examples; every other total is the sum of a metric over the examples."""
CATCH_UP_INTERVAL = 32
"""Number of steps after which all rows of a table take the steps that they missed. Because this changes last bits, it happens at fixed
steps of an epoch, and `TrainState.behind` hands the missed steps from one chunk to the next. The effect of the interval on speed is within
noise (LOG.md)."""


@dataclass(frozen=True)
class LookupObjective:
    """An objective that reads one parameter, a table, only by looking up rows of it.

    If the optimiser has a row-sparse update, a step takes the gradient with respect to the rows that it looks up, and never forms the
    gradient of the whole table. A batch of B sequences of T ids looks up at most B * T rows.
    """

    loss: Callable
    """loss(params, batch, weight, key, vectors=None), as in `Objective`. `vectors` are the rows that the loss would otherwise look up. If
    an id occurs several times, only the sum of the gradients of its vectors is used."""
    table: str
    """Name of the parameter that is the table."""
    ids: Callable[[Any], jax.Array]
    """ids(batch) -> numbers of the rows to look up, in the shape of `vectors` without its last axis. The last axis of the result is the
    batch axis."""

    def __call__(self, *args, **options) -> tuple[jax.Array, Any]:
        return self.loss(*args, **options)


def row_sparse(objective: Any, optimizer: Any, params: Any) -> bool:
    """Return whether steps take the gradient with respect to the looked-up rows of the table, and update only those rows."""
    return isinstance(objective, LookupObjective) and isinstance(optimizer, RowOptimizer) and optimizer.rows.serves(params[objective.table])


def no_rows_behind(objective: Any, optimizer: Any, params: Any) -> Any:
    """Return the `TrainState.behind` of a new state, zeros (V,), with which chunks may end at any step; () if no update is row-sparse."""
    return np.zeros(len(params[objective.table]), np.int32) if row_sparse(objective, optimizer, params) else ()


def make_run_steps(
    objective: Objective,
    optimizer: Optimizer,
    shardings: TrainState,
    mesh: Mesh,
    gather: Callable[[Any, jax.Array], Any] = take_rows,
) -> Callable:
    """Compile `steps_program` for a mesh, and return run_steps(state, arrays, order, start, stop, key) -> state.

    The given state is donated: it must not be used after the call.

    Args:
        objective: function that returns the loss of a batch; see `Objective`.
        optimizer: a dense or a row-sparse optimiser.
        shardings: shardings of the state.
        mesh: devices that a batch is sharded over.
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
    """Return run_steps(state, arrays, order, start, stop, key) -> state, a pure function that takes steps start .. stop - 1 of an epoch.

    Args:
        objective: function that returns the loss of a batch; see `Objective`.
        optimizer: a dense or a row-sparse optimiser.
        gather: gather(arrays, numbers) -> batch.
        carries: whether the state has a carry; see `Objective`.
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
    """Return the lag, the state of the optimiser, the parameters, the metrics and the carry after one dense step."""

    def loss(params, batch, weight, key, carry):
        if carries:
            return objective(params, batch, weight, key, carry)
        value, metrics = objective(params, batch, weight, key)
        return value, (metrics, carry)

    gradient, (metrics, carry) = jax.grad(loss, has_aux=True)(state.params, batch, weight, key, state.carry)
    updates, opt_state = optimizer.update(gradient, state.opt_state, state.params)
    return lag, opt_state, optax.apply_updates(state.params, updates), metrics, carry


def _row_sparse_update(lookup: LookupObjective, rows_only: RowUpdate, state: TrainState, lag, batch, weight, key):
    """Return what `_dense_update` returns, but take the gradient of the looked-up rows of the table only, and update only these rows."""
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
    """Take step n of the epoch: update the state, and add the metrics of the step to the totals."""
    lag, state = carried
    step_key = jax.random.fold_in(key, state.step)
    lag, opt_state, params, metrics, carry = update(state, lag, gather(arrays, order.rows[n]), order.weight[n], step_key)
    metrics = {name: value.astype(jnp.float32) for name, value in metrics.items()} | {EXAMPLES: jnp.ones(())}
    totals = {name: total + metrics[name] * order.examples[n] for name, total in state.totals.items()}
    return lag, TrainState(state.step + 1, params, opt_state, totals, carry, state.behind)


def _row_sparse_steps(body: Callable, table: str, rows: RowUpdate, lag, state: TrainState, order: Order, start, stop) -> TrainState:
    """Take steps start .. stop - 1, and let all rows take their missed steps at multiples of `CATCH_UP_INTERVAL`."""
    keeps = bool(jax.tree.leaves(state.behind))

    def interval(carried):
        n, lag, state = carried
        end = jnp.minimum(stop, (n // CATCH_UP_INTERVAL + 1) * CATCH_UP_INTERVAL)
        lag, state = jax.lax.fori_loop(n, end, body, (lag, state))
        due = (end % CATCH_UP_INTERVAL == 0) | (end == len(order.rows)) | (not keeps)
        # a branch would copy the table; instead, unless catching up is due, every row is marked as having missed no step
        whole = lag._replace(done=jnp.where(due, lag.done, lag.at))
        caught, opt_state, params = rows.catch_up(table, None, whole, state.opt_state, state.params)
        state = state._replace(params=params, opt_state=opt_state)
        return end, lag._replace(done=jnp.where(due, caught.done, lag.done)), state

    _, lag, state = jax.lax.while_loop(lambda carried: carried[0] < stop, interval, (start, lag, state))
    return state._replace(behind=stop - lag.done) if keeps else state
