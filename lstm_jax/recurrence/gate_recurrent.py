"""The LSTM with full gate recurrence as the backend `compiled` computes it, with h and the gates i, f and o joined into one array.

The gates of this cell also depend on the gates i, f and o of the previous step. Let V be its `gate_kernel` (3H, 3H) and U its recurrent
kernel (H, 4H). The joined array (h, i, f, o) is multiplied by one recurrent kernel (4H, 4H): its first H rows are U, and its other rows are
V, with zeros in the columns of the candidate g. The C++ code then needs one matrix product per step, as for other cells.

B is the batch size, T the number of steps and H the number of units.
"""

import jax
import jax.numpy as jnp

from lstm_jax.cells import CELLS, Cell, LSTMParams, LSTMState
from lstm_jax.cells.gate_ablations import GateRecurrentParams, GateRecurrentState
from lstm_jax.cells.products import masked_matmul
from lstm_jax.recurrence.operands import Call
from lstm_jax.shapes import GATES

GATE_RECURRENT = CELLS["lstm_full_gate_recurrence"]


def join_params(params: GateRecurrentParams) -> LSTMParams:
    """Convert the parameters of the LSTM with full gate recurrence to those of the equivalent cell `JOINED`."""
    by_i, by_f, by_o = jnp.split(params.gate_kernel, 3, axis=-1)
    by_gates = jnp.concatenate([by_i, by_f, jnp.zeros_like(by_i), by_o], axis=-1)
    return LSTMParams(params.kernel, jnp.concatenate([params.recurrent_kernel, by_gates]), params.bias)


def join_state(state: GateRecurrentState) -> LSTMState:
    """Convert a state of the LSTM with full gate recurrence to a state of the equivalent cell `JOINED`."""
    return LSTMState(jnp.concatenate([state.h, state.i, state.f, state.o], axis=-1), state.c)


def split_state(state: LSTMState) -> GateRecurrentState:
    """Convert a state of the cell `JOINED` back to a state of the LSTM with full gate recurrence, as the inverse of `join_state`."""
    h, i, f, o = jnp.split(state.h, 4, axis=-1)
    return GateRecurrentState(h, state.c, i, f, o)


def join(call: Call) -> Call:
    """Convert the operands of the LSTM with full gate recurrence to those of the equivalent cell `JOINED`."""
    mask, resets = call.dropout.recurrent, call.resets
    if mask is not None:  # the gates of the previous step have no dropout
        ones = jnp.ones((*mask.shape[:-1], 3 * mask.shape[-1]), mask.dtype)
        mask = jnp.concatenate([mask, ones], axis=-1)
    return call._replace(
        params=join_params(call.params),
        state=join_state(call.state),
        dropout=call.dropout._replace(recurrent=mask),
        resets=None if resets is None else resets._replace(state=join_state(resets.state)),
    )


def without_unused(kernel: jax.Array) -> jax.Array:
    """Return a recurrent kernel (4H, 4H) of the cell `JOINED`, with its unused weights set to zero."""
    units = kernel.shape[0] // 4
    return kernel.at[units:, 2 * units : 3 * units].set(0)


def step(params: LSTMParams, state: LSTMState, z, mask=None, compute_dtype=None) -> LSTMState:
    """Return the state of the cell `JOINED` after one step. The class `Cell` describes the arguments."""
    z = z + masked_matmul(state.h, without_unused(params.recurrent_kernel), mask, compute_dtype)
    z_i, z_f, z_g, z_o = jnp.split(z, GATES, axis=-1)
    i, f, o = jax.nn.sigmoid(z_i), jax.nn.sigmoid(z_f), jax.nn.sigmoid(z_o)
    c = f * state.c + i * jnp.tanh(z_g)
    return LSTMState(jnp.concatenate([o * jnp.tanh(c), i, f, o], axis=-1), c)


def init(key, features: int, units: int, dtype=jnp.float32) -> LSTMParams:
    """Return the initial parameters of the cell `JOINED`, made from those of an LSTM with full gate recurrence."""
    return join_params(GATE_RECURRENT.init(key, features, units, dtype))


def initial_state(batch: int, units: int, dtype=jnp.float32) -> LSTMState:
    """Return the initial state of the cell `JOINED`, which is all zeros."""
    return join_state(GATE_RECURRENT.initial_state(batch, units, dtype))


JOINED = Cell("lstm_full_gate_recurrence_joined", GATES, LSTMParams, init, GATE_RECURRENT.bias, initial_state, step)
"""Cell that computes the same as the LSTM with full gate recurrence. Its state is h, i, f and o in one array (B, 4H), and c (B, H)."""
