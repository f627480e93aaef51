"""The backend `hoisted`, which runs the LSTM with a custom backward pass and moves (hoists) matrix products out of the loops over time.

E is the number of input features and H the number of units. W is the kernel, U the recurrent kernel, b the bias, and z the pre-activations
of the gates. A name d_x stands for the gradient with respect to x.

The loops contain only the products that depend on the neighbouring step: h U in the forward loop, and d_z U^T in the backward loop. The
input projection, the gradient of the input, and the gradients of the kernel and the recurrent kernel are each computed by one product over
all T steps and B rows of the batch, or by one product per gate if the gates have different dropout masks. The backward pass is
back-propagation through time for the equations in cells/lstm.py.

The forward pass stores the h before each step and the local derivatives of the step (see `LocalDerivatives`), so that the backward loop
only multiplies and adds. The two loops are an attribute of the class `HoistedLSTM` (see `Loops`), so that the backend `pallas` can use this
class with its own loops.

Two choices make the code faster with XLA's compiler for CPUs (measured for B = 16 and H = 128 on one core): the gates are four separate
arrays, and operands are transposed before a loop or a product.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from lstm_jax.cells import LSTMParams, LSTMState
from lstm_jax.cells.products import is_per_gate, matmul, project
from lstm_jax.dropout import DropoutMasks
from lstm_jax.primitives.operation import apply
from lstm_jax.recurrence.operands import Call, Options
from lstm_jax.recurrence.recurrent_operation import RecurrentOperation, with_zeros
from lstm_jax.recurrence.resets import Resets, restart, split_gradient
from lstm_jax.shapes import GATES

Gates = tuple[jax.Array, ...]
"""Four arrays, one for each of the gates i, f, g and o. The last axis of each has size H."""


class LocalDerivatives(NamedTuple):
    """Derivatives of each step of an LSTM, which the forward pass stores for the backward pass. All arrays are (T, B, H).

    h and c are the state before a step, and h' and c' the state after it. i, f, g and o are the gates, and z are the pre-activations of the
    gates. d_x stands for the gradient with respect to x. The backward pass gets d_h' and d_c', and computes in this order

        d_c' += d_h' * c_by_h;  d_z[i, f, g] = d_c' * z_by[i, f, g];  d_z[o] = d_h' * z_by[o];  d_c = d_c' * forget

    Attributes:
        c_by_h: derivative of h' with respect to c', which is o (1 - tanh(c')^2), or 0 at a padded step.
        z_by: four arrays, 0 at padded steps. Three are the derivatives of c' with respect to z of the gates i, f and g: g i (1 - i),
            c f (1 - f) and i (1 - g^2). The fourth is the derivative of h' with respect to z of the gate o: tanh(c') o (1 - o).
        forget: derivative of c' with respect to c, which is f, or 1 at a padded step.
        h: h before the step.
    """

    c_by_h: jax.Array
    z_by: Gates
    forget: jax.Array
    h: jax.Array

    def h_before(self, resets: Resets | None) -> jax.Array:
        """Return h before each step (T, B, H). At a step that begins with a reset, it is the h of `resets.state`."""
        del resets
        return self.h


class Loops(NamedTuple):
    """The two loops over time of an LSTM: the loop of the forward pass and the loop of the backward pass.

    The functions `forward` and `backward` have these arguments in common:

        kernel: recurrent kernel (H, 4H).
        mask: recurrent dropout mask, or None.
        valid: bool (T, B) that is False at padded steps, or None if no step is padded.
        resets: a `Resets`, or None.
        compute_dtype: dtype of the matrix products, or None for the dtype of the arrays.

    Attributes:
        forward: function forward(sequences, keep, kernel, z, state, mask, valid, resets, compute_dtype). z is the projected input, one
            array (T, B, 4H) or four arrays (T, B, H), and `state` is the initial state. The function returns (h of all steps,
            final state, residuals). The first result is an array (T, B, H), or None if `sequences` is false. The residuals are what
            `backward` reads, or None if `keep` is false. They have a method `h_before(resets)` that returns h before each step (T, B, H).
        backward: function backward(split, kernel, residuals, d_h, d_final, mask, valid, resets, compute_dtype). d_h is the gradient with
            respect to h of all steps (T, B, H), or None. d_final is the gradient with respect to the final state. The function returns the
            gradients with respect to the initial state, `resets.state` and z. The gradient with respect to `resets.state` is None if
            `resets` is None. The gradient with respect to z is four arrays (T, B, H) if `split` is true, else one array (T, B, 4H).
        twin: another `Loops`, written in JAX, with the same results and residuals; or None if this one is written in JAX.
        platforms: platforms on which these loops run, such as "cuda", or () if they are written in JAX.
    """

    forward: Callable
    backward: Callable
    twin: Any = None
    platforms: tuple[str, ...] = ()


def run(options: Options, call: Call):
    """Run the LSTM over time with the backend `hoisted`. The arguments and results are those of `reference.run`."""
    return apply(HoistedLSTM(LOOPS, options.compute_dtype, options.sequences), *call[:-1])


@dataclass(frozen=True)
class HoistedLSTM(RecurrentOperation):
    """LSTM over time as an `Operation`, which is a function of arrays with custom forward and backward passes.

    Its arguments are (params, x, state, valid, dropout, resets), as in `reference.run`.

    Attributes:
        loops: the two loops over time, for the forward pass and for the backward pass.
        compute_dtype: dtype of the matrix products; None means the dtype of the arrays.
        sequences: whether to return h of all steps, or only the final state.
    """

    loops: Loops
    compute_dtype: Any
    sequences: bool

    def runs_on(self):
        """Return the platforms, such as "cuda", on which `forward` and `backward` run. See `Operation.runs_on`."""
        return self.loops.platforms

    def forward(self, keep, *args):
        """Run the LSTM and return (outputs, residuals); see `Operation.forward`."""
        return _forward(self.loops.forward, self.compute_dtype, self.sequences, keep, *args)

    def backward(self, wanted, args, residuals, cotangents):
        """Return a tuple of the gradients with respect to the arguments `args` of the forward pass; see `Operation.backward`."""
        return _backward(self.loops.backward, self.compute_dtype, args, residuals, cotangents)

    def plain_forward(self, keep, *args):
        """Return the same results as `forward`, computed in JAX; see `Operation.plain_forward`."""
        return _forward((self.loops.twin or self.loops).forward, self.compute_dtype, self.sequences, keep, *args)

    def plain_backward(self, wanted, args, residuals, cotangents):
        """Return the same results as `backward`, computed in JAX; see `Operation.plain_backward`."""
        return _backward((self.loops.twin or self.loops).backward, self.compute_dtype, args, residuals, cotangents)


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


def _forward(loop: Callable, compute_dtype, sequences, keep, params, x, state, valid, dropout, resets):
    z = _project(params, x, dropout.input, compute_dtype)
    h, final, residuals = loop(sequences, keep, params.recurrent_kernel, z, state, dropout.recurrent, valid, resets, compute_dtype)
    return (h, final), residuals


def forward_loop(sequences, keep, kernel, z, state, mask, valid, resets, compute_dtype):
    """Run the forward loop of the LSTM over time in JAX. The residuals that it returns are a `LocalDerivatives`."""
    per_gate = is_per_gate(mask)
    kernel = jnp.stack(_split(kernel)) if per_gate else kernel

    def body(carry: LSTMState, inputs):
        z_t, valid_t, reset_t = inputs
        carry = restart(carry, reset_t, resets)
        h = carry.h if mask is None else (carry.h[None] if per_gate else carry.h) * mask
        r = matmul(h, kernel, compute_dtype)
        z_i, z_f, z_g, z_o = z_t if isinstance(z_t, tuple) else _split(z_t)
        r_i, r_f, r_g, r_o = r if per_gate else _split(r)
        i, f, g, o = jax.nn.sigmoid(z_i + r_i), jax.nn.sigmoid(z_f + r_f), jnp.tanh(z_g + r_g), jax.nn.sigmoid(z_o + r_o)
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

    final, (h, residuals) = lax.scan(body, state, (z, valid, None if resets is None else resets.at))
    return h, final, residuals


def backward_loop(split, kernel, residuals, d_h, d_final, mask, valid, resets, compute_dtype):
    """Run the backward loop of the LSTM over time in JAX. The residuals that it reads are a `LocalDerivatives`."""
    per_gate = is_per_gate(mask)
    # without the barrier the compiler would fold the transposition into the product in the loop, and so repeat it at each step
    transposed = lax.optimization_barrier(jnp.stack([part.T for part in _split(kernel)]) if per_gate else kernel.T)

    def body(carries, inputs):
        (carry, d_reset), (d_h_t, local, valid_t, reset_t) = carries, inputs
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
        before = split_gradient(LSTMState(d_h_before, d_c * local.forget), d_reset, reset_t)
        return before, d_z if split else jnp.concatenate(d_z, axis=-1)

    starts, at = (None, None) if resets is None else (jax.tree.map(jnp.zeros_like, d_final), resets.at)
    (d_state, d_reset), d_z = lax.scan(body, (d_final, starts), (d_h, residuals, valid, at), reverse=True)
    return d_state, d_reset, d_z


def _backward(loop: Callable, compute_dtype, args, residuals, cotangents):
    params, x, state, valid, dropout, resets = args
    d_h, d_final = with_zeros(cotangents, state)
    mask, kernel = dropout.recurrent, params.recurrent_kernel
    split = is_per_gate(mask) or is_per_gate(dropout.input)
    d_state, d_reset, d_z = loop(split, kernel, residuals, d_h, d_final, mask, valid, resets, compute_dtype)

    d_params, d_x, d_masks = gradients(params, x, dropout, residuals.h_before(resets), d_z, valid, compute_dtype)
    return d_params, d_x, d_state, None, d_masks, None if resets is None else Resets(None, d_reset)


def gradients(params: LSTMParams, x: Array, dropout: DropoutMasks, h: Array, d_z: Array | Gates, valid, compute_dtype=None):
    """Return three values: the gradients with respect to the parameters of an LSTM, its inputs and its dropout masks."""
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


LOOPS = Loops(forward_loop, backward_loop)
