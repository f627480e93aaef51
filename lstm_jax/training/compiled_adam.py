"""Steps of Adam in compiled code: a dense step in one pass over memory, and a row-sparse step.

Both have a fallback in JAX, which always updates whole arrays. A table is a parameter of V rows and E columns, such as an embedding; B is
the batch size.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from lstm_jax import native
from lstm_jax.primitives.operation import ForwardOperation, apply
from lstm_jax.primitives.partition import partitioned_alike
from lstm_jax.runtime import sharding

LEAST = 2**14
"""Least number of entries of a parameter for which calling compiled code is worthwhile."""


class Lag(NamedTuple):
    """Progress of the rows of a table through the S steps of an epoch; a row takes a step only when it is read or has a gradient."""

    scales: jax.Array
    """(S,): learning rate of each step, including the bias correction."""
    at: jax.Array
    """int32 (): number of steps that have begun."""
    done: jax.Array
    """int32 (V,): number of steps that each row has taken."""


class Rates(NamedTuple):
    """Constants of Adam: the decay rates of the two moments, and epsilon."""

    b1: float
    b2: float
    eps: float


def serves(param: jax.Array) -> bool:
    """Return whether compiled code can update this parameter."""
    return param.dtype in (jnp.float32, jnp.float64) and not native.why_not()


def adam_step(rates: Rates, m, v, g, scale):
    """Return the step to add to a parameter of any shape, and its new moments m and v.

    `g` is the gradient; `scale` is the learning rate with bias correction, a scalar of the parameter's dtype.
    """
    return apply(_Step(rates), m, v, g, scale) if m.size >= LEAST and serves(m) else _step(rates, m, v, g, scale)


def catch_up(rates: Rates, name: str, table, m, v, lag: Lag, ids=None):
    """Return table, m and v, each (V, E), and `lag.done` after rows `ids` (..., B), or all rows, have taken the steps that they missed.

    `name` is the name of the table among the parameters.
    """
    return apply(_Rows("lstm_jax_adam_catch_up", rates, name), table, m, v, lag, () if ids is None else (ids,))


def step_rows(rates: Rates, name: str, table, m, v, lag: Lag, ids, rows):
    """Return table, m and v, each (V, E), and `lag.done` after one step of rows `ids` (..., B) with the gradients `rows` (..., B, E)."""
    return apply(_Rows("lstm_jax_adam_rows", rates, name), table, m, v, lag, (ids, rows))


def _step(rates: Rates, m, v, g, scale):
    m = m + (1 - rates.b1) * (g - m)
    v = v + (1 - rates.b2) * (g * g - v)
    return -scale * m / (jnp.sqrt(v) + rates.eps), m, v


@dataclass(frozen=True)
class _Step(ForwardOperation):
    rates: Rates

    def runs_on(self):
        return ("cpu",)

    def forward(self, keep, *args):
        del keep

        def call(m, v, g, scale):
            return native.call("lstm_jax_adam", (m, m, v), (m, v, g, scale), {0: 1, 1: 2, 2: 0}, **self.rates._asdict())

        return tuple(partitioned_alike(call, 3)(*args)), ()

    def plain_forward(self, keep, *args):
        del keep
        return _step(self.rates, *args), ()


@dataclass(frozen=True)
class _Rows(ForwardOperation):
    """Call of compiled code on rows of a table; the fallback updates all rows in each step, so that no row has steps to catch up."""

    target: str
    rates: Rates
    name: str

    def runs_on(self):
        return ("cpu",)

    def forward(self, keep, *args):
        del keep
        return _call_rows(self.target, self.rates, self.name, *args), ()

    def plain_forward(self, keep, *args):
        del keep
        table, m, v, lag, given = args
        if len(given) < 2:
            return (table, m, v, lag.done), ()
        gradient = jnp.zeros_like(table).at[given[0]].add(given[1])
        step, m, v = _step(self.rates, m, v, gradient, lag.scales[lag.at])
        return (table + step, m, v, jnp.full_like(lag.done, lag.at + 1)), ()


def _call_rows(target: str, rates: Rates, name: str, table, m, v, lag: Lag, given: tuple) -> tuple:
    def call(table, m, v, done, scales, at, *given):
        args = (table, m, v, done, scales, at, *(array.reshape(-1, *array.shape[ids.ndim :]) for array in given))
        return tuple(native.call(target, (table, m, v, done), args, {0: 0, 1: 1, 2: 2, 3: 3}, **rates._asdict()))

    split, copied = sharding.param_spec(sharding.devices(), (jax.tree_util.DictKey(name),), table), PartitionSpec()
    specs: list[Any] = [split, split, split, copied, copied, copied]
    if given:
        ids, *rows = given
        given = (ids.astype(jnp.int32), *(sharding.rows_to_columns(array) if split else array for array in rows))
        specs += [copied, PartitionSpec(*[None] * ids.ndim, *split[1:])][: len(given)]
    operands = (table, m, v, lag.done, lag.scales, lag.at, *given)
    if sharding.devices() == 1:
        return call(*operands)
    return jax.shard_map(call, in_specs=tuple(specs), out_specs=(split, split, split, copied), check_vma=False)(*operands)
