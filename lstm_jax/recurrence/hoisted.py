"""The backend `hoisted`, which runs the LSTM with a custom backward pass and moves (hoists) matrix products out of the loops over time.

E is the number of input features and H the number of units. W is the kernel, U the recurrent kernel, b the bias, and z the pre-activations
of the gates. A name d_x stands for the gradient with respect to x.

The loops contain only the products that depend on the neighbouring step: h U in the forward loop, and d_z U^T in the backward loop. The
input projection, the gradient of the input, and the gradients of the kernel and the recurrent kernel are each computed by one product over
all T steps and B rows of the batch, or by one product per gate if the gates have different dropout masks. The backward pass is
back-propagation through time for the equations in cells/lstm.py.

The forward pass stores the h before each step and the local derivatives of the step, so that the backward loop only multiplies and adds.
The loops stand in lstm_loops.py; the backend `pallas` uses the class `HoistedLSTM` with its own.

Two choices make the code faster with XLA's compiler for CPUs (measured for B = 16 and H = 128 on one core): the gates are four separate
arrays, and operands are transposed before a loop or a product.
"""

from collections.abc import Callable
from dataclasses import dataclass

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from lstm_jax.cells import LSTMParams
from lstm_jax.cells.products import is_per_gate, matmul, project
from lstm_jax.dropout import DropoutMasks
from lstm_jax.primitives.operation import apply
from lstm_jax.recurrence.lstm_loops import LOOPS, Gates, Loops
from lstm_jax.recurrence.operands import Call, Options
from lstm_jax.recurrence.recurrent_operation import RecurrentOperation, with_zeros
from lstm_jax.recurrence.resets import Resets
from lstm_jax.shapes import GATES


def run(options: Options, call: Call):
    """Run the LSTM over time with the backend `hoisted`. The arguments and results are those of `reference.run`."""
    return apply(HoistedLSTM(LOOPS, options), *call)


@dataclass(frozen=True)
class HoistedLSTM(RecurrentOperation):
    """LSTM over time as an `Operation` whose arguments are the fields of a `Call`.

    Attributes:
        loops: the two loops over time, for the forward pass and for the backward pass.
        options: static options of the call.
    """

    loops: Loops
    options: Options

    def runs_on(self):
        return self.loops.platforms

    def forward(self, keep, *args):
        return forward(self.loops, self.options, keep, Call(*args))

    def backward(self, wanted, args, residuals, cotangents):
        return tuple(backward(self.loops, self.options, Call(*args), residuals, cotangents))

    def plain_forward(self, keep, *args):
        return forward(self.loops.twin or self.loops, self.options, keep, Call(*args))

    def plain_backward(self, wanted, args, residuals, cotangents):
        return tuple(backward(self.loops.twin or self.loops, self.options, Call(*args), residuals, cotangents))


def forward(loops: Loops, options: Options, keep: bool, call: Call):
    """Run the forward pass of the LSTM with given loops, and return ((h of all steps, final state), residuals)."""
    z = _project(call.params, call.x, call.dropout.input, options.compute_dtype)
    h, final, residuals = loops.forward(options, keep, z, call)
    return (h, final), residuals


def backward(loops: Loops, options: Options, call: Call, residuals, cotangents) -> Call:
    """Run the backward pass of the LSTM with given loops, and return the gradients with respect to the operands."""
    d_h, d_final = with_zeros(cotangents, call.state)
    d_state, d_reset, d_z = loops.backward(options, residuals, d_h, d_final, call)
    d_params, d_x, d_masks = _gradients(options, call, residuals.h_before(call.resets), d_z)
    return Call(d_params, d_x, d_state, None, d_masks, None if call.resets is None else Resets(None, d_reset))


def _split(array: Array) -> Gates:
    return tuple(jnp.split(array, GATES, axis=-1))


def _over(mask: Array, like: Array) -> Array:
    return jnp.broadcast_to(mask, like.shape)


def _project(params: LSTMParams, x: Array, mask: Array | None, compute_dtype) -> Array | Gates:
    """Return the projected input x W + b as one array (T, B, 4H), or as four arrays (T, B, H) if each gate has its own input mask."""
    if mask is None or not is_per_gate(mask):
        return project(params, x, mask, compute_dtype)
    parts = zip(mask, _split(params.kernel), _split(params.bias), strict=True)
    z = [(matmul(x * _over(m, x), kernel, compute_dtype), bias) for m, kernel, bias in parts]
    return tuple(product + jnp.broadcast_to(bias, product.shape) for product, bias in z)


def _gradients(options: Options, call: Call, h: Array, d_z: Array | Gates):
    """Return the gradients with respect to the parameters, the inputs and the dropout masks, from h before each step and that of z."""
    params, x, dropout, valid, compute_dtype = call.params, call.x, call.dropout, call.valid, options.compute_dtype
    by_operands: Callable = _gate_gradients if isinstance(d_z, tuple) else _flat_gradients
    if jnp.issubdtype(x.dtype, jnp.integer):  # for one-hot vectors x the product x^T d_z adds each d_z to the row of its id
        all_gates = jnp.concatenate(d_z, axis=-1) if isinstance(d_z, tuple) else d_z
        x = x if valid is None else jnp.where(valid, x, len(params.kernel))  # no row; d_z at padding may be 0 * NaN
        d_kernel, d_x, d_input_mask = jnp.zeros_like(params.kernel).at[x].add(all_gates), None, None
    else:
        d_kernel, d_x, d_input_mask = by_operands(x, params.kernel, dropout.input, d_z, compute_dtype)
    d_recurrent, _, d_recurrent_mask = by_operands(h, params.recurrent_kernel, dropout.recurrent, d_z, compute_dtype)
    d_bias = jnp.concatenate([d.sum((0, 1)) for d in d_z]) if isinstance(d_z, tuple) else d_z.sum((0, 1))
    return LSTMParams(d_kernel, d_recurrent, d_bias), d_x, DropoutMasks(d_input_mask, d_recurrent_mask)


def _flat_gradients(x: Array, kernel: Array, mask: Array | None, d_z: Array, compute_dtype):
    """Back-propagate through the product (x * mask) @ kernel, and return the gradients with respect to the kernel, x and the mask."""
    rows = x if mask is None else x * _over(mask, x)
    d_kernel = _over_time_and_batch(lax.optimization_barrier(rows.transpose(2, 0, 1)), d_z, compute_dtype)
    d_rows = matmul(d_z, kernel.T, compute_dtype)
    if mask is None:
        return d_kernel, d_rows, None
    return d_kernel, d_rows * _over(mask, x), (d_rows * x).sum(0)


def _gate_gradients(x: Array, kernel: Array, mask: Array | None, d_z: Gates, compute_dtype):
    """Return the gradients of the product (x * mask) @ kernel, computed for each gate separately."""
    masks = [None] * GATES if mask is None else list(mask) if is_per_gate(mask) else [mask] * GATES
    rows = [x if m is None else x * _over(m, x) for m in masks]
    # d_z is transposed instead of the rows, since the gradients of both kernels use it, and masks are cheap to apply along the last axis
    d_z_transposed = lax.optimization_barrier(tuple(d.transpose(2, 0, 1) for d in d_z))
    # the barrier prevents XLA from merging the product with the transposition of its result, which on a CPU it cannot compute in bfloat16
    d_kernel = [lax.optimization_barrier(_over_time_and_batch(d, r, compute_dtype)).T for d, r in zip(d_z_transposed, rows, strict=True)]
    transposed = lax.optimization_barrier(tuple(part.T for part in _split(kernel)))
    d_rows = [matmul(d, part, compute_dtype) for d, part in zip(d_z, transposed, strict=True)]
    d_x = sum(d if m is None else d * _over(m, x) for m, d in zip(masks, d_rows, strict=True))
    d_mask = None
    if mask is not None:
        by_gate = jnp.stack([(d * x).sum(0) for d in d_rows])
        d_mask = by_gate if is_per_gate(mask) else by_gate.sum(0)
    return jnp.concatenate(d_kernel, axis=-1), d_x, d_mask


def _over_time_and_batch(a: Array, b: Array, compute_dtype) -> Array:
    # a product over two axes, without reshaping, so that the batch axis keeps its sharding
    operands = (a, b) if compute_dtype is None else (a.astype(compute_dtype), b.astype(compute_dtype))
    return lax.dot_general(*operands, (((1, 2), (0, 1)), ((), ())), preferred_element_type=a.dtype)
