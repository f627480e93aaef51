"""The function `solve_states`, which computes the states of all steps at once by Newton's method."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lstm_jax.cells import Cell
from lstm_jax.recurrence import parallel
from lstm_jax.recurrence.backends import dropout_kinds, resolve_backend
from lstm_jax.recurrence.operands import arrange, check_arguments
from lstm_jax.recurrence.parallel import Newton


@partial(jax.export.register_namedtuple_serialization, serialized_name="lstm_jax.Solution")
class Solution(NamedTuple):
    """Result of `solve_states`.

    Attributes:
        states: the state of the cell after each step, with arrays (B, T, H), or (T, B, H) if time is the first axis.
        iterations: number of iterations of Newton's method, an int32 scalar.
        residual: largest absolute difference, over all entries of `states`, between the state s[t] and f(s[t - 1], x[t]), where f is one
            step of the cell.
    """

    states: Any
    iterations: jax.Array
    residual: jax.Array


def solve_states(
    cell: Cell,
    params: Any,
    x: Any,
    initial_state: Any = None,
    *,
    mask: Any = None,
    lengths: Any = None,
    resets: Any = None,
    reset_state: Any = None,
    dropout: Any = None,
    time_major: bool = False,
    options: Newton = parallel.DEFAULTS,
) -> Solution:
    """Compute by Newton's method the state of a cell after each step of a batch of sequences, as the backend `parallel` does.

    The result is a `Solution`, of which only the field `states` is differentiable. The arguments up to `time_major` are those of `unroll`.

    Args:
        cell: a cell that the backend `parallel` supports.
        params: parameters of the cell.
        x: inputs (B, T, E), or int ids (B, T); time is the first axis if `time_major` is true.
        initial_state: initial state of the cell. None means `reset_state` if it is given, else zeros.
        mask: bool (B, T), False at padded steps.
        lengths: int (B,), number of valid steps of each row.
        resets: bool (B, T), True where the state is replaced before a step.
        reset_state: the state after a reset. None means zeros.
        dropout: `DropoutMasks` without zoneout, or None for no dropout.
        time_major: whether time is the first axis of `x`, `mask`, `resets` and the returned states.
        options: options of Newton's method.

    Raises:
        InputError: if an argument is wrong (see `unroll`), or if the backend `parallel` does not support the call.
    """
    cuts = {"resets": resets, "reset_state": reset_state}
    given = check_arguments(cell, params, x, initial_state, mask=mask, lengths=lengths, dropout=dropout, time_major=time_major, **cuts)
    resolve_backend("parallel", cell, given.params.kernel.dtype, dropout=dropout_kinds(given.dropout))
    states, iterations, residual = parallel.solve(cell, arrange(given, time_major=time_major), options)
    return Solution(states if time_major else jax.tree.map(lambda part: jnp.swapaxes(part, 0, 1), states), iterations, residual)
