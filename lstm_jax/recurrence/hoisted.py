"""The LSTM with a backward pass of its own (custom VJP): every GEMM that need not be in the loop is outside it.

In the forward loop stays h U, in the backward loop dz U^T. The input projection, the input's gradient and the gradients of kernel and
recurrent kernel are each one product over all T and B (one a gate where dropout masks differ between the gates). Equations: back-propagation
through time of cells/lstm.py. Same signature and results as reference.py; reverse mode only.

Kept for the backward pass, a step: the four gates, and h and c as they were before the step; c' is recomputed from them.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_derivatives import SymbolicZero
from jaxtyping import Array, Float

from lstm_jax.cells import Cell, LSTMParams, LSTMState
from lstm_jax.cells.lstm import matmul, project
from lstm_jax.dropout import DropoutMasks
from lstm_jax.shapes import GATES


class Kept(NamedTuple):
    """Of the forward pass: gates (T, B, 4H) after their activations; h and c before each step (T, B, H)."""

    gates: jax.Array
    h: jax.Array
    c: jax.Array


def run(
    cell: Cell,
    params: LSTMParams,
    x: Float[Array, "T B E"],
    state: LSTMState,
    valid: Array | None,
    dropout: DropoutMasks,
    compute_dtype=None,
    sequences: bool = True,
):
    """See `reference.run`."""
    del cell  # the capability table lets only the LSTM come here
    return _run(compute_dtype, sequences, params, x, state, valid, dropout)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _run(compute_dtype, sequences, params, x, state, valid, dropout):
    h, final, _ = _forward(compute_dtype, sequences, params, x, state, valid, dropout)
    return h, final


def _by_gate(array: Array) -> Array:
    """(..., 4H) -> (4, ..., H)."""
    return jnp.stack(jnp.split(array, GATES, axis=-1))


def _spread(mask: Array, like: Array) -> Array:
    """A mask (B, D) over the leading T of `like` (T, B, D)."""
    return jnp.broadcast_to(mask, like.shape)


def _forward(compute_dtype, sequences, params, x, state, valid, dropout):
    z = project(params, x, dropout.input, compute_dtype)
    mask = dropout.recurrent
    per_gate = mask is not None and mask.ndim == 3
    kernel = _by_gate(params.recurrent_kernel) if per_gate else params.recurrent_kernel

    def body(carry: LSTMState, inputs):
        z_t, valid_t = inputs
        h = carry.h if mask is None else (carry.h[None] if per_gate else carry.h) * mask
        r = matmul(h, kernel, compute_dtype)
        z_i, z_f, z_g, z_o = jnp.split(z_t, GATES, axis=-1)
        r_i, r_f, r_g, r_o = r if per_gate else jnp.split(r, GATES, axis=-1)
        i, f, o = jax.nn.sigmoid(z_i + r_i), jax.nn.sigmoid(z_f + r_f), jax.nn.sigmoid(z_o + r_o)
        g = jnp.tanh(z_g + r_g)
        c = f * carry.c + i * g
        new = LSTMState(o * jnp.tanh(c), c)
        if valid_t is not None:
            new = jax.tree.map(lambda a, b: jnp.where(valid_t[:, None], a, b), new, carry)
        return new, (new.h if sequences else None, Kept(jnp.concatenate([i, f, g, o], axis=-1), carry.h, carry.c))

    final, (h, kept) = lax.scan(body, state, (z, valid))
    return h, final, kept


def _fwd(compute_dtype, sequences, params, x, state, valid, dropout):
    # symbolic_zeros wraps every leaf, to say which cotangents are wanted; only the values matter here
    params, x, state, valid, dropout = jax.tree.map(
        lambda leaf: leaf.value, (params, x, state, valid, dropout), is_leaf=lambda leaf: hasattr(leaf, "perturbed")
    )
    h, final, kept = _forward(compute_dtype, sequences, params, x, state, valid, dropout)
    return (h, final), (params, x, valid, dropout, kept)


def _bwd(compute_dtype, sequences, residuals, cotangents):
    params, x, valid, dropout, kept = residuals
    d_h, d_final = cotangents
    d_h = None if isinstance(d_h, SymbolicZero) else d_h
    d_state = jax.tree.map(
        lambda d: jnp.zeros(d.shape, d.dtype) if isinstance(d, SymbolicZero) else d,
        d_final,
        is_leaf=lambda d: isinstance(d, SymbolicZero),
    )
    mask = dropout.recurrent
    per_gate = mask is not None and mask.ndim == 3
    kernel = params.recurrent_kernel
    transposed = jnp.swapaxes(_by_gate(kernel), 1, 2) if per_gate else kernel.T

    def body(carry: LSTMState, inputs):
        d_h_t, kept_t, valid_t = inputs
        d_h = carry.h if d_h_t is None else carry.h + d_h_t
        i, f, g, o = jnp.split(kept_t.gates, GATES, axis=-1)
        tanh_c = jnp.tanh(f * kept_t.c + i * g)
        d_c = carry.c + d_h * o * (1 - tanh_c * tanh_c)
        d_z = [d_c * g * i * (1 - i), d_c * kept_t.c * f * (1 - f), d_c * i * (1 - g * g), d_h * tanh_c * o * (1 - o)]
        d_c_before = d_c * f
        if valid_t is not None:
            d_z = [jnp.where(valid_t[:, None], d, 0) for d in d_z]
            d_c_before = jnp.where(valid_t[:, None], d_c_before, carry.c)
        d_z_flat = jnp.concatenate(d_z, axis=-1)
        if per_gate:
            d_h_before = (matmul(jnp.stack(d_z), transposed, compute_dtype) * mask).sum(0)
        else:
            d_h_before = matmul(d_z_flat, transposed, compute_dtype)
            d_h_before = d_h_before if mask is None else d_h_before * mask
        if valid_t is not None:
            d_h_before = jnp.where(valid_t[:, None], d_h_before, d_h)
        return LSTMState(d_h_before, d_c_before), d_z_flat

    d_state, d_z = lax.scan(body, d_state, (d_h, kept, valid), reverse=True)

    d_kernel, d_x, d_input_mask = _product_gradients(x, params.kernel, dropout.input, d_z, compute_dtype)
    d_recurrent, _, d_recurrent_mask = _product_gradients(kept.h, kernel, mask, d_z, compute_dtype)
    d_params = LSTMParams(d_kernel, d_recurrent, d_z.sum((0, 1)))
    return d_params, d_x, d_state, None, DropoutMasks(d_input_mask, d_recurrent_mask)


def _product_gradients(x: Array, kernel: Array, mask: Array | None, d_z: Array, compute_dtype):
    """Gradients of `masked_matmul(x, kernel, mask)` by kernel, x and mask, for x (T, B, D), d_z (T, B, 4H).

    What the caller, or the caller's caller, does not use is removed by the compiler.
    """
    rows = x if mask is None or mask.ndim == 3 else x * _spread(mask, x)
    if mask is None or mask.ndim == 2:
        d_kernel = _over_time_and_batch(rows, d_z, compute_dtype)
        d_rows = matmul(d_z, kernel.T, compute_dtype)
        if mask is None:
            return d_kernel, d_rows, None
        return d_kernel, d_rows * _spread(mask, x), (d_rows * x).sum(0)
    d_gates = jnp.split(d_z, GATES, axis=-1)
    parts = jnp.split(kernel, GATES, axis=-1)
    d_kernel = [_over_time_and_batch(x * _spread(m, x), d, compute_dtype) for m, d in zip(mask, d_gates, strict=True)]
    d_rows = [matmul(d, part.T, compute_dtype) for d, part in zip(d_gates, parts, strict=True)]
    d_x = sum(d * _spread(m, x) for m, d in zip(mask, d_rows, strict=True))
    return jnp.concatenate(d_kernel, axis=-1), d_x, jnp.stack([(d * x).sum(0) for d in d_rows])


def _over_time_and_batch(x: Array, d_z: Array, compute_dtype) -> Array:
    """sum over t, b of x[t, b, :] (outer) d_z[t, b, :], as one product; no reshape, so that a sharded B stays where it is."""
    operands = (x, d_z) if compute_dtype is None else (x.astype(compute_dtype), d_z.astype(compute_dtype))
    return lax.dot_general(*operands, (((0, 1), (0, 1)), ((), ())), preferred_element_type=x.dtype)


_run.defvjp(_fwd, _bwd, symbolic_zeros=True)
