"""The table `COMPILED_CELLS` of the cells that the C++ code in native/ runs.

The C++ code runs the LSTM with full gate recurrence with h and the gates i, f and o joined into one array, so that it needs one matrix
product per step, as for other cells. Let V be the `gate_kernel` (3H, 3H) of this cell and U its recurrent kernel (H, 4H). The joined array
(h, i, f, o) is multiplied by one recurrent kernel (4H, 4H): its first H rows are U, and its other rows are V, with zeros in the columns of
the candidate g. The functions here convert operands to this form, and results and gradients back.

B is the batch size, T the number of steps and H the number of units.
"""

from collections.abc import Callable

import jax.numpy as jnp

from lstm_jax.cells import CELLS, Cell, GateRecurrentParams, GateRecurrentState, LSTMParams, LSTMState
from lstm_jax.cells.lstm_variants import VARIANTS
from lstm_jax.recurrence.call import Call
from lstm_jax.shapes import GATES

GATE_RECURRENT = CELLS["lstm_full_gate_recurrence"]


_KEPT = {"lstm": 4, "gru": 4, "simple_rnn": 0, "gru_reset_before": 3, "lstm_layernorm": 12, "lstm_peephole": 4}
_KEPT |= {f"lstm_{variant}": len(gates) for variant, gates in VARIANTS.items()}
_KEPT |= {"min_lstm": 4, "min_gru": 2, GATE_RECURRENT.name: 1}
COMPILED_CELLS = {CELLS[name]: kept for name, kept in _KEPT.items()}
"""Dict from each cell that native/ runs, in the order of native/cells.h, to the number of arrays (B, H) that a step
keeps for the backward pass in addition to the state."""


def is_compiled(cell: Cell) -> bool:
    """Return whether the backend `compiled` supports a cell: one of `COMPILED_CELLS`, or any cell whose `is_linear` is true.

    Cells are compared by all their attributes. A user's cell that has the name of a cell in `COMPILED_CELLS`, but other attributes, is
    therefore not taken for that cell.
    """
    return cell in COMPILED_CELLS or cell.is_linear


def join_state(state: GateRecurrentState) -> LSTMState:
    """Convert a state of the LSTM with full gate recurrence to the joined form."""
    return LSTMState(jnp.concatenate([state.h, state.i, state.f, state.o], axis=-1), state.c)


def split_state(state: LSTMState) -> GateRecurrentState:
    """Undo `join_state`."""
    h, i, f, o = jnp.split(state.h, 4, axis=-1)
    return GateRecurrentState(h, state.c, i, f, o)


def join(call: Call) -> Call:
    """Convert the operands of the LSTM with full gate recurrence to the joined form."""
    params, mask = call.params, call.dropout.recurrent
    by_i, by_f, by_o = jnp.split(params.gate_kernel, 3, axis=-1)
    by_gates = jnp.concatenate([by_i, by_f, jnp.zeros_like(by_i), by_o], axis=-1)
    if mask is not None:  # the gates of the previous step have no dropout
        ones = jnp.ones((*mask.shape[:-1], 3 * mask.shape[-1]), mask.dtype)
        mask = jnp.concatenate([mask, ones], axis=-1)
    joined = LSTMParams(params.kernel, jnp.concatenate([params.recurrent_kernel, by_gates]), params.bias)
    return _converted(call, joined, mask, join_state)


def split(call: Call) -> Call:
    """Undo `join`."""
    params, mask = call.params, call.dropout.recurrent
    units = params.bias.shape[0] // GATES
    own, by_gates = jnp.split(params.recurrent_kernel, [units])
    by_i, by_f, _, by_o = jnp.split(by_gates, GATES, axis=-1)
    apart = GateRecurrentParams(params.kernel, own, params.bias, jnp.concatenate([by_i, by_f, by_o], axis=-1))
    return _converted(call, apart, None if mask is None else mask[..., :units], split_state)


def _converted(call: Call, params, mask, state_of: Callable) -> Call:
    resets = call.resets and call.resets._replace(state=state_of(call.resets.state))
    return call._replace(params=params, state=state_of(call.state), dropout=call.dropout._replace(recurrent=mask), resets=resets)
