"""The backend `hoisted`, which runs the LSTM with a custom backward pass and moves
(hoists) matrix products out of the loops over time.

B is the batch size, T the number of steps, E the number of input features and H the
number of units. W is the kernel, U the recurrent kernel, b the bias, and z the
pre-activations of the gates. A name d_x stands for the gradient with respect to x.

The loops contain only the products that depend on the neighbouring step: h U in the
forward loop, and d_z U^T in the backward loop. The input projection, the gradient of
the input, and the gradients of the kernel and the recurrent kernel are each computed by
one product over all T steps and B rows of the batch, or by one product per gate if the
gates have different dropout masks. The backward pass is back-propagation through time
for the equations in cells/lstm.py.

The forward pass stores the gates and the states of all steps. The loops here are the
twins of those of `compiled`, which are written in C++.

Two choices make the code faster with XLA's compiler for CPUs (measured for B = 16 and H
= 128 on one core): the stored gates are four separate arrays, and operands are
transposed before a loop or a product.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from lstm_jax.base.checks import frozen
from lstm_jax.base.types import GATES
from lstm_jax.cells import LSTMParams, LSTMState
from lstm_jax.cells.products import Mask, is_ids, is_per_gate, masked, matmul, project
from lstm_jax.native.operation import apply, with_zeros
from lstm_jax.recurrence.call import (
    Call,
    Options,
    RecurrentOperation,
    Resets,
    restart,
    select_rows,
    split_gradient,
)
from lstm_jax.recurrence.dropout import DropoutMasks

_split = partial(jnp.split, indices_or_sections=GATES, axis=-1)


class Residuals(NamedTuple):
    """Results of a cell's forward pass that its backward pass reads, also in C++.

    Attributes:
        kept: for the LSTM, the gates i, f, g, o after their activation functions (T, B,
            4H), with zeros at padded steps; the backend `hoisted` keeps four arrays (T,
            B, H). For any other cell, what each step keeps besides the state: an array
            (T, B, n H), or None if n is 0. n is the number of the cell in
            `COMPILED_CELLS`.
        all_h: the initial h, followed by h after each step, (T + 1, B, H); (T + 1, B,
            4H) for the LSTM with full gate recurrence, see `compiled_cells.JOINED`.
        all_c: the initial c, followed by c after each step, (T + 1, B, H); None for a
            cell without c.
    """

    kept: Any
    all_h: Array
    all_c: Any = None

    def states(self, resets: Resets | None) -> LSTMState:
        """Return the state before each step, with arrays (T, B, H). At a step that
        begins with a reset, it is `resets.state`.
        """
        before = LSTMState(self.all_h[:-1], self.all_c[:-1])
        return (
            before
            if resets is None
            else jax.vmap(restart, (0, 0, None))(before, resets.at, resets)
        )


def run(options: Options, call: Call):
    """Run the LSTM over time with the backend `hoisted`. The arguments and results are
    those of `reference.run`.
    """
    return apply(HoistedLSTM(options), *call)


@frozen
class HoistedLSTM(RecurrentOperation):
    """LSTM over time as an `Operation` whose arguments are the fields of a `Call`.


    Attributes:
        options: static options of the call.
        joined: whether the residuals have the gates as one array, as those of loops
            that are not written in JAX.
    """

    options: Options
    joined: bool = False
    platforms = ()

    def forward(self, custom, keep, *args):
        call = Call(*args)
        z = project(call.params, call.x, call.dropout.input, self.options.compute_dtype)
        h, final, residuals = self.forward_loop(keep, z, call)
        return (h, final), residuals

    def backward(self, custom, wanted, args, residuals, cotangents) -> tuple:
        call, (d_h, d_final) = Call(*args), cotangents
        params, x, dropout = call.params, call.x, call.dropout
        compute_dtype = self.options.compute_dtype
        d_final = with_zeros(d_final, call.state)
        d_state, d_reset, d_z = self.backward_loop(residuals, d_h, d_final, call)

        # for one-hot vectors x the product x^T d_z adds each d_z to the row of its id
        if is_ids(x):
            # no row; d_z at padding may be 0 * NaN
            if call.valid is not None:
                x = jnp.where(call.valid, x, len(params.kernel))
            d_kernel = jnp.zeros_like(params.kernel).at[x].add(d_z)
            d_x = d_input_mask = None
        else:
            d_kernel, d_x, d_input_mask = _product_gradients(
                x, params.kernel, dropout.input, d_z, compute_dtype
            )
        h = residuals.states(call.resets).h
        d_recurrent, _, d_recurrent_mask = _product_gradients(
            h, params.recurrent_kernel, dropout.recurrent, d_z, compute_dtype
        )
        d_params = LSTMParams(d_kernel, d_recurrent, d_z.sum((0, 1)))
        d_masks = DropoutMasks(d_input_mask, d_recurrent_mask)
        d_resets = call.resets and Resets(None, d_reset)
        return tuple(Call(d_params, d_x, d_state, None, d_masks, d_resets))

    def forward_loop(
        self, keep: bool, z, call: Call
    ) -> tuple[Any, LSTMState, Residuals | None]:
        """Run the forward loop over time, and return (h of all steps, final state,
        residuals).

        z (T, B, 4H) is the projected input. h is an array (T, B, H), or None if
        `options.sequences` is false. The residuals are None if `keep` is false.
        """
        options, resets = self.options, call.resets
        mask, kernel = call.dropout.recurrent, call.params.recurrent_kernel
        per_gate = is_per_gate(mask)
        kernel = jnp.stack(_split(kernel)) if per_gate else kernel

        def body(carry: LSTMState, inputs):
            z_t, valid_t, reset_t = inputs
            carry = restart(carry, reset_t, resets)
            h = carry.h[None] if per_gate else carry.h
            if mask is not None:
                h = h * mask
            by_h = matmul(h, kernel, options.compute_dtype)  # (B, 4H) or (4, B, H)
            by_gate = by_h if per_gate else _split(by_h)
            parts = zip(_split(z_t), by_gate, strict=True)
            z_i, z_f, z_g, z_o = (own + other for own, other in parts)

            i = jax.nn.sigmoid(z_i)
            f = jax.nn.sigmoid(z_f)
            g = jnp.tanh(z_g)
            o = jax.nn.sigmoid(z_o)
            c = f * carry.c + i * g  # (B, H)
            h = o * jnp.tanh(c)  # (B, H)
            computed = (LSTMState(h, c), (i, f, g, o))
            copied = (carry, (jnp.zeros_like(c),) * GATES)
            new, gates = select_rows(valid_t, computed, copied)
            return new, (new, gates) if keep else (new.h if options.sequences else None)

        scanned: Any = lax.scan(body, call.state, (z, call.valid, resets and resets.at))
        final, found = scanned
        if not keep:
            return found, final, None
        after, gates = found
        all_states = jax.tree.map(
            lambda first, rest: jnp.concatenate([first[None], rest]), call.state, after
        )
        kept = jnp.concatenate(gates, axis=-1) if self.joined else gates
        return (
            after.h if options.sequences else None,
            final,
            Residuals(kept, *all_states),
        )

    def backward_loop(
        self, residuals: Residuals, d_h, d_final, call: Call
    ) -> tuple[Any, Any, Array]:
        """Run the backward loop over time, and return the gradients with respect to the
        initial state, `resets.state` and z.

        d_h (T, B, H), or None, and d_final are the gradients with respect to h of all
        steps and to the final state. The second gradient is None without resets.
        """
        mask: Any = call.dropout.recurrent
        resets, kernel = call.resets, call.params.recurrent_kernel
        per_gate = is_per_gate(mask)
        # without the barrier the compiler would fold the transposition into the product
        # in the loop, and so repeat it at each step
        transposed = lax.optimization_barrier(
            jnp.stack([part.T for part in _split(kernel)]) if per_gate else kernel.T
        )

        def body(carries, inputs):
            carry, d_reset = carries
            d_h_t, (i, f, g, o), c_before, c, valid_t, reset_t = inputs
            tanh_c = jnp.tanh(c)
            d_h = carry.h if d_h_t is None else carry.h + d_h_t
            d_c = carry.c + d_h * (o * (1 - tanh_c * tanh_c))
            by_gate = (
                d_c * (g * i * (1 - i)),
                d_c * (c_before * f * (1 - f)),
                d_c * (i * (1 - g * g)),
                d_h * (tanh_c * o * (1 - o)),
            )
            d_z = select_rows(valid_t, jnp.concatenate(by_gate, axis=-1), 0)
            if per_gate:
                d_h_before = (
                    matmul(jnp.stack(by_gate), transposed, self.options.compute_dtype)
                    * mask
                ).sum(0)
            else:
                d_h_before = masked(
                    matmul(d_z, transposed, self.options.compute_dtype), mask
                )
            before = select_rows(
                valid_t, LSTMState(d_h_before, d_c * f), LSTMState(d_h, carry.c)
            )
            return split_gradient(before, d_reset, reset_t), d_z

        starts, at = (
            (None, None)
            if resets is None
            else (jax.tree.map(jnp.zeros_like, d_final), resets.at)
        )
        gates = (
            residuals.kept
            if isinstance(residuals.kept, tuple)
            else _split(residuals.kept)
        )
        steps = (
            d_h,
            gates,
            residuals.states(resets).c,
            residuals.all_c[1:],
            call.valid,
            at,
        )
        (d_state, d_reset), d_z = lax.scan(body, (d_final, starts), steps, reverse=True)
        return d_state, d_reset, d_z


def _product_gradients(x: Array, kernel: Array, mask: Mask, d_z: Array, compute_dtype):
    """Back-propagate through the product (x * mask) @ kernel, and return the gradients
    with respect to the kernel, x and the mask.
    """
    if is_per_gate(mask):
        parts = zip(mask, _split(kernel), _split(d_z), strict=True)
        d_kernels, d_xs, d_masks = zip(
            *(_product_gradients(x, part, m, d, compute_dtype) for m, part, d in parts),
            strict=True,
        )
        return jnp.concatenate(d_kernels, axis=-1), sum(d_xs), jnp.stack(d_masks)
    rows = lax.optimization_barrier(masked(x, mask).transpose(2, 0, 1))
    # a product over two axes, without reshaping, so that the batch axis keeps its
    # sharding
    operands = (
        (rows, d_z)
        if compute_dtype is None
        else (rows.astype(compute_dtype), d_z.astype(compute_dtype))
    )
    d_kernel = lax.dot_general(
        *operands, (((1, 2), (0, 1)), ((), ())), preferred_element_type=x.dtype
    )
    d_rows = matmul(d_z, kernel.T, compute_dtype)
    return d_kernel, masked(d_rows, mask), None if mask is None else (d_rows * x).sum(0)
