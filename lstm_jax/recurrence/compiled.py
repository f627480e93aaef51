"""The backend `compiled`, which runs the LSTM with the C++ code in native/lstm.cc.

One call of the C++ code runs the forward pass over all steps, and another call computes the gradients. The C++ code has a twin, which is
the same computation in JAX. The twin is used for derivatives of order 2 and higher, for forward-mode differentiation, and for gradients
with respect to dropout masks. On a device mesh each device runs its own rows of the batch.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from lstm_jax import native
from lstm_jax.cells import Cell, LSTMParams, LSTMState
from lstm_jax.cells.products import is_per_gate, project
from lstm_jax.dropout import DropoutMasks
from lstm_jax.primitives.operation import apply
from lstm_jax.primitives.partition import SUM, partitioned
from lstm_jax.recurrence import hoisted
from lstm_jax.recurrence.lstm_operation import LSTMOperation, mask_axis, with_zeros
from lstm_jax.recurrence.resets import Resets
from lstm_jax.recurrence.residuals import Residuals, backward_twin, forward_twin
from lstm_jax.shapes import GATES


def run(
    cell: Cell,
    params: LSTMParams,
    x,
    state: LSTMState,
    valid,
    dropout: DropoutMasks,
    resets: Resets | None = None,
    compute_dtype=None,
    sequences: bool = True,
    tokens: jax.Array | None = None,
):
    """Run the LSTM over time in C++.

    The arguments and results are those of `reference.run`. The additional argument `tokens` (T, B) is described in `unroll`.
    """
    del cell, compute_dtype  # BACKENDS selects this backend only for the LSTM, and for products in the dtype of the parameters
    x = x.astype(jnp.int32) if jnp.issubdtype(x.dtype, jnp.integer) else x
    tokens = None if tokens is None or x.ndim == 2 else tokens.astype(jnp.int32)
    return apply(CompiledLSTM(sequences), params, x, state, valid, dropout, resets, tokens)


@dataclass(frozen=True)
class CompiledLSTM(LSTMOperation):
    """Operation that runs the LSTM over time in C++.

    Its arguments are (params, x, state, valid, dropout, resets, tokens) of the function `run`.
    """

    sequences: bool

    def runs_on(self):
        """Return ("cpu",), since the C++ code is compiled for the CPU; see `Operation.runs_on`."""
        return ("cpu",)

    def forward(self, keep, *args):
        """Run the LSTM in C++ and return (outputs, `Residuals`), or (outputs, None) if `keep` is false; see `Operation.forward`."""
        return _call_forward(self.sequences, keep, *args)

    def backward(self, wanted, args, residuals, cotangents):
        """Return the gradients with respect to the arguments of the operation; see `Operation.backward`.

        If `wanted` asks for gradients with respect to dropout masks, all gradients are computed in JAX, else in C++.
        """
        if any(jax.tree.leaves(wanted[4])):
            return self.plain_backward(wanted, args, residuals, cotangents)
        d_params, d_x, d_state, d_resets = _call_backward(bool(wanted[1]), *_operands(args, residuals, cotangents))
        return d_params, d_x, d_state, None, DropoutMasks(), d_resets, None

    def plain_forward(self, keep, *args):
        """Return the same results as `forward`, computed in JAX; see `Operation.plain_forward`."""
        return _twin_forward(self.sequences, keep, *args)

    def plain_backward(self, wanted, args, residuals, cotangents):
        """Return the same results as `backward`, computed in JAX; see `Operation.plain_backward`."""
        d_params, d_x, d_state, d_masks, d_resets = _twin_gradients(*_operands(args, residuals, cotangents))
        by_masks = any(jax.tree.leaves(wanted[4]))
        return d_params, d_x if wanted[1] else None, d_state, None, d_masks if by_masks else DropoutMasks(), d_resets, None


def _operands(args, residuals: Residuals, cotangents) -> tuple:
    """Return the operands of the backward pass as a tuple. The backward pass in C++ and its twin in JAX have the same operands.

    Args:
        args: arguments of `CompiledLSTM`.
        residuals: residuals of the forward pass.
        cotangents: gradients with respect to the outputs.
    """
    params, x, state, *rest = args
    return params, x, residuals, *with_zeros(cotangents, state), *rest


def _kinds(mask) -> int:
    return 0 if mask is None else GATES if is_per_gate(mask) else 1


def _options(x, valid, dropout: DropoutMasks, resets: Resets | None, tokens, sequences: bool) -> dict[str, Any]:
    return {
        "ids": bool(jnp.issubdtype(x.dtype, jnp.integer)),
        "input_masks": _kinds(dropout.input),
        "recurrent_masks": _kinds(dropout.recurrent),
        "masked": valid is not None,
        "tokens": tokens is not None,
        "resets": resets is not None,
        "sequences": sequences,
    }


def _with_axes(valid, dropout: DropoutMasks, resets: Resets | None, tokens) -> list[tuple[Any, int]]:
    """Return a list with a pair (operand, index of its batch axis) for each optional operand of the C++ code that is not None."""
    masks = [(mask, mask_axis(mask)) for mask in (dropout.input, dropout.recurrent) if mask is not None]
    starts = [] if resets is None else [(resets.at, 1), *((part, 0) for part in resets.state)]
    return masks + [(operand, 1) for operand in (valid, tokens) if operand is not None] + starts


def _call(function: Callable, operands: list[tuple[Any, Any]], result_axes: list[Any]) -> list[jax.Array]:
    args, axes = zip(*operands, strict=True)
    return list(partitioned(function, axes, result_axes)(*args))


def _call_forward(sequences: bool, keep: bool, params: LSTMParams, x, state: LSTMState, valid, dropout: DropoutMasks, resets, tokens):
    options = _options(x, valid, dropout, resets, tokens, sequences)
    count = 3 if keep else int(sequences)

    def call(*args):
        (steps, batch), state, dtype = args[0].shape[:2], args[4:6], args[1].dtype
        steps_of_state = jax.ShapeDtypeStruct((steps + 1, *state[0].shape), dtype)
        gates = jax.ShapeDtypeStruct((steps, batch, args[1].shape[1]), dtype)
        return native.call(
            "lstm_jax_forward", [*state, *(steps_of_state, steps_of_state, gates)[:count]], args, {}, sets=True, keep=keep, **options
        )

    operands = [(x, 1), *((param, None) for param in params), *((part, 0) for part in state)]
    operands += _with_axes(valid, dropout, resets, tokens)
    h, c, *steps = _call(call, operands, [0, 0, 1, 1, 1][: 2 + count])
    residuals = Residuals(steps[2], steps[0], steps[1]) if keep else None
    return (steps[0][1:] if sequences else None, LSTMState(h, c)), residuals


def _call_backward(by_x: bool, params: LSTMParams, x, residuals: Residuals, d_h, d_final: LSTMState, valid, dropout, resets, tokens):
    options = _options(x, valid, dropout, resets, tokens, d_h is not None)

    def call(*args):
        x, kernel, recurrent = args[:3]
        bias = jax.ShapeDtypeStruct(kernel.shape[1:], kernel.dtype)
        results = [*args[6:8], kernel, recurrent, bias, *([x] if by_x else []), *(args[6:8] if resets is not None else [])]
        return native.call("lstm_jax_backward", results, args, {}, sets=True, d_x=by_x, **options)

    operands = [(x, 1), (params.kernel, None), (params.recurrent_kernel, None), *((part, 1) for part in residuals)]
    operands += [*((part, 0) for part in d_final), *([] if d_h is None else [(d_h, 1)]), *_with_axes(valid, dropout, resets, tokens)]
    axes = [0, 0, SUM, SUM, SUM, *([1] if by_x else []), *([] if resets is None else [0, 0])]
    h, c, *found = _call(call, operands, axes)
    d_resets = None if resets is None else Resets(None, LSTMState(*found[-2:]))
    return LSTMParams(*found[:3]), found[3] if by_x else None, LSTMState(h, c), d_resets


def _twin_forward(sequences: bool, keep: bool, params: LSTMParams, x, state: LSTMState, valid, dropout: DropoutMasks, resets, tokens):
    """Return the results of the C++ forward pass (`_call_forward`), computed in JAX."""
    del tokens  # tokens save time in C++ but do not change the results
    z = project(params, x, dropout.input)
    h, final, residuals = forward_twin(sequences, keep, None, params.recurrent_kernel, z, state, dropout.recurrent, valid, resets)
    if residuals is not None and isinstance(residuals.gates, tuple):
        residuals = residuals._replace(gates=jnp.concatenate(residuals.gates, axis=-1))
    return (h, final), residuals


def _twin_gradients(params: LSTMParams, x, residuals: Residuals, d_h, d_final: LSTMState, valid, dropout, resets, tokens):
    """Return the gradients with respect to the parameters, x, the initial state, the dropout masks and the resets, computed in JAX.

    The arguments are the results of `_operands`.
    """
    split = GATES in (_kinds(dropout.input), _kinds(dropout.recurrent))
    residuals = residuals._replace(gates=tuple(jnp.split(residuals.gates, GATES, axis=-1))) if split else residuals
    args = (params.recurrent_kernel, residuals, d_h, d_final, dropout.recurrent, valid, resets)
    d_state, d_reset, d_z = backward_twin(split, None, *args)
    d_params, d_x, d_masks = hoisted.gradients(params, x, dropout, residuals.h_before(resets), d_z)
    if tokens is not None and d_x is not None:
        first = (tokens[:, None] == tokens[None]).argmax(0)  # first[t, b] is the first step at which row b has the same token as at step t
        d_x = jnp.zeros_like(d_x).at[first, jnp.arange(x.shape[1])].add(d_x)
    return d_params, d_x, d_state, d_masks, None if resets is None else Resets(None, d_reset)
