"""Compiled training steps, which gather their batches from arrays on the device.

`make_run_steps` compiles one function that runs the steps from `start` to `stop` - 1 of
an epoch, for any `start` and `stop`. An epoch can therefore be divided into chunks of
steps. After each chunk, the progress can be shown, a checkpoint can be saved or an
interrupt can be handled. The chunks need no further compilation and do not change the
results.

A batch may be divided into microbatches, which are read one after another, and whose
gradients are added up. Residuals are the arrays that a forward pass keeps for the
backward pass. Only the residuals of one microbatch are in memory at a time. Apart from
rounding, the sum of the microbatches' gradients is the gradient of the whole batch,
because an objective is a sum over the examples of the batch. Each microbatch has
dropout masks of its own.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array, lax

from lstm_jax.base import sharding
from lstm_jax.base.errors import require
from lstm_jax.training.examples import Gather, take_rows
from lstm_jax.training.lookups import find_lookups
from lstm_jax.training.row_sparse import Lag, RowOptimizer, row_sparse
from lstm_jax.training.state import EXAMPLES, FINITE, TrainState

Objective = Callable[..., tuple[Array, Any]]
"""Function objective(params, batch, weight, key) that returns the loss of a batch and a
dict of metrics. `weight` (B,) holds the weight of each of the B examples. The weights
of a batch sum to 1, and examples that only fill up a batch have weight 0. The loss and
each metric are sums over the examples, each multiplied by its weight, so that the
results for the microbatches of a batch can be added up. If the training state has a
carry (arrays that each step hands to the next), the function is objective(params,
batch, weight, key, carry), and it returns the loss and a pair of the metrics and the
new carry."""
CATCH_UP_INTERVAL = 32
"""Number of steps between two catch-ups of an embedding table. With row-sparse updates,
a row of the table misses all steps that do not look it up. In a catch-up, all rows take
the steps that they have missed. A catch-up changes the last bits of results. Therefore
catch-ups always happen at the same steps of an epoch, and `TrainState.behind` hands the
numbers of missed steps from one chunk of steps to the next. The effect of the interval
on speed is within noise (experiments/LOG.md)."""


def largest_table(objective: Objective, optimizer, params, *args) -> str:
    """Return the name of the largest embedding table of an objective (see `lookups`) if
    its updates can be row-sparse, else "".

    `args` are the arguments of the objective after `params`, as arrays or
    `jax.ShapeDtypeStruct` objects.
    """
    if not isinstance(optimizer, RowOptimizer):
        return ""
    found = find_lookups(objective, params, *args)
    sparse = found and row_sparse(found.table, optimizer, params)
    return found.table if found and sparse else ""


def make_run_steps(
    objective: Objective,
    optimizer,
    shardings: TrainState | None = None,
    gather: Gather = take_rows,
    steps: int = 0,
    microbatches: int = 1,
) -> Any:
    """Return a jitted function run_steps(state, arrays, order, start, stop, key) that
    runs the steps start .. stop - 1 of an epoch.

    The function returns the new state. Its argument `state` is the `TrainState` before
    the steps, which must not be used afterwards, because its memory is reused
    (donated). `arrays` is a pytree of arrays that hold the training examples, `order`
    is the `Order` of the epoch or of a part of it that contains these steps, and `key`
    is the random key of the run. If `state.behind` names a table, each step updates
    only the rows of this table that its batch looks up. A batch is sharded over the
    current mesh; see `sharding.on`.

    `shardings` are those of the training state. `steps` is the number of steps of an
    epoch, or 0 for that in the argument `order` of `run_steps`. `microbatches` is the
    number of parts into which each batch is divided.
    """

    def with_carry(params, batch, weight, key, carry):
        if jax.tree.leaves(carry):
            return objective(params, batch, weight, key, carry)
        value, metrics = objective(params, batch, weight, key)
        return value, (metrics, carry)

    @partial(jax.jit, donate_argnums=0, out_shardings=shardings)
    def run_steps(state, arrays, order, start, stop, key):
        def step(n, carried):
            lag, state = carried
            at = n - order.first
            batch = gather(arrays, order.rows[at])
            weight = order.weight[at]
            own_key = jax.random.fold_in(key, state.step)
            given = (state, lag, batch, weight, own_key, microbatches)
            lag, new, metrics = take_step(with_carry, optimizer, *given)

            count = order.examples[at]
            added = {EXAMPLES: count.astype(jnp.int32)}
            for name, value in metrics.items():
                added[name] = value.astype(jnp.float32) * count
            totals = dict(state.totals)
            finite = totals.pop(FINITE, None)
            totals = {name: total + added[name] for name, total in totals.items()}
            if finite is not None:
                is_finite = jnp.isfinite(totals.get("loss", 0.0))
                totals[FINITE] = jnp.where(is_finite, new.step, finite)
            return lag, new._replace(totals=totals)

        if not state.behind:
            return lax.fori_loop(start, stop, step, (None, state))[1]

        def interval(carried):
            n, state = carried
            end = jnp.minimum(stop, (n // CATCH_UP_INTERVAL + 1) * CATCH_UP_INTERVAL)
            lag = lag_of(optimizer, state, n)
            lag, state = lax.fori_loop(n, end, step, (lag, state))
            last = end == (steps or len(order.rows))
            due = last | (end % CATCH_UP_INTERVAL == 0)
            return end, catch_up_if(due, optimizer, lag, state)

        def goes_on(carried):
            return carried[0] < stop

        return lax.while_loop(goes_on, interval, (start, state))[1]

    return run_steps


def lag_of(optimizer: RowOptimizer, state: TrainState, step) -> Lag:
    """Return the `Lag` of the table that `state.behind` names, before a step that is
    counted from a catch-up.
    """
    ((table, behind),) = state.behind.items()
    return optimizer.begin(
        state.params[table],
        state.opt_state,
        CATCH_UP_INTERVAL,
        step % CATCH_UP_INTERVAL,
        behind,
    )


def take_step(
    loss: Objective,
    optimizer,
    state: TrainState,
    lag,
    batch,
    weight,
    key,
    microbatches: int = 1,
) -> tuple[Any, TrainState, Any]:
    """Take one training step. If `state.behind` names a table, only those of its rows
    that the batch looks up are updated.

    `loss` is an `Objective` with a carry, which may be (). `lag` is the `Lag` of the
    table, or None if there is no table.

    Returns:
        The `Lag` and the state after the step, without changes of `totals` and
        `behind`, and the metrics.

    Raises:
        InputError: if the loss uses the table for anything else than looking up rows.
    """
    parts = _divided(microbatches, batch, weight, key, state.carry)
    params: Any = state.params
    opt_state = state.opt_state
    dense = params
    indices, ids, lookup = [], None, None
    table = next(iter(state.behind), "")
    if table:
        first = _first(microbatches, parts)
        lookup = find_lookups(loss, params, *first, table=table)
        remedy = (
            "the first batch looked up its rows: use it in the same way in all batches"
        )
        require(lookup, "embedding table", table, remedy)
    if lookup:

        def find(part):
            return lookup.indices(params, *part)

        indices = find(parts) if microbatches == 1 else lax.map(find, parts)
        ids = _joined(indices, 0)
        lag, opt_state, params = optimizer.catch_up(table, ids, lag, opt_state, params)
        dense = {name: param for name, param in params.items() if name != table}

    def part(batch, weight, key, carry, indices):
        given = (batch, weight, key, carry)

        def loss_of(dense, vectors):
            if not lookup:
                return loss(dense, *given)
            return lookup.loss_of(dense | {table: params[table]}, vectors, *given)

        vectors = lookup.vectors(params[table], indices) if lookup else []
        gradients = jax.grad(loss_of, (0, 1), has_aux=True)
        (gradient, rows), (metrics, carry) = gradients(dense, vectors)
        return (gradient, metrics), rows, carry

    found = _accumulated(part, microbatches, (*parts, indices))
    (gradient, metrics), rows, carry = found
    if lookup:
        rows = _joined(rows, 1)
        lag, opt_state, params = optimizer.update_rows(
            gradient, table, ids, rows, lag, opt_state, params
        )
    else:
        updates, opt_state = optimizer.update(gradient, opt_state, params)
        params = optax.apply_updates(params, updates)
    step = state.step + 1
    state = state._replace(step=step, params=params, opt_state=opt_state, carry=carry)
    return lag, state, metrics


def _joined(arrays: list[Array], columns: int) -> Array:
    if len(arrays) == 1:
        return arrays[0]
    return jnp.concatenate(
        [array.reshape(-1, *array.shape[array.ndim - columns :]) for array in arrays]
    )


def catch_up_if(
    due, optimizer: RowOptimizer, lag: Lag, state: TrainState
) -> TrainState:
    """Let all rows of the table that `state.behind` names take the steps that they
    missed, but only if the bool scalar `due` is true.

    In each case, set `state.behind` to the numbers of steps that the rows miss then.
    """
    (table,) = state.behind
    # `lax.cond` would copy the table; instead, if no catch-up is due, all rows are
    # marked as having missed no step
    whole = lag._replace(done=jnp.where(due, lag.done, lag.at))
    given = (whole, state.opt_state, state.params)
    caught, opt_state, params = optimizer.catch_up(table, None, *given)
    behind = lag.at - jnp.where(due, caught.done, lag.done)
    return state._replace(opt_state=opt_state, params=params, behind={table: behind})


def _divided(count: int, batch, weight, key, carry) -> tuple:
    """Divide a batch into microbatches, stacked on a new first axis, unless `count` is
    1.
    """
    # Microbatch k has the rows k, k + count, ..., so that no row moves to another
    # device of a mesh.
    if count == 1:
        return batch, weight, key, carry

    def divide(array):
        parts = array.reshape(array.shape[0] // count, count, *array.shape[1:])
        return sharding.constrain(jnp.moveaxis(parts, 1, 0), 1)

    batch, weight, carry = jax.tree.map(divide, (batch, weight, carry))
    keys = jax.vmap(partial(jax.random.fold_in, key))(jnp.arange(count))
    return batch, weight, keys, carry


def _first(count: int, parts):
    return parts if count == 1 else jax.tree.map(lambda leaf: leaf[0], parts)


def _accumulated(function: Callable, count: int, parts: tuple) -> tuple:
    # The function returns sums over examples, such as gradients, which are added up;
    # other results, which are stacked; and the carry, whose rows are returned in the
    # order of the batch.
    if count == 1:
        return function(*parts)

    def body(sums, part):
        added, own, carry = function(*part)
        return jax.tree.map(jnp.add, sums, added), (own, carry)

    shapes = jax.eval_shape(lambda parts: function(*_first(count, parts))[0], parts)
    zeros = jax.tree.map(jnp.zeros_like, shapes)
    sums, (own, carry) = lax.scan(body, zeros, parts)

    def in_order(array):  # (count, B / count, ...) -> (B, ...)
        rows = jnp.moveaxis(array, 0, 1).reshape(-1, *array.shape[2:])
        return sharding.constrain(rows, 0)

    return sums, own, jax.tree.map(in_order, carry)
