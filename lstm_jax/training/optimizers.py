"""Optimisers by name, with schedule and clipping; Adam and RMSprop as Keras has them."""

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from lstm_jax.bounds import MOST
from lstm_jax.config import TrainConfig
from lstm_jax.errors import InputError, require
from lstm_jax.runtime import sharding
from lstm_jax.training.compiled_adam import Lag, Rates, adam_step, catch_up, serves, step_rows


class ByRows(NamedTuple):
    """How an optimiser takes a table's gradient by rows, and leaves the other rows for when they are read."""

    serves: Callable[[jax.Array], bool]
    """Whether it can here, for that table."""
    begin: Callable
    """begin(table (V, E), state, steps S, at, behind (V,) or ()) -> Lag, for steps `at`.. of S that rows are so many steps behind."""
    catch_up: Callable
    """catch_up(name of the table, ids (..., B), lag, state, params) -> lag, state, params: rows `ids`, or all if None, have taken
    every step begun."""
    update_by_rows: Callable
    """update_by_rows(gradient of the others, name of the table, ids (..., B), their gradients (..., B, E), lag, state, params)
    -> lag, state, params: those rows have taken this step, and after `catch_up` all have, as with a gradient of zeros but for theirs."""


class RowOptimizer(optax.GradientTransformation):
    """An optimiser that can take a table's gradient by rows too."""

    rows: ByRows

    def __new__(cls, init: Callable, update: Callable, rows: ByRows) -> "RowOptimizer":
        self = super().__new__(cls, init, update)
        self.rows = rows
        return self


def keras_adam(learning_rate, b1: float = 0.9, b2: float = 0.999, eps: float = 1e-7) -> RowOptimizer:
    """Adam (Kingma & Ba 2015) in the form of the last lines of its section 2, as Keras computes it.

        m' = b1 m + (1 - b1) g;  v' = b2 v + (1 - b2) g^2;  p' = p - lr sqrt(1 - b2^t) / (1 - b1^t) m' / (sqrt(v') + eps)

    Departs from `optax.adam`, which adds eps after the correction of v: the difference shows where gradients are as small as eps.
    """
    rates = Rates(b1, b2, eps)

    def init(params):
        zeros = jax.tree.map(jnp.zeros_like, params)
        return optax.ScaleByAdamState(jnp.zeros((), jnp.int32), zeros, jax.tree.map(jnp.zeros_like, params))

    def advance(state):
        """Steps with this one, and what they make of the learning rate."""
        count = optax.safe_increment(state.count)
        rate = jnp.asarray(learning_rate(state.count) if callable(learning_rate) else learning_rate)
        time = jnp.asarray(count).astype(rate.dtype)
        return count, rate * jnp.sqrt(1 - b2**time) / (1 - b1**time)

    def update(updates, state, params=None):
        del params
        count, scale = advance(state)

        parts = jax.tree.map(lambda m, v, g: adam_step(rates, m, v, g, scale.astype(m.dtype)), state.mu, state.nu, updates)
        steps, m, v = jax.tree.transpose(jax.tree.structure(state.mu), None, parts)
        return steps, optax.ScaleByAdamState(count, m, v)

    def begin(table, state, steps, at=0, behind=()):
        at = jnp.asarray(at, jnp.int32)
        counts = state.count - at.astype(state.count.dtype) + jnp.arange(steps, dtype=state.count.dtype)
        scales = jax.vmap(lambda count: advance(state._replace(count=count))[1])(counts)
        return Lag(scales.astype(table.dtype), at, at - (jnp.zeros(len(table), jnp.int32) if isinstance(behind, tuple) else behind))

    def with_table(name, results, lag, state, params):
        table, m, v, done = results
        state = state._replace(mu=state.mu | {name: m}, nu=state.nu | {name: v})
        return lag._replace(done=done), state, params | {name: table}

    def behind(name, ids, lag, state, params):
        results = catch_up(rates, name, params[name], state.mu[name], state.nu[name], lag, ids)
        return with_table(name, results, lag, state, params)

    def update_by_rows(updates, name, ids, rows, lag, state, params):
        results = step_rows(rates, name, params[name], state.mu[name], state.nu[name], lag, ids, rows)
        lag, state, params = with_table(name, results, lag, state, params)
        rest, mu, nu = ({key: leaf for key, leaf in tree.items() if key != name} for tree in (params, state.mu, state.nu))
        steps, new = update(updates, state._replace(mu=mu, nu=nu))
        moments: Any = new
        state = new._replace(mu=moments.mu | {name: state.mu[name]}, nu=moments.nu | {name: state.nu[name]})
        params = jax.tree.map(jnp.add, rest, steps) | {name: params[name]}
        return lag._replace(at=lag.at + 1), state, params

    return RowOptimizer(init, update, ByRows(serves, begin, behind, update_by_rows))


def keras_rmsprop(learning_rate, rho: float = 0.9, eps: float = 1e-7) -> optax.GradientTransformation:
    """RMSprop (Tieleman & Hinton 2012) with Keras' defaults: p' = p - lr g / sqrt(v' + eps)."""
    return optax.rmsprop(learning_rate, decay=rho, eps=eps, eps_in_sqrt=True)


def clipped(optimizer: optax.GradientTransformation, most: float) -> optax.GradientTransformation:
    """Return `optimizer` behind `optax.clip_by_global_norm(most)`: a gradient whose global norm is larger is scaled down to it.

    A `RowOptimizer` stays one. Its norm is that of the dense gradient: the gradients of a row that comes several times are added up first.
    The state is that of `optax.chain` in either case.
    """
    chain = optax.chain(optax.clip_by_global_norm(most), optimizer)
    if not isinstance(optimizer, RowOptimizer):
        return chain
    inner = optimizer.rows

    def begin(table, state, *steps):
        return inner.begin(table, state[1], *steps)

    def catch_up(name, ids, lag, state, params):
        lag, own, params = inner.catch_up(name, ids, lag, state[1], params)
        return lag, (state[0], own), params

    def update_by_rows(updates, name, ids, rows, lag, state, params):
        once = summed_rows(ids, rows, params[name], name)
        norm = optax.tree_utils.tree_norm((updates, once))
        updates, rows = jax.tree.map(lambda g: jnp.where(norm < most, g, g / norm.astype(g.dtype) * most), (updates, rows))
        lag, own, params = inner.update_by_rows(updates, name, ids, rows, lag, state[1], params)
        return lag, (state[0], own), params

    return RowOptimizer(chain.init, chain.update, ByRows(inner.serves, begin, catch_up, update_by_rows))


def summed_rows(ids: jax.Array, rows: jax.Array, table: jax.Array, name: str) -> jax.Array:
    """Sum the gradients (..., B, E) of equal `ids` (..., B): the non-zero rows of the dense gradient of `table` (V, E), and rows of zeros.

    Negative ids count from the end, ids outside the table are passed over, as `ByRows.update_by_rows` has it.
    """
    if sharding.param_spec(sharding.devices(), (jax.tree_util.DictKey(name),), table):
        rows = sharding.rows_to_columns(rows)
    ids, rows = ids.reshape(-1), rows.reshape(-1, rows.shape[-1])
    ids = jnp.where(ids < 0, ids + len(table), ids)
    inside = (ids >= 0) & (ids < len(table))
    order = jnp.argsort(jnp.where(inside, ids, len(table)))  # stable: the sums have the same bits each time
    ids, rows = ids[order], jnp.where(inside[:, None], rows, 0)[order]
    groups = jnp.cumsum(jnp.diff(ids, prepend=ids[:1]) != 0)
    return jax.ops.segment_sum(rows, groups, len(ids), indices_are_sorted=True)


OURS: dict[str, Callable] = {"adam": keras_adam, "rmsprop": keras_rmsprop}


def make_schedule(config: TrainConfig, total_steps: int) -> optax.Schedule | float:
    """The learning rate as a function of the step, over `total_steps` steps with the warm-up included."""
    peak, end, warmup = config.learning_rate, config.final_learning_rate, config.warmup_steps
    require(total_steps <= MOST, "epochs", config.epochs, f"the run would have {total_steps:,} steps: give fewer, {MOST} steps at most")
    require(warmup < total_steps, "warmup_steps", warmup, f"the run has {total_steps} steps in all")
    decay_steps = total_steps - warmup
    match config.schedule:
        case "cosine":
            decay = optax.cosine_decay_schedule(peak, decay_steps, alpha=end / peak)
        case "linear":
            decay = optax.linear_schedule(peak, end, decay_steps)
        case "exponential":
            decay = optax.exponential_decay(peak, decay_steps, end / peak)
        case _:
            if not warmup:
                return peak
            decay = optax.constant_schedule(peak)
    schedule = optax.join_schedules([optax.linear_schedule(0.0, peak, warmup), decay], [warmup]) if warmup else decay
    return lambda step: schedule(jnp.asarray(step, float))  # optax mixes types that strict promotion keeps apart


def make_optimizer(config: TrainConfig, total_steps: int) -> optax.GradientTransformation:
    """The optimiser of a run.

    Raises:
        InputError: if the name is neither ours nor an optimiser of optax that needs a learning rate only.
    """
    schedule = make_schedule(config, total_steps)
    factory: Any = OURS.get(config.optimizer) or getattr(optax, config.optimizer, None)
    try:
        parameters = inspect.signature(factory).parameters if callable(factory) else {}
        require("learning_rate" in parameters, "optimizer", config.optimizer, "give adam, rmsprop, sgd, lion, adamw or another of optax")
        optimizer: Any = factory(learning_rate=schedule)
        known = isinstance(optimizer, optax.GradientTransformation) and not config.optimizer.startswith("scale_by_")
        require(known, "optimizer", config.optimizer, "give adam, rmsprop, sgd, lion or adamw")
        toy = {"w": jax.ShapeDtypeStruct((2, 2), jnp.float32)}  # a line search asks for the loss too: find out now, not in the first step
        jax.eval_shape(lambda w: optimizer.update(w, optimizer.init(w), w), toy)
    except TypeError as error:
        raise InputError("optimizer", config.optimizer, f"it needs more than a learning rate ({error})") from error
    if config.clip_norm:
        return clipped(optimizer, config.clip_norm)
    return optimizer
