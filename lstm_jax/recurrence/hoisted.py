"""The backend `hoisted`: the LSTM with a custom backward pass, and with matrix products (GEMMs) hoisted out of the loops over time.

The loops contain only the products that depend on the neighbouring step: h U in the forward loop, and d_z U^T in the backward loop. The
input projection, the gradient of the input, and the gradients of the kernel and the recurrent kernel are each one product over all T steps
and B rows of the batch, or one such product per gate if the gates have different dropout masks. The equations are the back-propagation
through time of those in cells/lstm.py. Arguments and results are those of `reference.run`.

E is the number of input features, H the number of units, and z the pre-activations of the gates. A name d_x stands for the gradient with
respect to x.

The residuals of a step are the h before it and the local derivatives (see `LocalDerivatives`), so that the backward loop only multiplies
and adds. The loops are an argument (`Loops`), so that the backend `pallas` can replace them by its own.

Three choices make the code faster with XLA's CPU compiler (measured for B = 16 and H = 128 on one core): the gates are four separate
arrays, so that each fusion writes whole vectors; sigmoid is computed from tanh; and operands are transposed before a loop or product.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from lstm_jax.cells import Cell, LSTMParams, LSTMState
from lstm_jax.cells.products import is_per_gate, matmul, project
from lstm_jax.dropout import DropoutMasks
from lstm_jax.primitives.operation import apply
from lstm_jax.recurrence.lstm_operation import LSTMOperation, with_zeros
from lstm_jax.shapes import GATES

Gates = tuple[jax.Array, ...]
"""Four arrays, for the gates i, f, g and o, each with a last axis of size H."""


class LocalDerivatives(NamedTuple):
    """Residuals of the forward pass, all (T, B, H).

    h and c are the state before a step, c' is the cell state after it, and i, f, g, o are the gates after their activations. With d_h and
    d_c the gradients with respect to the state after the step, the backward pass computes in this order

        d_c += d_h * c_by_h;  d_z[i, f, g] = d_c * z_by[i, f, g];  d_z[o] = d_h * z_by[o];  d_c = d_c * forget

    Attributes:
        c_by_h: o (1 - tanh(c')^2), or 0 at a step that is not valid.
        z_by: one array for each gate: g i (1 - i), c f (1 - f), i (1 - g^2) and tanh(c') o (1 - o), or 0 at a step that is not valid.
        forget: f, or 1 at a step that is not valid.
        h: h before the step.
    """

    c_by_h: jax.Array
    z_by: Gates
    forget: jax.Array
    h: jax.Array


class Loops(NamedTuple):
    """The forward and the backward loop over time.

    In both loops `kernel` is the recurrent kernel (H, 4H), `mask` the recurrent dropout mask or None, and `valid` bool (T, B) or None.

    Attributes:
        forward: function forward(sequences, keep, kernel, z, state, mask, valid, compute_dtype) -> (all_h, final state, residuals). all_h
            is h of all steps (T, B, H), or None if `sequences` is false. The residuals are None if `keep` is false; residuals.h (T, B, H)
            is the h before each step. z is the result of the input projection, one array (T, B, 4H) or four arrays (T, B, H).
        backward: function backward(split, kernel, residuals, d_h, d_final, mask, valid, compute_dtype) -> (d_state, d_z). d_h (T, B, H) or
            None is the gradient of h of all steps, d_final and d_state are those of the final and the initial state. d_z is four arrays
            (T, B, H) if `split` is true, else one array (T, B, 4H).
        twin: loops in JAX with the same values and residuals; None if these loops are in JAX themselves.
        platforms: platforms on which these loops run; () if they are in JAX.
    """

    forward: Callable
    backward: Callable
    twin: Any = None
    platforms: tuple[str, ...] = ()


def run(
    cell: Cell,
    params: LSTMParams,
    x: Float[Array, "T B E"] | Int[Array, "T B"],
    state: LSTMState,
    valid: Array | None,
    dropout: DropoutMasks,
    compute_dtype=None,
    sequences: bool = True,
):
    """Run the LSTM; see `reference.run` for the arguments and results."""
    del cell  # BACKENDS selects this backend only for the LSTM
    return apply(HoistedLSTM(LOOPS, compute_dtype, sequences), params, x, state, valid, dropout)


@dataclass(frozen=True)
class HoistedLSTM(LSTMOperation):
    """Operation that runs the LSTM with the given loops. Its arguments are (params, x, state, valid, dropout)."""

    loops: Loops
    compute_dtype: Any
    sequences: bool

    def runs_on(self):
        """Return the platforms of loops that are not written in JAX, or () for loops in JAX, which need no twin."""
        return self.loops.platforms

    def forward(self, keep, *args):
        """Return the outputs and the residuals; see `Operation.forward`."""
        return _forward(self.loops.forward, self.compute_dtype, self.sequences, keep, *args)

    def backward(self, wanted, args, residuals, cotangents):
        """Return the gradients; see `Operation.backward`."""
        return _backward(self.loops.backward, self.compute_dtype, args, residuals, cotangents)

    def plain_forward(self, keep, *args):
        """Return the results of `forward`, computed in JAX; see `Operation.plain_forward`."""
        return _forward((self.loops.twin or self.loops).forward, self.compute_dtype, self.sequences, keep, *args)

    def plain_backward(self, wanted, args, residuals, cotangents):
        """Return the results of `backward`, computed in JAX; see `Operation.plain_backward`."""
        return _backward((self.loops.twin or self.loops).backward, self.compute_dtype, args, residuals, cotangents)


def _split(array: Array) -> Gates:
    return tuple(jnp.split(array, GATES, axis=-1))


def _over(mask: Array, like: Array) -> Array:
    """Return a mask (B, D) broadcast over the time axis of `like` (T, B, D)."""
    return jnp.broadcast_to(mask, like.shape)


def _sigmoid(x: Array) -> Array:
    return 0.5 * jnp.tanh(0.5 * x) + 0.5


def _project(params: LSTMParams, x: Array, mask: Array | None, compute_dtype) -> Array | Gates:
    """Return x W + b as one array (T, B, 4H), or as four arrays (T, B, H) if each gate has its own input mask."""
    if mask is None:
        return project(params, x, None, compute_dtype)
    if not is_per_gate(mask):
        z = matmul(x * _over(mask, x), params.kernel, compute_dtype)
        return z + jnp.broadcast_to(params.bias, z.shape)
    parts = zip(mask, _split(params.kernel), _split(params.bias), strict=True)
    z = [(matmul(x * _over(m, x), kernel, compute_dtype), bias) for m, kernel, bias in parts]
    return tuple(product + jnp.broadcast_to(bias, product.shape) for product, bias in z)


def _forward(loop: Callable, compute_dtype, sequences, keep, params, x, state, valid, dropout):
    z = _project(params, x, dropout.input, compute_dtype)
    h, final, residuals = loop(sequences, keep, params.recurrent_kernel, z, state, dropout.recurrent, valid, compute_dtype)
    return (h, final), residuals


def forward_loop(sequences, keep, kernel, z, state, mask, valid, compute_dtype):
    """Run the forward loop in JAX; see `Loops.forward` for the arguments and results. The residuals are `LocalDerivatives`."""
    per_gate = is_per_gate(mask)
    kernel = jnp.stack(_split(kernel)) if per_gate else kernel

    def body(carry: LSTMState, inputs):
        z_t, valid_t = inputs
        h = carry.h if mask is None else (carry.h[None] if per_gate else carry.h) * mask
        r = matmul(h, kernel, compute_dtype)
        z_i, z_f, z_g, z_o = z_t if isinstance(z_t, tuple) else _split(z_t)
        r_i, r_f, r_g, r_o = r if per_gate else _split(r)
        i, f, g, o = _sigmoid(z_i + r_i), _sigmoid(z_f + r_f), jnp.tanh(z_g + r_g), _sigmoid(z_o + r_o)
        c = f * carry.c + i * g
        tanh_c = jnp.tanh(c)
        new = LSTMState(o * tanh_c, c)
        if not keep:
            if valid_t is not None:
                new = jax.tree.map(lambda a, b: jnp.where(valid_t[:, None], a, b), new, carry)
            return new, (new.h if sequences else None, None)
        z_by = (g * i * (1 - i), carry.c * f * (1 - f), i * (1 - g * g), tanh_c * o * (1 - o))
        local = LocalDerivatives(o * (1 - tanh_c * tanh_c), z_by, f, carry.h)
        if valid_t is not None:
            copied = LocalDerivatives(jnp.zeros_like(c), (jnp.zeros_like(c),) * GATES, jnp.ones_like(c), carry.h)
            new, local = jax.tree.map(lambda a, b: jnp.where(valid_t[:, None], a, b), (new, local), (carry, copied))
        return new, (new.h if sequences else None, local)

    final, (h, residuals) = lax.scan(body, state, (z, valid))
    return h, final, residuals


def backward_loop(split, kernel, residuals, d_h, d_final, mask, valid, compute_dtype):
    """Run the backward loop in JAX; see `Loops.backward` for the arguments and results. The residuals are `LocalDerivatives`."""
    per_gate = is_per_gate(mask)
    # without the barrier the compiler would fold the transposition into the product in the loop, and so repeat it at each step
    transposed = lax.optimization_barrier(jnp.stack([part.T for part in _split(kernel)]) if per_gate else kernel.T)

    def body(carry: LSTMState, inputs):
        d_h_t, local, valid_t = inputs
        d_h = carry.h if d_h_t is None else carry.h + d_h_t
        d_c = carry.c + d_h * local.c_by_h
        d_z = tuple(d * by for d, by in zip((d_c, d_c, d_c, d_h), local.z_by, strict=True))
        if per_gate:
            d_h_before = (matmul(jnp.stack(d_z), transposed, compute_dtype) * mask).sum(0)
        else:
            d_h_before = matmul(jnp.concatenate(d_z, axis=-1), transposed, compute_dtype)
            d_h_before = d_h_before if mask is None else d_h_before * mask
        if valid_t is not None:
            d_h_before = jnp.where(valid_t[:, None], d_h_before, d_h)
        return LSTMState(d_h_before, d_c * local.forget), d_z if split else jnp.concatenate(d_z, axis=-1)

    return lax.scan(body, d_final, (d_h, residuals, valid), reverse=True)


def _backward(loop: Callable, compute_dtype, args, residuals, cotangents):
    params, x, state, valid, dropout = args
    d_h, d_final = with_zeros(cotangents, state)
    mask, kernel = dropout.recurrent, params.recurrent_kernel
    split = is_per_gate(mask) or is_per_gate(dropout.input)
    d_state, d_z = loop(split, kernel, residuals, d_h, d_final, mask, valid, compute_dtype)

    d_params, d_x, d_masks = gradients(params, x, dropout, residuals.h, d_z, compute_dtype)
    return d_params, d_x, d_state, None, d_masks


def gradients(params: LSTMParams, x: Array, dropout: DropoutMasks, h: Array, d_z: Array | Gates, compute_dtype=None):
    """Return the gradients with respect to the parameters, x and the dropout masks.

    Args:
        params: parameters of the LSTM.
        x: inputs (T, B, E), or ids (T, B); the gradient of ids is None.
        dropout: dropout masks.
        h: the h before each step (T, B, H).
        d_z: gradient of z from the backward loop, one array (T, B, 4H) or four arrays (T, B, H).
        compute_dtype: dtype of the matrix products; None for that of the arrays.
    """
    by_operands: Callable = _gate_gradients if isinstance(d_z, tuple) else _flat_gradients
    if jnp.issubdtype(x.dtype, jnp.integer):  # ids: for one-hot rows the product x^T d_z adds each d_z to the row of its id
        all_gates = jnp.concatenate(d_z, axis=-1) if isinstance(d_z, tuple) else d_z
        d_kernel, d_x, d_input_mask = jnp.zeros_like(params.kernel).at[x].add(all_gates), None, None
    else:
        d_kernel, d_x, d_input_mask = by_operands(x, params.kernel, dropout.input, d_z, compute_dtype)
    d_recurrent, _, d_recurrent_mask = by_operands(h, params.recurrent_kernel, dropout.recurrent, d_z, compute_dtype)
    d_bias = jnp.concatenate([d.sum((0, 1)) for d in d_z]) if isinstance(d_z, tuple) else d_z.sum((0, 1))
    return LSTMParams(d_kernel, d_recurrent, d_bias), d_x, DropoutMasks(d_input_mask, d_recurrent_mask)


def _flat_gradients(x: Array, kernel: Array, mask: Array | None, d_z: Array, compute_dtype):
    """Return the gradients of (x * mask) @ kernel with respect to the kernel, x and the mask.

    x is (T, B, D), the mask (B, D) or None, and d_z, the gradient of the product, is (T, B, 4H). All gradients are computed; the compiler
    removes those that are not used.
    """
    rows = x if mask is None else x * _over(mask, x)
    d_kernel = _over_time_and_batch(lax.optimization_barrier(rows.transpose(2, 0, 1)), d_z, compute_dtype)
    d_rows = matmul(d_z, kernel.T, compute_dtype)
    if mask is None:
        return d_kernel, d_rows, None
    return d_kernel, d_rows * _over(mask, x), (d_rows * x).sum(0)


def _gate_gradients(x: Array, kernel: Array, mask: Array | None, d_z: Gates, compute_dtype):
    """Return the gradients of `_flat_gradients` from a d_z of four arrays (T, B, H), with one product per gate.

    The mask may be (B, D), one per gate (4, B, D), or None.
    """
    masks = [None] * GATES if mask is None else list(mask) if is_per_gate(mask) else [mask] * GATES
    rows = [x if m is None else x * _over(m, x) for m in masks]
    # d_z is transposed instead of the rows: both kernels use the result, and masks are cheap to apply along the last axis of the rows
    d_z_transposed = lax.optimization_barrier(tuple(d.transpose(2, 0, 1) for d in d_z))
    # the barrier keeps the transposition of the result out of the product: XLA's CPU compiler has no transposed bfloat16 product
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
    """Return the product of a (D, T, B) and b (T, B, F), summed over the time and batch axes, an array (D, F).

    The arrays are not reshaped, so that the batch axis keeps its sharding.
    """
    operands = (a, b) if compute_dtype is None else (a.astype(compute_dtype), b.astype(compute_dtype))
    return lax.dot_general(*operands, (((1, 2), (0, 1)), ((), ())), preferred_element_type=a.dtype)


LOOPS = Loops(forward_loop, backward_loop)
