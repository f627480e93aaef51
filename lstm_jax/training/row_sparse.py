"""Adam that can update only those rows of a table that a training step looks up.

A table is a parameter of V rows and E columns, such as an embedding. B is the batch
size. A `RowOptimizer` has a dense update in JAX and a row-sparse update in compiled
code. Apart from rounding, both give the same result. The rows that a row-sparse update
leaves out miss a step, and their moments do not change. Later, `RowOptimizer.catch_up`
lets these rows take the steps that they missed, with a gradient of zero. A `Lag`
records how many steps each row has taken.

If the compiled code is not available, the row-sparse update is computed in JAX instead,
and each step updates the whole table.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jax.sharding import PartitionSpec

from lstm_jax import native
from lstm_jax.base import sharding
from lstm_jax.base.checks import frozen
from lstm_jax.native.operation import Operation, apply

Advance = Callable[[Any], tuple[Any, Array, Array]]
"""Function from the state of Adam to three values: the number of the next step, counted
from 1, the learning rate of that step multiplied by the bias correction, and the small
number in the denominator of that step."""


Number = float | Array


class Lag(NamedTuple):
    """Record of how many steps of an interval between two catch-ups each row of a table
    has taken.

    The table has V rows, and the interval has S steps, which is
    `step.CATCH_UP_INTERVAL`.
    """

    scales: Array
    """(S,): learning rate of each step of the interval, multiplied by the bias
    correction of Adam."""
    eps: Array
    """(S,): small number in the denominator of each step of the interval."""
    at: Array
    """int32 (): index of the next step in the interval, counted from 0."""
    done: Array
    """int32 (V,): number of steps of the interval that each row has taken."""


class Rates(NamedTuple):
    """Constants of Adam: the decay rate `b1` of the first moment, and the decay rate
    `b2` of the second moment.

    The compiled code needs floats. The function `adam_step` also accepts scalar JAX
    arrays.
    """

    b1: Number
    b2: Number


def adam_step(rates: Rates, m, v, g, scale, eps):
    """Compute one step of Adam for a parameter of any shape."""
    m = m + (1 - rates.b1) * (g - m)
    v = v + (1 - rates.b2) * (g * g - v)
    return -scale * m / (jnp.sqrt(v) + eps), m, v


@frozen
class RowOptimizer:
    """Adam with a dense and a row-sparse update. Both use the state that `init`
    returns.

    `dense` is a transformation of optax, which updates whole parameters. The methods
    `begin`, `catch_up` and `update_rows` update only the rows of a table that a step
    looks up. If `optax.chain` or another function of optax is applied to a
    `RowOptimizer`, the result has only the dense update. The result of
    `optimizers.clipped` has both updates.
    """

    adam: optax.GradientTransformation
    """Dense update without clipping."""
    rates: Rates
    advance: Advance
    most: float | None = None
    """Largest global norm of the gradient, or None if gradients are not clipped."""

    @property
    def dense(self) -> optax.GradientTransformation:
        """Dense update, with clipping if there is any."""
        if self.most is None:
            return self.adam
        return optax.chain(optax.clip_by_global_norm(self.most), self.adam)

    def init(self, params):
        """Return the initial state of the optimiser."""
        return self.dense.init(params)

    def update(self, updates, state, params=None, **extra) -> tuple[Any, Any]:
        """Compute a dense update, as the `update` of an optax transformation does."""
        return optax.with_extra_args_support(self.dense).update(
            updates, state, params, **extra
        )

    def begin(self, table: Array, state, steps: int, at=0, behind=0) -> Lag:
        """Return the `Lag` of a table before step `at` of an interval of `steps` steps,
        if its rows have missed `behind` steps.
        """
        at, own = jnp.asarray(at, jnp.int32), self._own(state)
        counts = (
            own.count
            - at.astype(own.count.dtype)
            + jnp.arange(steps, dtype=own.count.dtype)
        )
        # a new optimiser state within an interval has taken fewer steps
        counts = jnp.maximum(counts, 0)
        _, *found = jax.vmap(lambda count: self.advance(own._replace(count=count)))(
            counts
        )
        scales, eps = (array.astype(table.dtype) for array in found)
        return Lag(scales, eps, at, jnp.broadcast_to(at - behind, len(table)))

    def catch_up(self, name: str, ids, lag: Lag, state, params) -> tuple[Lag, Any, Any]:
        """Let the rows `ids` of the table `name`, or all if `ids` is None, take the
        steps that they have missed.
        """
        own = self._own(state)
        given = () if ids is None else (ids,)
        table, m, v, done = self._rows("catch_up", name, params, own, lag, given)

        own = own._replace(mu=own.mu | {name: m}, nu=own.nu | {name: v})
        lag = lag._replace(done=done)
        return lag, self._state(state, own), params | {name: table}

    def update_rows(
        self, updates, name: str, ids, rows, lag: Lag, state, params
    ) -> tuple[Lag, Any, Any]:
        """Take one step of the rows `ids` of the table, whose gradients are `rows`, and
        of all other parameters.

        If a step looks up a row several times, clipping adds up the gradients of this
        row before it computes the norm.
        """
        most = self.most
        own = self._own(state)
        if most is not None:
            summed = summed_rows(ids, rows, params[name], name)
            norm = optax.tree_utils.tree_norm((updates, summed))

            def clip(g):
                return jnp.where(norm < most, g, g / norm.astype(g.dtype) * most)

            updates, rows = jax.tree.map(clip, (updates, rows))
        table, m, v, done = self._rows("rows", name, params, own, lag, (ids, rows))

        def without(tree):
            return {key: leaf for key, leaf in tree.items() if key != name}

        dense = own._replace(mu=without(own.mu), nu=without(own.nu))
        found: Any = self.adam.update(updates, dense)
        steps, moments = found
        rest = jax.tree.map(jnp.add, without(params), steps)

        own = moments._replace(mu=moments.mu | {name: m}, nu=moments.nu | {name: v})
        lag = lag._replace(at=lag.at + 1, done=done)
        return lag, self._state(state, own), rest | {name: table}

    def _rows(self, target: str, name: str, params, own, lag: Lag, given: tuple):
        operation = _Rows(f"lstm_jax_adam_{target}", self.rates, name)
        return apply(operation, params[name], own.mu[name], own.nu[name], lag, given)

    def _own(self, state):
        """Return the state of Adam: with clipping, the state is a pair, as that of
        `optax.chain`.
        """
        return state if self.most is None else state[1]

    def _state(self, state, own):
        return own if self.most is None else (state[0], own)


Optimizer = optax.GradientTransformation | RowOptimizer


def row_sparse(table: str, optimizer, params) -> bool:
    """Return whether training steps use the row-sparse update of the optimiser for the
    parameter `table`, which is "" for none.
    """
    if not table or not isinstance(optimizer, RowOptimizer):
        return False
    serves = params[table].dtype in (jnp.float32, jnp.float64)
    return serves and not native.why_not()


@frozen
class _Rows(Operation):
    """Operation that updates rows of a table by the compiled function `target`; see
    `primitives.operation`.
    """

    # "lstm_jax_adam_catch_up" makes the Adam steps that rows have missed, and
    # "lstm_jax_adam_rows" also makes the step of the rows that the batch looks up. In
    # JAX, each training step updates all rows of the table, and there is nothing to
    # catch up.

    target: str
    rates: Rates
    name: str

    def forward(self, custom, keep, *args):
        del keep
        return (self._update if custom else self._update_in_jax)(*args), ()

    def _update(self, table, m, v, lag, given):
        split = _table_spec(table, self.name)
        copied = PartitionSpec()
        specs = [split] * 3 + [copied] * 4
        axes = 0  # of the ids
        if given:
            ids, *rows = given
            axes = ids.ndim
            given = [ids.astype(jnp.int32)]
            specs.append(copied)
            for array in rows:
                given.append(sharding.rows_to_columns(array) if split else array)
                specs.append(PartitionSpec(*[None] * axes, *split[1:]))

        def call(*operands):
            own, given = operands[:7], operands[7:]
            flat = [array.reshape(-1, *array.shape[axes:]) for array in given]
            updated = own[:4]  # the table, m, v and done, whose memory is reused
            aliases = {n: n for n in range(len(updated))}
            rates = self.rates._asdict()
            return tuple(
                native.call(self.target, updated, (*own, *flat), aliases, **rates)
            )

        operands = (table, m, v, lag.done, lag.scales, lag.eps, lag.at, *given)
        if sharding.devices() == 1:
            return call(*operands)
        mapped = jax.shard_map(
            call, in_specs=tuple(specs), out_specs=tuple(specs[:4]), check_vma=False
        )
        return mapped(*operands)

    def _update_in_jax(self, table, m, v, lag, given):
        if len(given) < 2:
            return table, m, v, lag.done
        ids, rows = given
        gradient = jnp.zeros_like(table).at[ids].add(rows)
        scale = lag.scales[lag.at]
        eps = lag.eps[lag.at]
        step, m, v = adam_step(self.rates, m, v, gradient, scale, eps)
        return table + step, m, v, jnp.full_like(lag.done, lag.at + 1)


def _table_spec(table: Array, name: str) -> PartitionSpec:
    return sharding.param_spec(
        sharding.devices(), (jax.tree_util.DictKey(name),), table
    )


def summed_rows(ids: Array, rows: Array, table: Array, name: str) -> Array:
    """Add up the gradients that belong to the same row of the table, and return the
    sums.
    """
    if _table_spec(table, name):
        rows = sharding.rows_to_columns(rows)
    ids = ids.reshape(-1)  # (n,)
    rows = rows.reshape(-1, rows.shape[-1])  # (n, E)
    ids = jnp.where(ids < 0, ids + len(table), ids)
    inside = (ids >= 0) & (ids < len(table))
    # the sort is stable, so that the sums have the same bits each time
    order = jnp.argsort(jnp.where(inside, ids, len(table)))
    ids = ids[order]
    rows = jnp.where(inside[:, None], rows, 0)[order]
    groups = jnp.cumsum(jnp.diff(ids, prepend=ids[:1]) != 0)
    return jax.ops.segment_sum(rows, groups, len(ids), indices_are_sorted=True)
