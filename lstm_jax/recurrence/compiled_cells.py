"""The table `COMPILED_CELLS` of the cells that the C++ code in native/recurrence.cc runs.

For each cell, the table has a function that computes, in JAX, the values that a step of this cell keeps for the backward pass.

B is the batch size and H the number of units.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from lstm_jax.cells import CELLS, VARIANTS, Cell
from lstm_jax.cells.layernorm_lstm import normalised
from lstm_jax.cells.products import is_per_gate, masked_matmul
from lstm_jax.recurrence.gate_recurrent import GATE_RECURRENT, JOINED, without_unused
from lstm_jax.shapes import GATES

Kept = Callable[..., jax.Array | None]
"""Function kept(params, state, new, z, mask, compute_dtype) that returns the values that one step keeps for the backward pass.

The result is one array (B, n H), which contains n arrays (B, H) side by side, or None if n is 0. The number n is `CompiledRow.kept`.
`state` is the state before the step, and `new` the state after the step. The other arguments are those of `Cell.step`, except z for a cell
with its own function `project`, such as the LSTM with layer normalisation. For such a cell, z is not the projected input, but only the
product of the input x and the kernel.
"""


def _keep_lstm(gates: str, linear_input: bool = False, peepholes: bool = False) -> Kept:
    """Return a function that computes, for the LSTM or a variant, the values that a step keeps for the backward pass.

    The values are the gates after their activation functions. `Kept` describes the arguments and the result of the function.

    Args:
        gates: letters of the gates that have weights, in the order of the kernel's columns, such as "ifgo".
        linear_input: whether the candidate g has no activation.
        peepholes: whether the gates i, f and o also read the cell state.
    """

    def kept(params, state, new, z, mask, compute_dtype):
        z = z + masked_matmul(state.h, params.recurrent_kernel, mask, compute_dtype)
        by_gate = dict(zip(gates, jnp.split(z, len(gates), axis=-1), strict=True))
        if peepholes:
            for gate, weight, c in zip("ifo", jnp.split(params.peepholes, 3), (state.c, state.c, new.c), strict=True):
                by_gate[gate] += jnp.broadcast_to(weight, c.shape) * c
        g = by_gate["g"] if linear_input else jnp.tanh(by_gate["g"])
        return jnp.concatenate([g if gate == "g" else jax.nn.sigmoid(z) for gate, z in by_gate.items()], axis=-1)

    return kept


def _keep_gru(params, state, new, z, mask, compute_dtype):
    """Return the values that a step of the GRU keeps for the backward pass: u, r, n and h U_n + b_n, side by side in one array (B, 4H).

    u is the update gate, r the reset gate and n the candidate for the new h. U_n and b_n are the parts of the recurrent kernel and of the
    recurrent bias that belong to n, and h is the output before the step.

    `Kept` describes the arguments.
    """
    del new
    inner = masked_matmul(state.h, params.recurrent_kernel, mask, compute_dtype)
    inner = inner + jnp.broadcast_to(params.recurrent_bias, inner.shape)
    (x_u, x_r, x_n), (h_u, h_r, h_n) = (jnp.split(part, 3, axis=-1) for part in (z, inner))
    r = jax.nn.sigmoid(x_r + h_r)
    return jnp.concatenate([jax.nn.sigmoid(x_u + h_u), r, jnp.tanh(x_n + r * h_n), h_n], axis=-1)


def _keep_reset_before(params, state, new, z, mask, compute_dtype):
    """Return the values that a step of the GRU with `reset_after=False` keeps for the backward pass: u, r and n, one array (B, 3H).

    u is the update gate, r the reset gate and n the candidate for the new h.

    `Kept` describes the arguments.
    """
    del new
    mask_gates, mask_n = (mask[:2], mask[2]) if is_per_gate(mask) else (mask, mask)
    both, kernel = jnp.split(params.recurrent_kernel, [2 * state.h.shape[-1]], axis=-1)
    x_u, x_r, x_n = jnp.split(z, 3, axis=-1)
    h_u, h_r = jnp.split(masked_matmul(state.h, both, mask_gates, compute_dtype), 2, axis=-1)
    r = jax.nn.sigmoid(x_r + h_r)
    return jnp.concatenate(
        [jax.nn.sigmoid(x_u + h_u), r, jnp.tanh(x_n + masked_matmul(r * state.h, kernel, mask_n, compute_dtype))], axis=-1
    )


def _keep_layernorm(params, state, new, z, mask, compute_dtype):
    """Return the values that a step of the LSTM with layer normalisation keeps for the backward pass, as one array (B, 12H).

    The values are the four gates after their activation functions, then x W, then h U. x is the input of the step, h the output before the
    step, W the kernel and U the recurrent kernel.

    `Kept` describes the arguments.
    """
    del new
    inner = masked_matmul(state.h, params.recurrent_kernel, mask, compute_dtype)
    total = normalised(z, params.input_gain) + normalised(inner, params.recurrent_gain) + jnp.broadcast_to(params.bias, z.shape)
    i, f, g, o = jnp.split(total, GATES, axis=-1)
    return jnp.concatenate([jax.nn.sigmoid(i), jax.nn.sigmoid(f), jnp.tanh(g), jax.nn.sigmoid(o), z, inner], axis=-1)


def _keep_nothing(params, state, new, z, mask, compute_dtype):
    del params, state, new, z, mask, compute_dtype


def _keep_min_lstm(params, state, new, z, mask, compute_dtype):
    """Return what a step of minLSTM keeps for the backward pass, one array (B, 4H): f / i, z_g, 1 - f and 1 - i.

    i is the input gate, f the forget gate and z_g the candidate for the new h. The quotient f / i is limited so that it stays finite.

    `Kept` describes the arguments.
    """
    del params, state, new, mask, compute_dtype
    i, f, g = jnp.split(z, 3, axis=-1)
    most = 87.0 if z.dtype == jnp.float32 else 708.0  # as in the C++ code, so that the quotient is finite
    ratio = jnp.exp(jnp.clip(jax.nn.log_sigmoid(f) - jax.nn.log_sigmoid(i), -most, most))
    return jnp.concatenate([ratio, g, jax.nn.sigmoid(-f), jax.nn.sigmoid(-i)], axis=-1)


def _keep_min_gru(params, state, new, z, mask, compute_dtype):
    """Return the values that a step of minGRU keeps for the backward pass: the update gate and the candidate, in one array (B, 2H).

    `Kept` describes the arguments.
    """
    del params, state, new, mask, compute_dtype
    u, n = jnp.split(z, 2, axis=-1)
    return jnp.concatenate([jax.nn.sigmoid(u), n], axis=-1)


def _keep_gate_recurrent(params, state, new, z, mask, compute_dtype):
    """Return the values that a step of the LSTM with full gate recurrence keeps for the backward pass: the candidate g (B, H).

    The gates i, f and o need not be kept, because they are part of the state of the cell `gate_recurrent.JOINED`. `Kept` describes the
    arguments.
    """
    del new
    z = z + masked_matmul(state.h, without_unused(params.recurrent_kernel), mask, compute_dtype)
    return jnp.tanh(jnp.split(z, GATES, axis=-1)[2])


class CompiledRow(NamedTuple):
    """Row of the table `COMPILED_CELLS`: the description of one cell for the backend `compiled`.

    Attributes:
        number: index of the cell in the table in native/cells.h, counted from 0.
        kept: number of arrays (B, H) that a step keeps for the backward pass in addition to the state.
        keep: function keep(params, state, new, z, mask, compute_dtype) that computes these arrays in JAX; see `Kept`.
        cell: the cell that the C++ code runs: `gate_recurrent.JOINED` for the LSTM with full gate recurrence, else the described cell.
    """

    number: int
    kept: int
    keep: Kept
    cell: Cell


def _rows() -> dict[Cell, CompiledRow]:
    """Return the table `COMPILED_CELLS`, a dict from cells to rows in the order of the table in native/cells.h."""
    keep: dict[str, tuple[int, Kept]] = {"lstm": (4, _keep_lstm("ifgo")), "gru": (4, _keep_gru), "simple_rnn": (0, _keep_nothing)}
    keep["gru_reset_before"] = 3, _keep_reset_before
    keep["lstm_layernorm"] = 12, _keep_layernorm
    keep["lstm_peephole"] = 4, _keep_lstm("ifgo", peepholes=True)
    for variant in ("no_input_gate", "no_forget_gate", "no_output_gate", "coupled", "no_input_activation", "no_output_activation"):
        gates = VARIANTS[variant]
        keep[f"lstm_{variant}"] = len(gates), _keep_lstm(gates, linear_input=variant == "no_input_activation")
    keep |= {"min_lstm": (4, _keep_min_lstm), "min_gru": (2, _keep_min_gru)}
    keep[GATE_RECURRENT.name] = 1, _keep_gate_recurrent
    runs = {GATE_RECURRENT: JOINED}
    return {CELLS[name]: CompiledRow(number, *row, runs.get(CELLS[name], CELLS[name])) for number, (name, row) in enumerate(keep.items())}


COMPILED_CELLS = _rows()
"""Dict from each cell that native/recurrence.cc runs to the `CompiledRow` of this cell."""


def is_compiled(cell: Cell) -> bool:
    """Return whether the backend `compiled` supports a cell: one of `COMPILED_CELLS`, or any cell whose `is_linear` is true.

    Cells are compared by all their attributes. A user's cell that has the name of a cell in `COMPILED_CELLS`, but other attributes, is
    therefore not taken for that cell.
    """
    return cell in COMPILED_CELLS or cell.is_linear
