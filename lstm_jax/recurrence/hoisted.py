"""The LSTM with a backward pass of its own: every GEMM that does not depend on the step before is outside the loop.

The forward loop contains h U, the backward loop dz U^T. The input projection, the input's gradient and the gradients of kernel and
recurrent kernel are each one product over all T and B (one for each gate where dropout masks differ between the gates). Equations:
back-propagation through time of cells/lstm.py. Signature and results are those of reference.py.

The residuals of a step are the h before it and the local derivatives (see `LocalDerivatives`), so that the backward loop only multiplies.

The loops are an argument (`Loops`), so that another backend can replace them (pallas/).

Three choices suit XLA's CPU compiler, measured at B 16, H 128 on one core: gates are four arrays, so that each fusion writes whole vectors;
sigmoid is written as a tanh; operands of products are transposed before the loop or the product, not in it.
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
"""i, f, g, o, each with a last axis of H."""


class LocalDerivatives(NamedTuple):
    """Residuals of the forward pass, all (T, B, H).

    With d_c the gradient by c', the backward pass computes

        d_c += d_h * c_by_h;  d_z[i, f, g] = d_c * z_by[i, f, g];  d_z[o] = d_h * z_by[o];  d_c = d_c * forget

    Attributes:
        c_by_h: o (1 - tanh(c')^2); 0 at a step that is not valid.
        z_by: g i (1 - i), c f (1 - f), i (1 - g^2), tanh(c') o (1 - o); 0 at a step that is not valid.
        forget: f; 1 at a step that is not valid.
        h: h before the step.
    """

    c_by_h: jax.Array
    z_by: Gates
    forget: jax.Array
    h: jax.Array


class Loops(NamedTuple):
    """The two loops over time.

    Attributes:
        forward: forward(sequences, keep, kernel (H, 4H), z, state, mask, valid, compute_dtype) -> h of all steps or None, final state,
            residuals or None; z is one (T, B, 4H), or one (T, B, H) for each gate; residuals.h (T, B, H) is the h before each step.
        backward: backward(split, kernel, residuals, d_h (T, B, H) or None, d_final, mask, valid, compute_dtype) -> d of the first state,
            d_z in the form of z.
        twin: loops in JAX with the same values and residuals, for loops that are not in JAX.
        platforms: the platforms on which loops that are not in JAX run.
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
    """Run the LSTM, see `reference.run`."""
    del cell  # the table of backends admits only the LSTM
    return apply(HoistedLSTM(LOOPS, compute_dtype, sequences), params, x, state, valid, dropout)


@dataclass(frozen=True)
class HoistedLSTM(LSTMOperation):
    """The LSTM with given loops, on (params, x, state, valid, dropout)."""

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
    """Return a mask (B, D) broadcast over the T of `like` (T, B, D)."""
    return jnp.broadcast_to(mask, like.shape)


def _sigmoid(x: Array) -> Array:
    return 0.5 * jnp.tanh(0.5 * x) + 0.5


def _project(params: LSTMParams, x: Array, mask: Array | None, compute_dtype) -> Array | Gates:
    """Return x W + b: (T, B, 4H) from one product, or four (T, B, H) where each gate has its own mask."""
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
    """See `Loops`."""
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
    """See `Loops`."""
    per_gate = is_per_gate(mask)
    # the barrier keeps the compiler from folding the transposition into the loop's product, which then repeats it each step
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
    """Return gradients by parameters, x (None for ids) and masks, from a loop's d_z and the h (T, B, H) before each step."""
    by_operands: Callable = _gate_gradients if isinstance(d_z, tuple) else _flat_gradients
    if jnp.issubdtype(x.dtype, jnp.integer):  # one-hot rows: the product x^T d_z adds each d_z to its id's row
        all_gates = jnp.concatenate(d_z, axis=-1) if isinstance(d_z, tuple) else d_z
        d_kernel, d_x, d_input_mask = jnp.zeros_like(params.kernel).at[x].add(all_gates), None, None
    else:
        d_kernel, d_x, d_input_mask = by_operands(x, params.kernel, dropout.input, d_z, compute_dtype)
    d_recurrent, _, d_recurrent_mask = by_operands(h, params.recurrent_kernel, dropout.recurrent, d_z, compute_dtype)
    d_bias = jnp.concatenate([d.sum((0, 1)) for d in d_z]) if isinstance(d_z, tuple) else d_z.sum((0, 1))
    return LSTMParams(d_kernel, d_recurrent, d_bias), d_x, DropoutMasks(d_input_mask, d_recurrent_mask)


def _flat_gradients(x: Array, kernel: Array, mask: Array | None, d_z: Array, compute_dtype):
    """Return gradients of (x * mask) @ kernel by kernel, x and mask, for x (T, B, D), mask None or (B, D), d_z (T, B, 4H).

    The compiler removes the gradients that are not used.
    """
    rows = x if mask is None else x * _over(mask, x)
    d_kernel = _over_time_and_batch(lax.optimization_barrier(rows.transpose(2, 0, 1)), d_z, compute_dtype)
    d_rows = matmul(d_z, kernel.T, compute_dtype)
    if mask is None:
        return d_kernel, d_rows, None
    return d_kernel, d_rows * _over(mask, x), (d_rows * x).sum(0)


def _gate_gradients(x: Array, kernel: Array, mask: Array | None, d_z: Gates, compute_dtype):
    """Return the gradients of `_flat_gradients` for d_z four (T, B, H) and mask None, (B, D) or (4, B, D): one product per gate."""
    masks = [None] * GATES if mask is None else list(mask) if is_per_gate(mask) else [mask] * GATES
    rows = [x if m is None else x * _over(m, x) for m in masks]
    # d_z is transposed rather than the rows: once for both kernels, and masks are cheap to apply along the last axis
    d_z_transposed = lax.optimization_barrier(tuple(d.transpose(2, 0, 1) for d in d_z))
    # the barrier keeps the last transposition out of the product: XLA's CPU backend has no transposed bfloat16 product
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
    """Return the sum over t and b of a[:, t, b] (outer) b[t, b, :], as one product; no reshape, so that B keeps its sharding."""
    operands = (a, b) if compute_dtype is None else (a.astype(compute_dtype), b.astype(compute_dtype))
    return lax.dot_general(*operands, (((1, 2), (0, 1)), ((), ())), preferred_element_type=a.dtype)


LOOPS = Loops(forward_loop, backward_loop)
