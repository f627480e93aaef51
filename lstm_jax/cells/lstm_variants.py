"""Variants of the LSTM: peepholes, and the variants of the ablation study of Greff et
al. 2017, "LSTM: a search space odyssey", section 3.

With peepholes, the gates also read the cell state c (Gers & Schmidhuber 2000, in the
form of Graves 2013):

    z = x W + h U + b, split into z_i, z_f, z_g, z_o
    i = sigmoid(z_i + p_i c)
    f = sigmoid(z_f + p_f c)
    c' = f c + i tanh(z_g)
    o = sigmoid(z_o + p_o c')
    h' = o tanh(c')

The variants of the study:

    no_input_gate: i = 1
    no_forget_gate: f = 1
    no_output_gate: o = 1
    coupled: f = 1 - i
    no_input_activation: z_g in place of tanh(z_g);  no_output_activation: h' = o c'
    full_gate_recurrence: the gates i, f and o also depend on i, f and o of
        the previous step, through nine more matrices (H, H)

Here i, f and o are the input, forget and output gates, z_g is the pre-activation of the
candidate g, and h' and c' are the output and the cell state after a step. A gate that a
variant removes has no weights. Unlike in the paper, these variants have no peepholes.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.nn import sigmoid

from lstm_jax.base.types import GATES
from lstm_jax.cells import initializers, lstm
from lstm_jax.cells.cell import Cell, make_init
from lstm_jax.cells.lstm import LSTMParams, LSTMState
from lstm_jax.cells.products import Gates, Mask, masked_matmul, matmul, zeros

VARIANTS = {
    "no_input_gate": "fgo",
    "no_forget_gate": "igo",
    "no_output_gate": "ifg",
    "coupled": "igo",
    "no_input_activation": "ifgo",
    "no_output_activation": "ifgo",
}
"""Dict from the name of a variant to the letters of its gates that have weights, in the
order of the kernel's columns."""


class GateRecurrentParams(NamedTuple):
    """Parameters of the LSTM with full gate recurrence: kernel (E, 4H),
    recurrent_kernel (H, 4H), bias (4H,) and gate_kernel (3H, 3H).

    The product of the gates i, f, o of the previous step and `gate_kernel` is added to
    the pre-activations of i, f, o. An axis of size 4H contains the gates i, f, g, o, in
    this order.
    """

    kernel: Array
    recurrent_kernel: Array
    bias: Array
    gate_kernel: Array


class GateRecurrentState(NamedTuple):
    """State of the LSTM with full gate recurrence: the output h, the cell state c, and
    the gates i, f and o of the last step.

    Each of the five arrays has the shape (batch size, number of units).
    """

    h: Array
    c: Array
    i: Array
    f: Array
    o: Array


def _ablation(variant: str, gates: str) -> Cell:
    def bias(units, dtype=jnp.float32):
        return jnp.concatenate(
            [jnp.full((units,), float(gate == "f"), dtype) for gate in gates]
        )

    def step(params, state, z, mask=None, compute_dtype=None):
        z = z + masked_matmul(state.h, params.recurrent_kernel, mask, compute_dtype)
        z_of = dict(zip(gates, jnp.split(z, len(gates), axis=-1), strict=True))

        # a gate without weights is always open
        one = jnp.ones_like(state.c)
        i = sigmoid(z_of["i"]) if "i" in z_of else one
        f = sigmoid(z_of["f"]) if "f" in z_of else one
        o = sigmoid(z_of["o"]) if "o" in z_of else one
        if variant == "coupled":
            f = 1 - i

        g = z_of["g"] if variant == "no_input_activation" else jnp.tanh(z_of["g"])
        c = f * state.c + i * g  # (B, H)
        shown = c if variant == "no_output_activation" else jnp.tanh(c)
        return LSTMState(o * shown, c)

    init = make_init(LSTMParams, len(gates), bias)
    return Cell(
        f"lstm_{variant}", len(gates), LSTMParams, init, bias, lstm.initial_state, step
    )


def init_gate_recurrent(
    key: Array, features: int, units: int, dtype=jnp.float32
) -> GateRecurrentParams:
    """Return the initial parameters of the LSTM with full gate recurrence: those of an
    LSTM, and an orthogonal `gate_kernel`.
    """
    own, gates = jax.random.split(key)
    return GateRecurrentParams(
        *lstm.init(own, features, units, dtype),
        initializers.orthogonal(gates, (3 * units, 3 * units), dtype),
    )


def initial_gate_recurrent_state(
    batch: int, units: int, dtype=jnp.float32
) -> GateRecurrentState:
    """Return the initial state of the LSTM with full gate recurrence, five arrays of
    zeros (batch, units).
    """
    arrays = (zeros(batch, units, dtype) for _ in GateRecurrentState._fields)
    return GateRecurrentState(*arrays)


def step_gate_recurrent(
    params: GateRecurrentParams,
    state: GateRecurrentState,
    z: Gates,
    mask: Mask = None,
    compute_dtype=None,
) -> GateRecurrentState:
    """Return the state of the LSTM with full gate recurrence after one step."""
    z_i, z_f, z_g, z_o = lstm.preactivations(params, state, z, mask, compute_dtype)
    last = jnp.concatenate([state.i, state.f, state.o], axis=-1)
    by_gates = matmul(last, params.gate_kernel, compute_dtype)  # (B, 3H)
    r_i, r_f, r_o = jnp.split(by_gates, 3, axis=-1)
    i = sigmoid(z_i + r_i)
    f = sigmoid(z_f + r_f)
    o = sigmoid(z_o + r_o)
    c = f * state.c + i * jnp.tanh(z_g)  # (B, H)
    h = o * jnp.tanh(c)  # (B, H)
    return GateRecurrentState(h, c, i, f, o)


class PeepholeParams(NamedTuple):
    """Parameters of the LSTM with peepholes: kernel (E, 4H), recurrent_kernel (H, 4H),
    bias (4H,) and peepholes (3H,).

    An axis of size 4H contains the gates i, f, g, o, in this order. `peepholes`
    contains the weights of the cell state in i, f and o.
    """

    kernel: Array
    recurrent_kernel: Array
    bias: Array
    peepholes: Array


def init_peephole(
    key: Array, features: int, units: int, dtype=jnp.float32
) -> PeepholeParams:
    """Return the initial parameters of the LSTM with peepholes: those of an LSTM
    without peepholes, and peephole weights that are zero.
    """
    return PeepholeParams(
        *lstm.init(key, features, units, dtype), jnp.zeros((3 * units,), dtype)
    )


def step_peephole(
    params: PeepholeParams,
    state: LSTMState,
    z: Gates,
    mask: Mask = None,
    compute_dtype=None,
) -> LSTMState:
    """Return the state of the LSTM with peepholes after one step."""
    i, f, g, o = lstm.preactivations(params, state, z, mask, compute_dtype)
    peepholes = jnp.split(params.peepholes, 3)
    p_i, p_f, p_o = (jnp.broadcast_to(p, i.shape) for p in peepholes)
    i = sigmoid(i + p_i * state.c)
    f = sigmoid(f + p_f * state.c)
    c = f * state.c + i * jnp.tanh(g)  # (B, H)
    o = sigmoid(o + p_o * c)  # reads the new c
    return LSTMState(o * jnp.tanh(c), c)


CELLS = (
    Cell(
        "lstm_peephole",
        GATES,
        PeepholeParams,
        init_peephole,
        lstm.bias,
        lstm.initial_state,
        step_peephole,
    ),
    *(_ablation(variant, gates) for variant, gates in VARIANTS.items()),
    Cell(
        name="lstm_full_gate_recurrence",
        gates=GATES,
        params=GateRecurrentParams,
        init=init_gate_recurrent,
        bias=lstm.bias,
        initial_state=initial_gate_recurrent_state,
        step=step_gate_recurrent,
    ),
)
