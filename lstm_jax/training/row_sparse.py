"""Optimisers that can update only those rows of a table that a training step looks up.

A table is a parameter of V rows and E columns, such as an embedding. B is the batch size. A `RowOptimizer` combines a dense update, which
is a transformation of optax, with a row-sparse update, which is a `RowUpdate`. Apart from rounding, both give the same result.
`optimizers.clipped` adds gradient clipping to both.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax

from lstm_jax.runtime import sharding
from lstm_jax.training.compiled_adam import Lag, Rates, catch_up, serves, step_rows

Advance = Callable[[Any], tuple[Any, jax.Array, jax.Array]]
"""Function from the state of Adam to three values: the number of the next step, counted from 1, the learning rate of that step multiplied
by the bias correction, and the small number in the denominator of that step."""
Update = Callable[..., tuple[Any, Any]]


class RowUpdate(ABC):
    """Base class of a row-sparse update, in which a training step updates only those rows of a table (V, E) that it looks up.

    A table is a parameter of V rows and E columns, such as an embedding. The rows that a training step does not look up miss this step.
    Later, the method `catch_up` lets these rows take the steps that they missed. A `Lag` records how many steps each row has taken.
    """

    @abstractmethod
    def serves(self, table: jax.Array) -> bool:
        """Return whether the row-sparse update is available for this table on this machine."""

    @abstractmethod
    def begin(self, table: jax.Array, state: Any, steps: int, at: Any = 0, behind: Any = ()) -> Lag:
        """Return the `Lag` of a table before a given step of an epoch."""

    @abstractmethod
    def catch_up(self, name: str, ids: Any, lag: Lag, state: Any, params: Any) -> tuple[Lag, Any, Any]:
        """Let rows of a table take the optimiser steps that they have missed."""

    @abstractmethod
    def update(self, updates: Any, name: str, ids: Any, rows: Any, lag: Lag, state: Any, params: Any) -> tuple[Lag, Any, Any]:
        """Take one training step, which updates some rows of the table and all other parameters."""


@dataclass(frozen=True)
class RowOptimizer:
    """An optimiser that offers a dense and a row-sparse update. Both use the state that `init` returns.

    `dense` is a transformation of optax, which updates whole parameters. `rows` updates only the rows of a table that a step looks up. A
    training step uses `rows` if `step.row_sparse` returns true, otherwise `dense`. If `optax.chain` or another function of optax is applied
    to a `RowOptimizer`, the result has only the dense update. The result of `optimizers.clipped` has both updates.
    """

    dense: optax.GradientTransformation
    rows: RowUpdate

    @property
    def init(self) -> Callable[[Any], Any]:
        """Function from parameters to the initial state of the optimiser."""
        return self.dense.init

    @property
    def update(self) -> Update:
        """Function that computes a dense update, with the arguments and results of the `update` of an optax transformation."""
        return self.dense.update


Optimizer = optax.GradientTransformation | RowOptimizer


def try_update(optimizer: Any) -> None:
    """Check an optimiser by tracing one update of a small parameter, and pass on any error that the optimiser raises."""
    parameter = {"w": jax.ShapeDtypeStruct((2, 2), jnp.float32)}
    jax.eval_shape(lambda w: optimizer.update(w, optimizer.init(w), w), parameter)


@dataclass(frozen=True)
class AdamRows(RowUpdate):
    """Row-sparse update of Adam, computed by compiled code; see `compiled_adam`.

    The update is row-sparse for one parameter, called the table. The rows that a step does not look up, and their moments, do not change
    in this step. Later, `catch_up` lets these rows take the steps that they missed, with a gradient of zero. On devices other
    than CPUs, JAX computes the update instead, and each step updates all rows of the table.

    `rates` holds the decay rates of Adam. `advance` is a function from the state of Adam to three scalars of the next step: its number, its
    learning rate multiplied by the bias correction, and the small number in the denominator. `dense_update` is a function that computes the
    update of all parameters other than the table.
    """

    rates: Rates
    advance: Advance
    dense_update: Update

    def serves(self, table):
        return serves(table)

    def begin(self, table, state, steps, at=0, behind=()):
        at = jnp.asarray(at, jnp.int32)
        counts = state.count - at.astype(state.count.dtype) + jnp.arange(steps, dtype=state.count.dtype)
        counts = jnp.maximum(counts, 0)  # a new optimiser state within an epoch has fewer steps than the epoch
        _, *found = jax.vmap(lambda count: self.advance(state._replace(count=count)))(counts)
        scales, eps = (array.astype(table.dtype) for array in found)
        return Lag(scales, eps, at, at - (jnp.zeros(len(table), jnp.int32) if isinstance(behind, tuple) else behind))

    def catch_up(self, name, ids, lag, state, params):
        results = catch_up(self.rates, name, params[name], state.mu[name], state.nu[name], lag, ids)
        return _with_table(name, results, lag, state, params)

    def update(self, updates, name, ids, rows, lag, state, params):
        results = step_rows(self.rates, name, params[name], state.mu[name], state.nu[name], lag, ids, rows)
        lag, state, params = _with_table(name, results, lag, state, params)
        rest, mu, nu = ({key: leaf for key, leaf in tree.items() if key != name} for tree in (params, state.mu, state.nu))
        steps, moments = self.dense_update(updates, state._replace(mu=mu, nu=nu))
        state = moments._replace(mu=moments.mu | {name: state.mu[name]}, nu=moments.nu | {name: state.nu[name]})
        params = jax.tree.map(jnp.add, rest, steps) | {name: params[name]}
        return lag._replace(at=lag.at + 1), state, params


def _with_table(name, results, lag, state, params):
    table, m, v, done = results
    state = state._replace(mu=state.mu | {name: m}, nu=state.nu | {name: v})
    return lag._replace(done=done), state, params | {name: table}


@dataclass(frozen=True)
class ClippedRows(RowUpdate):
    """Row-sparse update with gradient clipping.

    If the global norm of the gradient of all parameters exceeds `most`, the gradients are scaled so that the norm is `most`. If a step
    looks up a row of the table (see `RowUpdate`) several times, the gradients of this row are added up before the norm is computed. The
    row-sparse update `inner` then takes the step with the scaled gradients. The state of the optimiser is a pair, as with
    `optax.chain(optax.clip_by_global_norm(most), ...)`. The second member of the pair is the state that `inner` uses.
    """

    inner: RowUpdate
    most: float

    def serves(self, table):
        return self.inner.serves(table)

    def begin(self, table, state, steps, at=0, behind=()):
        return self.inner.begin(table, state[1], steps, at, behind)

    def catch_up(self, name, ids, lag, state, params):
        lag, own, params = self.inner.catch_up(name, ids, lag, state[1], params)
        return lag, (state[0], own), params

    def update(self, updates, name, ids, rows, lag, state, params):
        once = summed_rows(ids, rows, params[name], name)
        norm = optax.tree_utils.tree_norm((updates, once))
        most = self.most
        updates, rows = jax.tree.map(lambda g: jnp.where(norm < most, g, g / norm.astype(g.dtype) * most), (updates, rows))
        lag, own, params = self.inner.update(updates, name, ids, rows, lag, state[1], params)
        return lag, (state[0], own), params


def summed_rows(ids: jax.Array, rows: jax.Array, table: jax.Array, name: str) -> jax.Array:
    """Add up the gradients that belong to the same row of the table, and return the sums."""
    if sharding.param_spec(sharding.devices(), (jax.tree_util.DictKey(name),), table):
        rows = sharding.rows_to_columns(rows)
    ids, rows = ids.reshape(-1), rows.reshape(-1, rows.shape[-1])
    ids = jnp.where(ids < 0, ids + len(table), ids)
    inside = (ids >= 0) & (ids < len(table))
    order = jnp.argsort(jnp.where(inside, ids, len(table)))  # the sort is stable, so that the sums have the same bits each time
    ids, rows = ids[order], jnp.where(inside[:, None], rows, 0)[order]
    groups = jnp.cumsum(jnp.diff(ids, prepend=ids[:1]) != 0)
    return jax.ops.segment_sum(rows, groups, len(ids), indices_are_sorted=True)
