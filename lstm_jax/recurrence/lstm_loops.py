"""The two loops over time of the LSTM in JAX, and the residuals that the forward loop keeps for the backward loop.

The backend `hoisted` runs these loops. They are also the twins of the loops of `pallas` and, backward, of `compiled`, which are not written
in JAX and keep other residuals.

B is the batch size, T the number of steps and H the number of units. A name d_x stands for the gradient with respect to x.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from lstm_jax.cells import LSTMState
from lstm_jax.cells.products import is_per_gate, matmul
from lstm_jax.recurrence.operands import Call, Options
from lstm_jax.recurrence.resets import Resets, restart, restart_all, split_gradient
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


def _split(array: jax.Array) -> Gates:
    return tuple(jnp.split(array, GATES, axis=-1))


class Residuals(NamedTuple):
    """Results of a cell's forward pass that its backward pass reads.

    Attributes:
        gates: for the LSTM, the gates i, f, g, o after their activation functions, as one array (T, B, 4H) or four arrays (T, B, H), with
            zeros at padded steps. For any other cell, what each step keeps besides the state: an array (T, B, n H), or None if n is 0. n is
            the field `kept` of the cell's row in `COMPILED_CELLS`.
        all_h: the initial h, followed by h after each step, (T + 1, B, H); (T + 1, B, 4H) for the LSTM with full gate recurrence, see
            `gate_recurrent.join_state`.
        all_c: the initial c, followed by c after each step, (T + 1, B, H); None for a cell without c.
    """

    gates: Any
    all_h: jax.Array
    all_c: Any

    def h_before(self, resets: Resets | None) -> jax.Array:
        """Return h before each step (T, B, H). At a step that begins with a reset, it is the h of `resets.state`."""
        return restart_all(self.all_h[:-1], None if resets is None else resets.state.h, resets)

    def c_before(self, resets: Resets | None) -> jax.Array:
        """Return c before each step (T, B, H). At a step that begins with a reset, it is the c of `resets.state`."""
        return restart_all(self.all_c[:-1], None if resets is None else resets.state.c, resets)

    def derivatives(self, call: Call) -> LocalDerivatives:
        """Return the local derivatives of an LSTM."""
        i, f, g, o = self.gates if isinstance(self.gates, tuple) else _split(self.gates)
        tanh_c = jnp.tanh(self.all_c[1:])
        z_by = (g * i * (1 - i), self.c_before(call.resets) * f * (1 - f), i * (1 - g * g), tanh_c * o * (1 - o))
        # at a padded step the gates are 0, so that all derivatives are 0; only `forget` must be 1 there
        forget = f if call.valid is None else jnp.where(call.valid[:, :, None], f, 1)
        return LocalDerivatives(o * (1 - tanh_c * tanh_c), z_by, forget, self.h_before(call.resets))


class Loops(NamedTuple):
    """The two loops over time of an LSTM: the loop of the forward pass and the loop of the backward pass.

    Attributes:
        forward: function forward(options, keep, z, call) that returns (h of all steps, final state, residuals). z is the projected input,
            one array (T, B, 4H) or four arrays (T, B, H). h is an array (T, B, H), or None if `options.sequences` is false. The residuals
            are what `backward` reads, or None if `keep` is false. They have a method `h_before(resets)`.
        backward: function backward(options, residuals, d_h, d_final, call) that returns the gradients with respect to the initial state,
            `resets.state` (None without resets) and z. d_h (T, B, H), or None, and d_final are the gradients with respect to h of all steps
            and to the final state. The gradient with respect to z is four arrays (T, B, H) if a dropout mask is per gate, else one array
            (T, B, 4H).
        twin: another `Loops`, written in JAX, with the same results and residuals; or None if this one is written in JAX.
        platforms: platforms on which these loops run, such as "cuda", or () if they are written in JAX.
    """

    forward: Callable
    backward: Callable
    twin: Any = None
    platforms: tuple[str, ...] = ()


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
            z_by = (g * i * (1 - i), carry.c * f * (1 - f), i * (1 - g * g), tanh_c * o * (1 - o))
            kept = LocalDerivatives(o * (1 - tanh_c * tanh_c), z_by, f, carry.h)
            copied = LocalDerivatives(zero, (zero,) * GATES, jnp.ones_like(c), carry.h)
        if valid_t is not None:
            new, kept = jax.tree.map(lambda a, b: jnp.where(valid_t[:, None], a, b), (new, kept), (carry, copied))
        return new, (new.h if options.sequences or states else None, new.c if states else None, kept)

    scanned: Any = lax.scan(body, call.state, (z, call.valid, None if resets is None else resets.at))
    final, (h, c, kept) = scanned
    if states:
        all_h, all_c = (jnp.concatenate([first[None], rest]) for first, rest in zip(call.state, (h, c), strict=True))
        kept = Residuals(kept if per_gate or isinstance(z, tuple) else jnp.concatenate(kept, axis=-1), all_h, all_c)
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
            d_h_before = matmul(jnp.concatenate(d_z, axis=-1), transposed, options.compute_dtype)
            d_h_before = d_h_before if mask is None else d_h_before * mask
        if valid_t is not None:
            d_h_before = jnp.where(valid_t[:, None], d_h_before, d_h)
        before = split_gradient(LSTMState(d_h_before, d_c * local.forget), d_reset, reset_t)
        return before, d_z if split else jnp.concatenate(d_z, axis=-1)

    starts, at = (None, None) if resets is None else (jax.tree.map(jnp.zeros_like, d_final), resets.at)
    (d_state, d_reset), d_z = lax.scan(body, (d_final, starts), (d_h, derivatives, call.valid, at), reverse=True)
    return d_state, d_reset, d_z


LOOPS = Loops(forward_loop, backward_loop)
TWIN = Loops(partial(forward_loop, kind=Residuals), backward_loop)
"""The same loops with `Residuals`."""
