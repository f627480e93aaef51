"""Compiled training steps, which gather their batches from arrays on the device.

`make_run_steps` compiles one function that runs the steps from `start` to `stop` - 1 of an epoch, for any `start` and `stop`. An epoch can
therefore be divided into chunks of steps. After each chunk, the progress can be shown, a checkpoint can be saved or an interrupt can be
handled. The chunks need no further compilation and do not change the results.
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
from lstm_jax.training.lookups import FoundLookups, find_lookups
from lstm_jax.training.microbatches import accumulated, for_each
from lstm_jax.training.row_sparse import Optimizer, RowOptimizer, RowUpdate
from lstm_jax.training.state import EXAMPLES, FINITE, TrainState

Objective = Callable[..., tuple[jax.Array, Any]]
"""Function objective(params, batch, weight, key) that returns the loss of a batch and a dict of metrics. `weight` (B,) holds the weight of
each of the B examples. The weights of a batch sum to 1, and examples that only fill up a batch have weight 0. The loss and each metric are
sums over the examples, each multiplied by its weight, so that the results for the microbatches of a batch can be added up. If the training
state has a carry (arrays that each step hands to the next), the function is objective(params, batch, weight, key, carry), and it returns
the loss and a pair of the metrics and the new carry."""
CATCH_UP_INTERVAL = 32
"""Number of steps between two catch-ups of an embedding table. With row-sparse updates, a row of the table misses all steps that do not
look it up. In a catch-up, all rows take the steps that they have missed. A catch-up changes the last bits of results. Therefore catch-ups
always happen at the same steps of an epoch, and `TrainState.behind` hands the numbers of missed steps from one chunk of steps to the next.
The effect of the interval on speed is within noise (experiments/LOG.md)."""


@dataclass(frozen=True)
class LookupObjective:
    """Training objective (see `Objective`) that uses one of the parameters, called the table, only to look up rows.

    An example of a table is an embedding.

    If the optimiser has a row-sparse update, a training step computes gradients only for the rows of the table that the batch looks up, and
    never forms the gradient of the whole table. A batch of B sequences of T ids looks up at most B * T rows.
    """

    loss: Callable
    """Function loss(params, batch, weight, key, vectors=None) that returns the same results as an `Objective`. `vectors` are the rows that
    the batch looks up. If `vectors` is None, the function looks up the rows itself. If a row is looked up several times, `vectors` contains
    it several times, and only the sum of the gradients of these copies is used."""
    table: str
    """Name of the table among the parameters."""
    ids: Callable[[Any], jax.Array]
    """Function from a batch to an array (..., B) of the indices of the rows that the batch looks up. B is the batch size. For E columns of
    the table, the argument `vectors` of `loss` has the shape (..., B, E)."""

    def __call__(self, *args, **options) -> tuple[jax.Array, Any]:
        return self.loss(*args, **options)

    def indices(self, params: Any, batch: Any, weight: jax.Array, key: jax.Array) -> list[jax.Array]:
        """Return a list with one array (..., B): the indices of the table rows that a batch looks up. Only `batch` is used."""
        del params, weight, key
        return [self.ids(batch)]

    def vectors(self, table: jax.Array, indices: list[jax.Array]) -> list[jax.Array]:
        """Look up rows of the table, and return a list with one array (..., B, E) of rows for each array (..., B) in `indices`.

        E is the number of columns of the table.
        """
        return [sharding.gather_columns(table, ids) for ids in indices]

    def loss_of(self, params: Any, vectors: list[jax.Array], *args: Any) -> tuple[jax.Array, Any]:
        """Return the results of the objective, computed from rows of the table that have already been looked up.

        The table is the parameter that the attribute `table` names. The list `vectors` contains a single array, the looked-up rows of the
        table. The objective uses these rows, and does not look them up in `params`. `args` are the arguments of the objective after
        `params`.
        """
        return self.loss(params, *args, vectors[0])


def row_sparse(objective: Any, optimizer: Any, params: Any) -> bool:
    """Return whether training steps use the row-sparse update of the optimiser instead of the dense update.

    A row-sparse update changes only those rows of an embedding table that a step looks up. A dense update changes whole parameters. The
    result is true if three conditions hold: the objective says which rows it looks up (as a `LookupObjective` or a `FoundLookups`), the
    optimiser has a row-sparse update (as a `RowOptimizer`), and this update is available for the table.
    """
    looks_up = isinstance(objective, LookupObjective | FoundLookups)
    return looks_up and isinstance(optimizer, RowOptimizer) and optimizer.rows.serves(params[objective.table])


def row_sparse_lookups(objective: Objective, optimizer: Any, params: Any, *args: Any) -> FoundLookups | None:
    """Return the objective as a `FoundLookups`, or None if the training steps must use the dense update of the optimiser.

    A `FoundLookups` holds the traced objective, and describes the lookups in its largest embedding table. The steps must use the dense
    update if the optimiser is not a `RowOptimizer`, if the objective has no embedding table, or if the row-sparse update is not available
    for the largest one.

    Args:
        objective: function objective(params, *args); see `Objective`.
        optimizer: optimiser of the training.
        params: parameters.
        args: further arguments of the objective, as arrays or `jax.ShapeDtypeStruct` objects.
    """
    if not isinstance(optimizer, RowOptimizer):
        return None
    found = find_lookups(objective, params, *args)
    return found if row_sparse(found, optimizer, params) else None


def no_rows_behind(objective: Any, optimizer: Any, params: Any) -> Any:
    """Return the value of `TrainState.behind` at the start of training, when no row of the embedding table waits for an update.

    The value is an array of zeros (V,) for a table of V rows, or an empty tuple if each step updates all rows.
    """
    return np.zeros(len(params[objective.table]), np.int32) if row_sparse(objective, optimizer, params) else ()


def make_run_steps(
    objective: Objective,
    optimizer: Optimizer,
    shardings: TrainState,
    mesh: Mesh,
    gather: Callable[[Any, jax.Array], Any] = take_rows,
    steps: int = 0,
    microbatches: int = 1,
) -> Callable:
    """Return a compiled function run_steps(state, arrays, order, start, stop, key) that runs the steps start .. stop - 1 of an epoch.

    The function returns the new state. The given state must not be used after the call, because its memory is reused (donated).
    `steps_program` explains the arguments of the function.

    Args:
        objective: function that returns the loss and the metrics of a batch; see `Objective`.
        optimizer: an optimiser with a dense or a row-sparse update.
        shardings: shardings of the training state.
        mesh: devices that a batch is sharded over.
        gather: function gather(arrays, numbers) that returns the batch of the examples with the indices `numbers`.
        steps: number of steps of an epoch. If 0, it is the number of steps in the argument `order` of `run_steps`.
        microbatches: number of parts into which each batch is divided. Their gradients are computed one after another, and their sum is the
            gradient of the batch.
    """
    run_steps = steps_program(objective, optimizer, gather, bool(jax.tree.leaves(shardings.carry)), steps, microbatches)
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
    steps: int = 0,
    microbatches: int = 1,
) -> Callable[[TrainState, Any, Order, jax.Array, jax.Array, jax.Array], TrainState]:
    """Return a pure function run_steps(state, arrays, order, start, stop, key) that runs the steps start .. stop - 1 of an epoch.

    The function returns the new state. Its argument `state` is the `TrainState` before the steps, `arrays` is a pytree of arrays that hold
    the training examples, `order` is the `Order` of the epoch or of a part of it that contains these steps, and `key` is the random key of
    the run.

    Args:
        objective: function that returns the loss and the metrics of a batch; see `Objective`.
        optimizer: an optimiser with a dense or a row-sparse update.
        gather: function gather(arrays, numbers) that returns the batch of the examples with the indices `numbers`.
        carries: whether the training state has a carry (arrays that each step hands to the next). If true, the carry is the last argument
            of the objective; see `Objective`.
        steps: number of steps of an epoch. If 0, it is the number of steps in the argument `order` of `run_steps`.
        microbatches: number of parts into which each batch is divided. Their gradients are computed one after another, and their sum is the
            gradient of the batch.
    """

    def run_steps(state: TrainState, arrays: Any, order: Order, start: jax.Array, stop: jax.Array, key: jax.Array) -> TrainState:
        body = partial(_take_step, gather, arrays, order, key)
        if row_sparse(objective, optimizer, state.params):
            lookup, rows = cast(LookupObjective | FoundLookups, objective), cast(RowOptimizer, optimizer).rows
            last = steps or len(order.rows)
            lag = rows.begin(state.params[lookup.table], state.opt_state, last, start, state.behind)
            return _row_sparse_steps(
                partial(body, partial(row_sparse_update, lookup, rows, carries, microbatches)),
                lookup.table,
                rows,
                lag,
                state,
                last,
                start,
                stop,
            )
        update = partial(dense_update, objective, optimizer, carries, microbatches)
        return jax.lax.fori_loop(start, stop, partial(body, update), ((), state))[1]

    return run_steps


def dense_update(objective: Objective, optimizer: Any, carries: bool, microbatches: int, state: TrainState, lag, batch, weight, key):
    """Take one training step that updates whole parameters, not only the rows that the batch looks up.

    Args:
        objective: function that returns the loss and the metrics of a batch; see `Objective`.
        optimizer: optimiser with a dense update.
        carries: whether the last argument of the objective is the carry (arrays that each step hands to the next).
        microbatches: number of parts into which the batch is divided.
        state: training state before the step.
        lag: not used, and returned unchanged. The argument exists because `row_sparse_update`, which is called in the same way, needs a
            `Lag` at this position.
        batch: the batch.
        weight: weights (B,) of the examples in the batch.
        key: random key of the step.

    Returns:
        Five values after the step: `lag`, the state of the optimiser, the parameters, the metrics, and the carry.
    """

    def loss(params, batch, weight, key, carry):
        if carries:
            return objective(params, batch, weight, key, carry)
        value, metrics = objective(params, batch, weight, key)
        return value, (metrics, carry)

    def part(batch, weight, key, carry, _):
        gradient, (metrics, carry) = jax.grad(loss, has_aux=True)(state.params, batch, weight, key, carry)
        return (gradient, metrics), (), carry

    (gradient, metrics), _, carry = accumulated(part, microbatches, batch, weight, key, state.carry)
    updates, opt_state = optimizer.update(gradient, state.opt_state, state.params)
    return lag, opt_state, optax.apply_updates(state.params, updates), metrics, carry


def row_sparse_update(
    lookup: LookupObjective | FoundLookups,
    rows_only: RowUpdate,
    carries: bool,
    microbatches: int,
    state: TrainState,
    lag,
    batch,
    weight,
    key,
):
    """Take one training step that updates, in the embedding table, only the rows that the batch looks up.

    The gradient of the table is computed only for these rows. All parameters other than the table are updated completely.

    Args:
        lookup: objective that uses the table only to look up rows.
        rows_only: row-sparse update of the optimiser.
        carries: whether the last argument of the objective is the carry (arrays that each step hands to the next).
        microbatches: number of parts into which the batch is divided.
        state: training state before the step.
        lag: `Lag` before the step, which records how many steps each row of the table has taken.
        batch: the batch.
        weight: weights (B,) of the examples in the batch.
        key: random key of the step.

    Returns:
        Five values after the step: the `Lag`, the state of the optimiser, the parameters, the metrics, and the carry.
    """
    name, rest = lookup.table, (batch, weight, key, state.carry)

    def args(*given):
        return given if carries else given[:3]

    indices = for_each(lambda *given: lookup.indices(state.params, *args(*given)), microbatches, *rest)
    ids = _joined(indices, 0)
    lag, opt_state, params = rows_only.catch_up(name, ids, lag, state.opt_state, state.params)
    others = {key: param for key, param in params.items() if key != name}

    def part(batch, weight, key, carry, indices):
        def loss_of(others, vectors):
            value, found = lookup.loss_of(others | {name: params[name]}, vectors, *args(batch, weight, key, carry))
            return value, found if carries else (found, carry)

        vectors = lookup.vectors(params[name], indices)
        (gradient, rows), (metrics, carry) = jax.grad(loss_of, (0, 1), has_aux=True)(others, vectors)
        return (gradient, metrics), rows, carry

    (gradient, metrics), rows, carry = accumulated(part, microbatches, *rest, indices)
    return *rows_only.update(gradient, name, ids, _joined(rows, 1), lag, opt_state, params), metrics, carry


def _joined(arrays: list[jax.Array], columns: int) -> jax.Array:
    if len(arrays) == 1:
        return arrays[0]
    return jnp.concatenate([array.reshape(-1, *array.shape[array.ndim - columns :]) for array in arrays])


def _take_step(
    gather, arrays, order: Order, key, update: Callable, n: jax.Array, carried: tuple[Any, TrainState]
) -> tuple[Any, TrainState]:
    """Take step n of the epoch, and return a pair of the new `Lag` and the new training state."""
    lag, state = carried
    at = n - order.first
    step_key = jax.random.fold_in(key, state.step)
    lag, opt_state, params, metrics, carry = update(state, lag, gather(arrays, order.rows[at]), order.weight[at], step_key)
    count = order.examples[at]
    added = {name: value.astype(jnp.float32) * count for name, value in metrics.items()} | {EXAMPLES: count.astype(jnp.int32)}
    totals = {name: total + added[name] for name, total in state.totals.items() if name != FINITE}
    if FINITE in state.totals:
        totals[FINITE] = jnp.where(jnp.isfinite(totals.get("loss", 0.0)), state.step + 1, state.totals[FINITE])
    return lag, TrainState(state.step + 1, params, opt_state, totals, carry, state.behind)


def catch_up_if(due: jax.Array, rows: RowUpdate, table: str, lag, opt_state: Any, params: Any) -> tuple[Any, Any, Any]:
    """Let all rows of the embedding table `table` take the training steps that they missed, but only if `due` is true.

    Args:
        due: scalar of dtype bool. If false, nothing changes.
        rows: row-sparse update of the optimiser.
        table: name of the table among the parameters.
        lag: `Lag` of the table, which records how many steps each row has taken.
        opt_state: state of the optimiser.
        params: parameters.

    Returns:
        The `Lag`, the state of the optimiser and the parameters.
    """
    # `lax.cond` would copy the table; instead, if no catch-up is due, all rows are marked as having missed no step
    whole = lag._replace(done=jnp.where(due, lag.done, lag.at))
    caught, opt_state, params = rows.catch_up(table, None, whole, opt_state, params)
    return lag._replace(done=jnp.where(due, caught.done, lag.done)), opt_state, params


def _row_sparse_steps(body: Callable, table: str, rows: RowUpdate, lag, state: TrainState, last: int, start, stop) -> TrainState:
    """Take steps start .. stop - 1 of an epoch with row-sparse updates, and return the new training state."""
    keeps = bool(jax.tree.leaves(state.behind))

    def interval(carried):
        n, lag, state = carried
        end = jnp.minimum(stop, (n // CATCH_UP_INTERVAL + 1) * CATCH_UP_INTERVAL)
        lag, state = jax.lax.fori_loop(n, end, body, (lag, state))
        due = (end % CATCH_UP_INTERVAL == 0) | (end == last) | (not keeps)
        lag, opt_state, params = catch_up_if(due, rows, table, lag, state.opt_state, state.params)
        return end, lag, state._replace(params=params, opt_state=opt_state)

    _, lag, state = jax.lax.while_loop(lambda carried: carried[0] < stop, interval, (start, lag, state))
    return state._replace(behind=stop - lag.done) if keeps else state
