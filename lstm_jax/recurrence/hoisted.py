"""The backend `hoisted`, which runs the LSTM with a custom backward pass and moves (hoists) matrix products out of the loops over time.

B is the batch size, T the number of steps, E the number of input features and H the number of units. W is the kernel, U the recurrent
kernel, b the bias, and z the pre-activations of the gates. A name d_x stands for the gradient with respect to x.

The loops contain only the products that depend on the neighbouring step: h U in the forward loop, and d_z U^T in the backward loop. The
input projection, the gradient of the input, and the gradients of the kernel and the recurrent kernel are each computed by one product over
all T steps and B rows of the batch, or by one product per gate if the gates have different dropout masks. The backward pass is
back-propagation through time for the equations in cells/lstm.py.

The forward pass stores the h before each step and the local derivatives of the step, so that the backward loop only multiplies and adds.
The backend `pallas` uses the class `HoistedLSTM` with loops of its own. The loops here are the twins of those of `pallas` and `compiled`,
which are not written in JAX and keep other residuals.

Two choices make the code faster with XLA's compiler for CPUs (measured for B = 16 and H = 128 on one core): the gates are four separate
arrays, and operands are transposed before a loop or a product.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from lstm_jax.aliases import Texts
from lstm_jax.bounds import frozen
from lstm_jax.cells import LSTMParams, LSTMState
from lstm_jax.cells.products import Mask, is_ids, is_per_gate, masked, matmul, project
from lstm_jax.dropout import DropoutMasks
from lstm_jax.primitives.operation import apply, with_zeros
from lstm_jax.recurrence.call import Call, Options, RecurrentOperation, Resets, restart, select_rows, split_gradient
from lstm_jax.shapes import GATES

Gates = tuple[Array, ...]
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

    c_by_h: Array
    z_by: Gates
    forget: Array
    h: Array


def _local_derivatives(gates: Gates, state: LSTMState, tanh_c: Array) -> LocalDerivatives:
    """Return the local derivatives from the gates, the state before a step, and tanh(c) after it."""
    i, f, g, o = gates
    z_by = (g * i * (1 - i), state.c * f * (1 - f), i * (1 - g * g), tanh_c * o * (1 - o))
    return LocalDerivatives(o * (1 - tanh_c * tanh_c), z_by, f, state.h)


def _split(array: Array) -> Gates:
    return tuple(jnp.split(array, GATES, axis=-1))


class Residuals(NamedTuple):
    """Results of a cell's forward pass that its backward pass reads, also in C++ and in Pallas.

    Attributes:
        kept: for the LSTM, the gates i, f, g, o after their activation functions (T, B, 4H), with zeros at padded steps. For any other
            cell, what each step keeps besides the state: an array (T, B, n H), or None if n is 0. n is the number of the cell in
            `COMPILED_CELLS`.
        all_h: the initial h, followed by h after each step, (T + 1, B, H); (T + 1, B, 4H) for the LSTM with full gate recurrence, see
            `compiled_cells.join_state`.
        all_c: the initial c, followed by c after each step, (T + 1, B, H); None for a cell without c.
    """

    kept: Any
    all_h: Array
    all_c: Any = None

    def states(self, resets: Resets | None) -> LSTMState:
        """Return the state before each step, with arrays (T, B, H). At a step that begins with a reset, it is `resets.state`."""
        before = LSTMState(self.all_h[:-1], self.all_c[:-1])
        return before if resets is None else jax.vmap(restart, (0, 0, None))(before, resets.at, resets)

    def derivatives(self, call: Call) -> LocalDerivatives:
        """Return the local derivatives of an LSTM."""
        local = _local_derivatives(_split(self.kept), self.states(call.resets), jnp.tanh(self.all_c[1:]))
        # at a padded step the gates are 0, so that all derivatives are 0; only `forget` must be 1 there
        return local._replace(forget=select_rows(call.valid, local.forget, 1))


class Loops(NamedTuple):
    """The two loops over time of an LSTM: the loop of the forward pass and the loop of the backward pass.

    Attributes:
        forward: function forward(options, keep, z, call) that returns (h of all steps, final state, residuals). z is the projected input,
            one array (T, B, 4H) or four arrays (T, B, H). h is an array (T, B, H), or None if `options.sequences` is false. The residuals
            are what `backward` reads, `LocalDerivatives` or `Residuals`, or None if `keep` is false.
        backward: function backward(options, residuals, d_h, d_final, call) that returns the gradients with respect to the initial state,
            `resets.state` (None without resets) and z. d_h (T, B, H), or None, and d_final are the gradients with respect to h of all steps
            and to the final state. The gradient with respect to z is four arrays (T, B, H) if a dropout mask is per gate, else one array
            (T, B, 4H).
        platforms: platforms on which these loops run, such as "cuda", or () if they are written in JAX. Elsewhere `TWIN` runs.
    """

    forward: Callable
    backward: Callable
    platforms: Texts = ()


def forward_loop(options: Options, keep: bool, z, call: Call, kind: type = LocalDerivatives):
    """Run the forward loop of the LSTM over time in JAX; see `Loops`. The residuals are of the class `kind`."""
    mask, resets, kernel = call.dropout.recurrent, call.resets, call.params.recurrent_kernel
    per_gate, states = is_per_gate(mask), keep and kind is Residuals
    kernel = jnp.stack(_split(kernel)) if per_gate else kernel

    def body(carry: LSTMState, inputs):
        z_t, valid_t, reset_t = inputs
        carry = restart(carry, reset_t, resets)
        h = carry.h if mask is None else (carry.h[None] if per_gate else carry.h) * mask
        r = matmul(h, kernel, options.compute_dtype)
        z_i, z_f, z_g, z_o = z_t if isinstance(z_t, tuple) else _split(z_t)
        r_i, r_f, r_g, r_o = r if per_gate else _split(r)
        i, f, g, o = jax.nn.sigmoid(z_i + r_i), jax.nn.sigmoid(z_f + r_f), jnp.tanh(z_g + r_g), jax.nn.sigmoid(z_o + r_o)
        c = f * carry.c + i * g
        tanh_c = jnp.tanh(c)
        new = LSTMState(o * tanh_c, c)
        zero = jnp.zeros_like(c)
        kept: Any = None  # what the step keeps
        copied: Any = None  # what a padded step keeps
        if states:
            kept, copied = (i, f, g, o), (zero,) * GATES
        elif keep:
            kept = _local_derivatives((i, f, g, o), carry, tanh_c)
            copied = LocalDerivatives(zero, (zero,) * GATES, jnp.ones_like(c), carry.h)
        new, kept = select_rows(valid_t, (new, kept), (carry, copied))
        return new, (new.h if options.sequences or states else None, new.c if states else None, kept)

    scanned: Any = lax.scan(body, call.state, (z, call.valid, resets and resets.at))
    final, (h, c, kept) = scanned
    if states:
        all_h, all_c = (jnp.concatenate([first[None], rest]) for first, rest in zip(call.state, (h, c), strict=True))
        kept = Residuals(jnp.concatenate(kept, axis=-1), all_h, all_c)
    return h if options.sequences else None, final, kept


def backward_loop(options: Options, residuals, d_h, d_final, call: Call):
    """Run the backward loop of the LSTM over time in JAX; see `Loops`. The residuals are `LocalDerivatives` or `Residuals`."""
    derivatives: Any = residuals.derivatives(call) if isinstance(residuals, Residuals) else residuals
    mask: Any = call.dropout.recurrent
    resets, kernel = call.resets, call.params.recurrent_kernel
    per_gate = is_per_gate(mask)
    split = per_gate or is_per_gate(call.dropout.input)
    # without the barrier the compiler would fold the transposition into the product in the loop, and so repeat it at each step
    transposed = lax.optimization_barrier(jnp.stack([part.T for part in _split(kernel)]) if per_gate else kernel.T)

    def body(carries, inputs):
        carry, d_reset = carries
        d_h_t, local, valid_t, reset_t = inputs
        d_h = carry.h if d_h_t is None else carry.h + d_h_t
        d_c = carry.c + d_h * local.c_by_h
        d_z = tuple(d * by for d, by in zip((d_c, d_c, d_c, d_h), local.z_by, strict=True))
        if per_gate:
            d_h_before = (matmul(jnp.stack(d_z), transposed, options.compute_dtype) * mask).sum(0)
        else:
            d_h_before = masked(matmul(jnp.concatenate(d_z, axis=-1), transposed, options.compute_dtype), mask)
        d_h_before = select_rows(valid_t, d_h_before, d_h)
        before = split_gradient(LSTMState(d_h_before, d_c * local.forget), d_reset, reset_t)
        return before, d_z if split else jnp.concatenate(d_z, axis=-1)

    starts, at = (None, None) if resets is None else (jax.tree.map(jnp.zeros_like, d_final), resets.at)
    (d_state, d_reset), d_z = lax.scan(body, (d_final, starts), (d_h, derivatives, call.valid, at), reverse=True)
    return d_state, d_reset, d_z


LOOPS = Loops(forward_loop, backward_loop)
TWIN = Loops(partial(forward_loop, kind=Residuals), backward_loop)
"""The same loops with `Residuals`, as the loops that are not written in JAX."""


def run(options: Options, call: Call):
    """Run the LSTM over time with the backend `hoisted`. The arguments and results are those of `reference.run`."""
    return apply(HoistedLSTM(LOOPS, options), *call)


@frozen
class HoistedLSTM(RecurrentOperation):
    """LSTM over time as an `Operation` whose arguments are the fields of a `Call`.

    Attributes:
        loops: the two loops over time, for the forward pass and for the backward pass.
        options: static options of the call.
    """

    loops: Loops
    options: Options

    @property
    def platforms(self):
        return self.loops.platforms

    def _loops(self, custom: bool) -> Loops:
        return TWIN if self.platforms and not custom else self.loops

    def forward(self, custom, keep, *args):
        call = Call(*args)
        z = _project(call.params, call.x, call.dropout.input, self.options.compute_dtype)
        h, final, residuals = self._loops(custom).forward(self.options, keep, z, call)
        return (h, final), residuals

    def backward(self, custom, wanted, args, residuals, cotangents) -> tuple:
        call, (d_h, d_final) = Call(*args), cotangents
        d_final = with_zeros(d_final, call.state)
        d_state, d_reset, d_z = self._loops(custom).backward(self.options, residuals, d_h, d_final, call)
        h = residuals.h if isinstance(residuals, LocalDerivatives) else residuals.states(call.resets).h
        d_params, d_x, d_masks = _gradients(self.options, call, h, d_z)
        return tuple(Call(d_params, d_x, d_state, None, d_masks, call.resets and Resets(None, d_reset)))


def _project(params: LSTMParams, x: Array, mask: Mask, compute_dtype):
    """Return the projected input x W + b as one array (T, B, 4H), or as four arrays (T, B, H) if each gate has its own input mask."""
    if not is_per_gate(mask):
        return project(params, x, mask, compute_dtype)
    parts = zip(mask, _split(params.kernel), _split(params.bias), strict=True)
    return tuple(project(params._replace(kernel=kernel, bias=bias), x, m, compute_dtype) for m, kernel, bias in parts)


def _gradients(options: Options, call: Call, h: Array, d_z: Array | Gates):
    """Return the gradients with respect to the parameters, the inputs and the dropout masks, from h before each step and that of z."""
    params, x, dropout, valid, compute_dtype = call.params, call.x, call.dropout, call.valid, options.compute_dtype
    by_operands: Callable = _gate_gradients if isinstance(d_z, tuple) else _flat_gradients
    if is_ids(x):  # for one-hot vectors x the product x^T d_z adds each d_z to the row of its id
        all_gates = jnp.concatenate(d_z, axis=-1) if isinstance(d_z, tuple) else d_z
        x = x if valid is None else jnp.where(valid, x, len(params.kernel))  # no row; d_z at padding may be 0 * NaN
        d_kernel, d_x, d_input_mask = jnp.zeros_like(params.kernel).at[x].add(all_gates), None, None
    else:
        d_kernel, d_x, d_input_mask = by_operands(x, params.kernel, dropout.input, d_z, compute_dtype)
    d_recurrent, _, d_recurrent_mask = by_operands(h, params.recurrent_kernel, dropout.recurrent, d_z, compute_dtype)
    d_bias = jnp.concatenate([d.sum((0, 1)) for d in d_z]) if isinstance(d_z, tuple) else d_z.sum((0, 1))
    return LSTMParams(d_kernel, d_recurrent, d_bias), d_x, DropoutMasks(d_input_mask, d_recurrent_mask)


def _flat_gradients(x: Array, kernel: Array, mask: Mask, d_z: Array, compute_dtype):
    """Back-propagate through the product (x * mask) @ kernel, and return the gradients with respect to the kernel, x and the mask."""
    d_kernel = _over_time_and_batch(lax.optimization_barrier(masked(x, mask).transpose(2, 0, 1)), d_z, compute_dtype)
    d_rows = matmul(d_z, kernel.T, compute_dtype)
    return d_kernel, masked(d_rows, mask), None if mask is None else (d_rows * x).sum(0)


def _gate_gradients(x: Array, kernel: Array, mask: Mask, d_z: Gates, compute_dtype):
    """Return the gradients of the product (x * mask) @ kernel, computed for each gate separately."""
    masks = [None] * GATES if mask is None else list(mask) if is_per_gate(mask) else [mask] * GATES
    rows = [masked(x, m) for m in masks]
    # d_z is transposed instead of the rows, since the gradients of both kernels use it, and masks are cheap to apply along the last axis
    d_z_transposed = lax.optimization_barrier(tuple(d.transpose(2, 0, 1) for d in d_z))
    # the barrier prevents XLA from merging the product with the transposition of its result, which on a CPU it cannot compute in bfloat16
    d_kernel = [lax.optimization_barrier(_over_time_and_batch(d, r, compute_dtype)).T for d, r in zip(d_z_transposed, rows, strict=True)]
    transposed = lax.optimization_barrier(tuple(part.T for part in _split(kernel)))
    d_rows = [matmul(d, part, compute_dtype) for d, part in zip(d_z, transposed, strict=True)]
    d_x = sum(masked(d, m) for m, d in zip(masks, d_rows, strict=True))
    d_mask = None
    if mask is not None:
        by_gate = jnp.stack([(d * x).sum(0) for d in d_rows])
        d_mask = by_gate if is_per_gate(mask) else by_gate.sum(0)
    return jnp.concatenate(d_kernel, axis=-1), d_x, d_mask


def _over_time_and_batch(a: Array, b: Array, compute_dtype) -> Array:
    # a product over two axes, without reshaping, so that the batch axis keeps its sharding
    operands = (a, b) if compute_dtype is None else (a.astype(compute_dtype), b.astype(compute_dtype))
    return lax.dot_general(*operands, (((1, 2), (0, 1)), ((), ())), preferred_element_type=a.dtype)
