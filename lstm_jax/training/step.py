"""Compiled steps over device-resident rows.

An epoch is a table of numbers of examples (steps, batch), a permutation drawn from `fold_in(key, epoch)` unless the examples have an
order of their own. `make_run_steps` compiles one program that takes any stretch of those steps, so that progress, checkpoints and
interrupts between stretches cost no compilation and change no number.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from lstm_jax.runtime import sharding
from lstm_jax.training.optimizers import ByRows, RowOptimizer
from lstm_jax.training.state import TrainState

# objective(params, batch, weight (B,), key) -> loss, figures
# the weights sum to 1, a filled-up row has 0; each figure is a mean by weight
# where the state has a carry: objective(params, batch, weight, key, carry) -> loss, (figures, carry for the next step)
Objective = Callable[..., tuple[jax.Array, Any]]


@dataclass(frozen=True)
class LookupObjective:
    """An objective that reads one parameter, a table, only by looking rows up in it.

    A step then differentiates by the rows looked up, at most B x T of them, and never makes the table's gradient, where the optimiser can
    take it by rows.
    """

    loss: Callable
    """loss(params, batch, weight, key, vectors=None) as `Objective`; `vectors` are the rows that it would look up. Only the sum of its
    gradients by the vectors of an id matters."""
    table: str
    """The parameter's name."""
    ids: Callable[[Any], jax.Array]
    """ids(batch) -> the rows' numbers, of the shape that `vectors` has without its last axis, the last of which is the batch's."""

    def __call__(self, *args, **options) -> tuple[jax.Array, Any]:
        return self.loss(*args, **options)


UNIT = 32
"""Steps after which the rows of a table that no batch has read are caught up. Where this is done moves last bits, so that it has to be at
fixed steps of an epoch, not where a stretch happens to end: `TrainState.behind` carries the rest from one stretch to the next. Its time
does not stand out of noise (LOG.md)."""


def by_rows(objective: Any, optimizer: Any, params: Any) -> bool:
    """Whether steps differentiate by rows looked up, and update those."""
    return isinstance(objective, LookupObjective) and isinstance(optimizer, RowOptimizer) and optimizer.rows.serves(params[objective.table])


def no_rows_behind(objective: Any, optimizer: Any, params: Any) -> Any:
    """`TrainState.behind` of a new state with which stretches may end anywhere; () where nothing is updated by rows."""
    return np.zeros(len(params[objective.table]), np.int32) if by_rows(objective, optimizer, params) else ()


EXAMPLES = "examples"
"""The total that counts rows; beside it stands the sum over rows of each figure."""


class Order(NamedTuple):
    """rows: int32 (steps, B), which examples each step reads; weight: float32 (steps, B), summing to 1 over B, 0 where the last batch is
    filled up; examples: float32 (steps,), rows that are not."""

    rows: jax.Array
    weight: jax.Array
    examples: jax.Array


def steps_per_epoch(count: int, batch_size: int) -> int:
    """Steps in an epoch over `count` rows; the last one may be short, as in Keras' `fit`."""
    return -(-count // batch_size)


@partial(jax.jit, static_argnums=(1, 2))
def epoch_order(key: jax.Array, count: int, batch_size: int) -> Order:
    """A random permutation of `count` rows cut into batches."""
    steps = steps_per_epoch(count, batch_size)
    spare = steps * batch_size - count
    rows = jnp.concatenate([jax.random.permutation(key, count), jnp.zeros(spare, jnp.int32)]).astype(jnp.int32)
    real = (jnp.arange(steps * batch_size) < count).astype(jnp.float32).reshape(steps, batch_size)
    counts = real.sum(1)
    return Order(rows.reshape(steps, batch_size), real / counts[:, None], counts)


def take_rows(arrays: Any, numbers: jax.Array) -> Any:
    """Rows `numbers` (B,) of each array of a pytree."""
    return jax.tree.map(lambda rows: jnp.take(rows, numbers, axis=0, mode="clip"), arrays)


@dataclass(frozen=True)
class Examples:
    """What an epoch reads."""

    arrays: Any
    """Pytree of arrays, copied to each device."""
    count: int
    """Examples in an epoch."""
    gather: Callable[[Any, jax.Array], Any] = take_rows
    """gather(arrays, numbers (B,)) -> batch, compiled into the step."""
    order: Callable[[jax.Array, int, int], Order] = epoch_order
    """order(key of the epoch, count, batch size) -> Order."""

    @staticmethod
    def of_rows(arrays: Any) -> "Examples":
        """Row n of each array is example n; an epoch is a permutation of them."""
        return Examples(arrays, jax.tree.leaves(arrays)[0].shape[0])


def make_run_steps(
    objective: Objective,
    optimizer: optax.GradientTransformation,
    places: TrainState,
    mesh: Mesh,
    gather: Callable[[Any, jax.Array], Any] = take_rows,
) -> Callable:
    """Compile `steps_program` for a mesh: `run_steps(state, arrays, order, start, stop, key) -> state`; the state is donated.

    Args:
        objective: the loss; its batch is what `gather` takes from `arrays` for the step's numbers.
        places: the state's shardings.
    """
    run_steps = steps_program(objective, optimizer, gather, bool(jax.tree.leaves(places.carry)))
    compiled = jax.jit(run_steps, donate_argnums=0, out_shardings=places)

    def call(state, arrays, order, start: int, stop: int, key):
        with sharding.on(mesh):
            return compiled(state, arrays, order, np.int32(start), np.int32(stop), key)

    return call


def steps_program(
    objective: Objective,
    optimizer: optax.GradientTransformation,
    gather: Callable[[Any, jax.Array], Any] = take_rows,
    carries: bool = False,
) -> Callable[[TrainState, Any, Order, jax.Array, jax.Array, jax.Array], TrainState]:
    """Return `run_steps(state, arrays, order, start, stop, key) -> state`, a pure function: steps start..stop-1 of an epoch.

    Args:
        objective: the loss; its batch is what `gather` takes from `arrays` for the step's numbers.
        carries: whether the state has a carry, see `Objective`.
    """

    def loss(params, batch, weight, key, carry):
        if carries:
            return objective(params, batch, weight, key, carry)
        value, figures = objective(params, batch, weight, key)
        return value, (figures, carry)

    def update(state: TrainState, lag, batch, weight, key):
        """New parameters and state of the optimiser, figures, carry."""
        gradient, (figures, carry) = jax.grad(loss, has_aux=True)(state.params, batch, weight, key, state.carry)
        updates, opt_state = optimizer.update(gradient, state.opt_state, state.params)
        return lag, opt_state, optax.apply_updates(state.params, updates), figures, carry

    def update_by_rows(lookup: LookupObjective, rows_only: ByRows, state: TrainState, lag, batch, weight, key):
        name, ids = lookup.table, lookup.ids(batch)
        lag, opt_state, params = rows_only.catch_up(name, ids, lag, state.opt_state, state.params)
        others = {key: param for key, param in params.items() if key != name}

        def loss_of(others, vectors):
            return lookup.loss(others | {name: params[name]}, batch, weight, key, vectors)

        vectors = sharding.gather_columns(params[name], ids)
        (gradient, rows), figures = jax.grad(loss_of, (0, 1), has_aux=True)(others, vectors)
        return *rows_only.update_by_rows(gradient, name, ids, rows, lag, opt_state, params), figures, state.carry

    def run_steps(state: TrainState, arrays: Any, order: Order, start: jax.Array, stop: jax.Array, key: jax.Array) -> TrainState:
        step: Callable = update
        lag: Any = ()
        catch_up: Callable | None = None
        if by_rows(objective, optimizer, state.params):
            lookup, rows_only = cast(LookupObjective, objective), cast(RowOptimizer, optimizer).rows
            step = partial(update_by_rows, lookup, rows_only)
            lag = rows_only.begin(state.params[lookup.table], state.opt_state, len(order.rows), start, state.behind)

            def all_rows(lag, state):
                lag, opt_state, params = rows_only.catch_up(lookup.table, None, lag, state.opt_state, state.params)
                return lag, state._replace(params=params, opt_state=opt_state)

            catch_up = all_rows

        def body(n: jax.Array, carried: tuple[Any, TrainState]) -> tuple[Any, TrainState]:
            lag, state = carried
            step_key = jax.random.fold_in(key, state.step)
            lag, opt_state, params, figures, carry = step(state, lag, gather(arrays, order.rows[n]), order.weight[n], step_key)
            figures = {name: value.astype(jnp.float32) for name, value in figures.items()} | {EXAMPLES: jnp.ones(())}
            totals = {name: total + figures[name] * order.examples[n] for name, total in state.totals.items()}
            return lag, TrainState(state.step + 1, params, opt_state, totals, carry, state.behind)

        if catch_up is None:
            return jax.lax.fori_loop(start, stop, body, (lag, state))[1]

        keeps = bool(jax.tree.leaves(state.behind))

        def unit(carried):
            n, lag, state = carried
            end = jnp.minimum(stop, (n // UNIT + 1) * UNIT)
            lag, state = jax.lax.fori_loop(n, end, body, (lag, state))
            due = (end % UNIT == 0) | (end == len(order.rows)) | (not keeps)
            # no branch, which would copy the table: where it is not due, every row passes for caught up
            caught, state = catch_up(lag._replace(done=jnp.where(due, lag.done, lag.at)), state)
            return end, lag._replace(done=jnp.where(due, caught.done, lag.done)), state

        _, lag, state = jax.lax.while_loop(lambda carried: carried[0] < stop, unit, (start, lag, state))
        return state._replace(behind=stop - lag.done) if keeps else state

    return run_steps


def make_predict(
    forward: Callable[[Any, Any], jax.Array],
    mesh: Mesh,
    batch_size: int = 512,
    prepare: Callable[[Any, int], Any] = lambda params, count: params,
) -> Callable[[Any, Any], np.ndarray]:
    """Compile `predict(params, rows) -> array`: `forward(params, batch)` over rows (a pytree of (N, ...)), in batches over the mesh.

    `prepare(params, rows in all)` gives what `forward` is called with in place of the parameters; it runs once a call.
    """

    @jax.jit
    def compiled(params, batches):
        leaf = jax.tree.leaves(batches)[0]
        ready = prepare(params, leaf.shape[0] * leaf.shape[1])
        return jax.lax.map(lambda batch: forward(ready, batch), batches)

    def predict(params, rows) -> np.ndarray:
        count = jax.tree.leaves(rows)[0].shape[0]
        # small inputs get a small batch, that still divides over the devices
        size = min(batch_size, max(8, 1 << (count - 1).bit_length())) if count else batch_size
        size = -(-size // mesh.size) * mesh.size
        padded = -(-count // size) * size

        def cut(array):
            array = np.concatenate([array, np.zeros((padded - count, *array.shape[1:]), array.dtype)])
            return jax.device_put(array.reshape(-1, size, *array.shape[1:]), sharding.replicated(mesh))

        with sharding.on(mesh):
            outputs = compiled(params, jax.tree.map(lambda a: cut(np.asarray(a)), rows))
        return np.asarray(outputs).reshape(padded, *outputs.shape[2:])[:count]

    return predict
