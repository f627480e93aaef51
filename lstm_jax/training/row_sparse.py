"""Optimisers that can update only those rows of a table that a step looks up.

A table is a parameter (V, E), such as an embedding; B is the batch size. A `RowOptimizer` combines a dense optax transformation with a
`RowUpdate`, which takes the same step for a table of which only some rows have a gradient. `optimizers.clipped` adds clipping to both.
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

Advance = Callable[[Any], tuple[Any, jax.Array]]
"""advance(state of Adam) -> number of steps including this one, and learning rate with bias correction."""
Update = Callable[..., tuple[Any, Any]]


class RowUpdate(ABC):
    """Row-sparse update of one table (V, E).

    Rows that no step reads miss steps; `catch_up` applies the missed steps. `Lag` says how many steps each row has taken.
    """

    @abstractmethod
    def serves(self, table: jax.Array) -> bool:
        """Return whether the row-sparse update is available for this table on this machine."""

    @abstractmethod
    def begin(self, table: jax.Array, state: Any, steps: int, at: Any = 0, behind: Any = ()) -> Lag:
        """Return the `Lag` at step `at` of an epoch of `steps` steps.

        `behind` (V,) is the number of steps that each row has missed so far; () means that no row has missed a step.
        """

    @abstractmethod
    def catch_up(self, name: str, ids: Any, lag: Lag, state: Any, params: Any) -> tuple[Lag, Any, Any]:
        """Apply the missed steps to rows `ids` (..., B) of the table `name`, or to all rows if `ids` is None.

        Returns:
            The lag, the state of the optimiser and the parameters after these steps.
        """

    @abstractmethod
    def update(self, updates: Any, name: str, ids: Any, rows: Any, lag: Lag, state: Any, params: Any) -> tuple[Lag, Any, Any]:
        """Take one step, which updates all other parameters, and the given rows of the table.

        Once all rows have caught up, the table is the same as after a dense step whose gradient is zero in all other rows.

        Args:
            updates: gradients of the other parameters.
            name: name of the table.
            ids: numbers of the rows to update, (..., B).
            rows: gradients of these rows, (..., B, E).
            lag: lag before the step.
            state: state of the optimiser before the step.
            params: parameters before the step.

        Returns:
            The lag, the state of the optimiser and the parameters after the step.
        """


@dataclass(frozen=True)
class RowOptimizer:
    """An optimiser as a dense transformation and as a row-sparse update, both of which use the state that `init` makes.

    `optax.chain` and other wrappers of optax see only the dense transformation, so that each step updates whole tables.
    `optimizers.clipped` keeps the row-sparse update. `step.row_sparse` says which of the two a training uses.
    """

    dense: optax.GradientTransformation
    rows: RowUpdate

    @property
    def init(self) -> Callable[[Any], Any]:
        """Function from parameters to the initial state of the optimiser."""
        return self.dense.init

    @property
    def update(self) -> Update:
        """Function that computes a dense step, as the `update` of an optax transformation does."""
        return self.dense.update


Optimizer = optax.GradientTransformation | RowOptimizer


@dataclass(frozen=True)
class AdamRows(RowUpdate):
    """Row-sparse Adam in compiled code; see `compiled_adam`."""

    rates: Rates
    advance: Advance
    dense_update: Update

    def serves(self, table):
        return serves(table)

    def begin(self, table, state, steps, at=0, behind=()):
        at = jnp.asarray(at, jnp.int32)
        counts = state.count - at.astype(state.count.dtype) + jnp.arange(steps, dtype=state.count.dtype)
        scales = jax.vmap(lambda count: self.advance(state._replace(count=count))[1])(counts)
        return Lag(scales.astype(table.dtype), at, at - (jnp.zeros(len(table), jnp.int32) if isinstance(behind, tuple) else behind))

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
    """Row-sparse update whose gradient is first clipped by the global norm of the dense gradient; its state is as in `optax.chain`."""

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
    """Return the sums of the gradients `rows` (..., B, E) over equal `ids` (..., B).

    The result has the non-zero rows of the dense gradient of `table` (V, E), and rows of zeros. As in `RowUpdate.update`, negative ids
    count from the end, and ids outside the table are ignored.
    """
    if sharding.param_spec(sharding.devices(), (jax.tree_util.DictKey(name),), table):
        rows = sharding.rows_to_columns(rows)
    ids, rows = ids.reshape(-1), rows.reshape(-1, rows.shape[-1])
    ids = jnp.where(ids < 0, ids + len(table), ids)
    inside = (ids >= 0) & (ids < len(table))
    order = jnp.argsort(jnp.where(inside, ids, len(table)))  # the sort is stable, so that the sums have the same bits each time
    ids, rows = ids[order], jnp.where(inside[:, None], rows, 0)[order]
    groups = jnp.cumsum(jnp.diff(ids, prepend=ids[:1]) != 0)
    return jax.ops.segment_sum(rows, groups, len(ids), indices_are_sorted=True)
