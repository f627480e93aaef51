"""The table `COMPILED_CELLS` of the cells that the C++ code in native/ runs, whose
state is h or h and c.

The C++ code runs the LSTM with full gate recurrence with h and the gates i, f and o
joined into one array, so that it needs one matrix product per step, as for other cells.
Let V be the `gate_kernel` (3H, 3H) of this cell and U its recurrent kernel (H, 4H). The
joined array (h, i, f, o) is multiplied by one recurrent kernel (4H, 4H): its first H
rows are U, and its other rows are V, with zeros in the columns of the candidate g. The
functions here convert operands to this form, and results and gradients back. It runs
the sLSTM with c and n joined into one array, and with one head: the blocks of several
are one kernel, with zeros elsewhere.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from jax import Array

from lstm_jax.base.types import GATES
from lstm_jax.cells import (
    CELLS,
    Cell,
    GateRecurrentParams,
    GateRecurrentState,
    LSTMParams,
    LSTMState,
    SLSTMState,
)
from lstm_jax.cells.cell import is_ours
from lstm_jax.cells.lstm_variants import VARIANTS
from lstm_jax.recurrence.call import Call

GATE_RECURRENT, SLSTM = CELLS["lstm_full_gate_recurrence"], CELLS["slstm"]


_KEPT = {
    "lstm": 4,
    "gru": 4,
    "simple_rnn": 0,
    "gru_reset_before": 3,
    "lstm_layernorm": 12,
    "lstm_peephole": 4,
}
_KEPT |= {f"lstm_{variant}": len(gates) for variant, gates in VARIANTS.items()}
_KEPT |= {"min_lstm": 4, "min_gru": 2, GATE_RECURRENT.name: 1, SLSTM.name: 5}
COMPILED_CELLS = {CELLS[name]: kept for name, kept in _KEPT.items()}
"""Dict from each cell that native/ runs, in the order of native/cells.h, to the number
of arrays (B, H) that a step keeps for the backward pass in addition to the state."""


def of_one_head(cell: Cell) -> Cell:
    """Return the sLSTM with one head for an sLSTM with any number of heads, and any
    other cell unchanged.
    """
    return SLSTM if cell.name == SLSTM.name and is_ours(cell) else cell


def is_compiled(cell: Cell) -> bool:
    """Return whether the backend `compiled` supports a cell: one of `COMPILED_CELLS`,
    or any cell whose `is_linear` is true.

    Cells are compared by all their attributes. A user's cell that has the name of a
    cell in `COMPILED_CELLS`, but other attributes, is therefore not taken for that
    cell.
    """
    return of_one_head(cell) in COMPILED_CELLS or cell.is_linear


def _same(array):
    return array


class Joined(NamedTuple):
    """Conversions of the state, the parameters and the mask of h of a cell to the form
    that the C++ code takes, each with its inverse.
    """

    state: tuple[Callable, Callable]
    params: tuple[Callable, Callable] = (_same, _same)
    mask: tuple[Callable, Callable] = (_same, _same)

    def join(self, call: Call) -> Call:
        """Convert the operands of a call."""
        return self._converted(call, 0)

    def split(self, call: Call) -> Call:
        """Undo `join`."""
        return self._converted(call, 1)

    def _converted(self, call: Call, way: int) -> Call:
        state, mask = self.state[way], call.dropout.recurrent
        dropout = call.dropout._replace(
            recurrent=None if mask is None else self.mask[way](mask)
        )
        resets = call.resets and call.resets._replace(state=state(call.resets.state))
        return call._replace(
            params=self.params[way](call.params),
            state=state(call.state),
            dropout=dropout,
            resets=resets,
        )


def _join_gates(params: GateRecurrentParams) -> LSTMParams:
    by_i, by_f, by_o = jnp.split(params.gate_kernel, 3, axis=-1)
    by_gates = jnp.concatenate([by_i, by_f, jnp.zeros_like(by_i), by_o], axis=-1)
    return LSTMParams(
        params.kernel, jnp.concatenate([params.recurrent_kernel, by_gates]), params.bias
    )


def _split_gates(params: LSTMParams) -> GateRecurrentParams:
    own, by_gates = jnp.split(params.recurrent_kernel, [params.bias.shape[0] // GATES])
    by_i, by_f, _, by_o = jnp.split(by_gates, GATES, axis=-1)
    return GateRecurrentParams(
        params.kernel, own, params.bias, jnp.concatenate([by_i, by_f, by_o], axis=-1)
    )


def _join_gate_state(state: GateRecurrentState) -> LSTMState:
    return LSTMState(
        jnp.concatenate([state.h, state.i, state.f, state.o], axis=-1), state.c
    )


def _split_gate_state(state: LSTMState) -> GateRecurrentState:
    h, i, f, o = jnp.split(state.h, 4, axis=-1)
    return GateRecurrentState(h, state.c, i, f, o)


def _join_mask(mask: Array) -> Array:
    # the gates of the previous step have no dropout
    ones = jnp.ones((*mask.shape[:-1], 3 * mask.shape[-1]), mask.dtype)
    return jnp.concatenate([mask, ones], axis=-1)


JOINED = {
    GATE_RECURRENT: Joined(
        (_join_gate_state, _split_gate_state),
        (_join_gates, _split_gates),
        (_join_mask, lambda mask: mask[..., : mask.shape[-1] // 4]),
    ),
    SLSTM: Joined(
        (
            lambda state: LSTMState(
                state.h, jnp.concatenate([state.c, state.n], axis=-1)
            ),
            lambda state: SLSTMState(state.h, *jnp.split(state.c, 2, axis=-1)),
        )
    ),
}
"""Dict from each cell that the C++ code has in another form to its conversions."""
