"""Adam: a dense step in JAX, and a row-sparse step in compiled code.

The dense step updates a whole parameter. XLA fuses its operations, so that the step passes over memory once. The row-sparse step updates
only the rows of a table that have a gradient. A table is a parameter of V rows and E columns, such as an embedding. In the array shapes of
this module, B is the batch size.

If the compiled code is not available, the row-sparse step is computed in JAX instead, and updates the whole table.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from lstm_jax import native
from lstm_jax.primitives.operation import ForwardOperation, apply
from lstm_jax.runtime import sharding


class Lag(NamedTuple):
    """Record of how many steps of the current epoch each row of a table has taken. The table has V rows, and the epoch has S steps.

    With row-sparse updates, a training step updates only the rows that it looks up, and all other rows miss this step. Before a row is
    looked up again, it takes the steps that it has missed. In a `TrainStep`, which has no epochs, every `step.CATCH_UP_INTERVAL` steps
    count as an epoch.
    """

    scales: jax.Array
    """(S,): learning rate of each step of the epoch, multiplied by the bias correction of Adam."""
    eps: jax.Array
    """(S,): small number in the denominator of each step of the epoch."""
    at: jax.Array
    """int32 (): index of the next step in the epoch, counted from 0."""
    done: jax.Array
    """int32 (V,): number of steps of the epoch that each row has taken."""


class Rates(NamedTuple):
    """Constants of Adam: the decay rate `b1` of the first moment, and the decay rate `b2` of the second moment.

    The compiled code of `catch_up` and `step_rows` needs floats. The function `adam_step` also accepts scalar JAX arrays.
    """

    b1: float | jax.Array
    b2: float | jax.Array


def serves(param: jax.Array) -> bool:
    """Return whether compiled code can update a parameter, that is, whether its dtype is float32 or float64 and the code is available."""
    return param.dtype in (jnp.float32, jnp.float64) and not native.why_not()


def adam_step(rates: Rates, m, v, g, scale, eps):
    """Compute one step of Adam for a parameter of any shape."""
    m = m + (1 - rates.b1) * (g - m)
    v = v + (1 - rates.b2) * (g * g - v)
    return -scale * m / (jnp.sqrt(v) + eps), m, v


def catch_up(rates: Rates, name: str, table, m, v, lag: Lag, ids=None):
    """Let rows of a table take the steps of Adam that they missed because no batch looked them up; see `Lag`."""
    return apply(_Rows("lstm_jax_adam_catch_up", rates, name), table, m, v, lag, () if ids is None else (ids,))


def step_rows(rates: Rates, name: str, table, m, v, lag: Lag, ids, rows):
    """Take one step of Adam for some rows of a table, after the steps that each of these rows has missed since it was last looked up."""
    return apply(_Rows("lstm_jax_adam_rows", rates, name), table, m, v, lag, (ids, rows))


@dataclass(frozen=True)
class _Rows(ForwardOperation):
    """Operation that computes `catch_up` or `step_rows` by compiled code; see `primitives.operation`.

    Both functions update rows of a table, which is a parameter such as an embedding. `catch_up` makes the Adam steps that rows
    have missed, and `step_rows` also makes the step of the rows that the batch looks up. If the compiled code is not available, the method
    `plain_forward` computes the operation in JAX. Each training step then updates all rows of the table, and there is nothing to catch up.

    Args:
        target: name of the compiled function: "lstm_jax_adam_catch_up" or "lstm_jax_adam_rows".
        rates: constants of Adam.
        name: name of the table among the parameters.
    """

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
        step, m, v = adam_step(self.rates, m, v, gradient, lag.scales[lag.at], lag.eps[lag.at])
        return (table + step, m, v, jnp.full_like(lag.done, lag.at + 1)), ()


def _call_rows(target: str, rates: Rates, name: str, table, m, v, lag: Lag, given: tuple) -> tuple:
    def call(table, m, v, done, scales, eps, at, *given):
        args = (table, m, v, done, scales, eps, at, *(array.reshape(-1, *array.shape[ids.ndim :]) for array in given))
        return tuple(native.call(target, (table, m, v, done), args, {0: 0, 1: 1, 2: 2, 3: 3}, **rates._asdict()))

    split, copied = sharding.param_spec(sharding.devices(), (jax.tree_util.DictKey(name),), table), PartitionSpec()
    specs: list[Any] = [split, split, split, copied, copied, copied, copied]
    if given:
        ids, *rows = given
        given = (ids.astype(jnp.int32), *(sharding.rows_to_columns(array) if split else array for array in rows))
        specs += [copied, PartitionSpec(*[None] * ids.ndim, *split[1:])][: len(given)]
    operands = (table, m, v, lag.done, lag.scales, lag.eps, lag.at, *given)
    if sharding.devices() == 1:
        return call(*operands)
    return jax.shard_map(call, in_specs=tuple(specs), out_specs=(split, split, split, copied), check_vma=False)(*operands)
