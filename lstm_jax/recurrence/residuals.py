"""Code shared by the backends `compiled` and `pallas`, whose loops over time are not written in JAX.

This module defines three things:
- `Residuals`, which the forward loop computes and the backward loop reads.
- The twins of the two loops. A twin is a loop in JAX that computes the same results.
- Functions that run the two loops on a device mesh.

B is the batch size, T the number of steps and H the number of units. A name d_x stands for the gradient with respect to x.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from lstm_jax.cells import LSTMState
from lstm_jax.cells.products import is_per_gate, masked_matmul
from lstm_jax.recurrence import hoisted
from lstm_jax.recurrence.resets import Resets, restart, restart_all
from lstm_jax.runtime import sharding
from lstm_jax.shapes import GATES

TIME_FIRST = PartitionSpec(None, sharding.DATA)
BATCH_FIRST = PartitionSpec(sharding.DATA)
COPIED = PartitionSpec()


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


def mask_sharding(mask) -> PartitionSpec:
    """Return the sharding of a dropout mask (B, size) or (4, B, size) on a mesh. Only its batch axis is sharded."""
    return TIME_FIRST if is_per_gate(mask) else BATCH_FIRST


def on_mesh(function: Callable, batch: int, in_specs: tuple, out_specs, *args):
    """Call `function(*args)` and return its results. On a mesh each device calls the function on its own rows of the batch."""
    if not sharding.splits(batch):
        return function(*args)
    return jax.shard_map(function, in_specs=in_specs, out_specs=out_specs, check_vma=False)(*args)


def _reset_spec(resets: Resets | None) -> Any:
    return None if resets is None else Resets(TIME_FIRST, BATCH_FIRST)


def forward_on_mesh(call: Callable, kernel, z, state, mask, valid, resets):
    """Run an LSTM's forward loop with `on_mesh`, and return its results: h of all steps, the final state and `Residuals`."""
    in_specs = (COPIED, TIME_FIRST, BATCH_FIRST, mask_sharding(mask), TIME_FIRST, _reset_spec(resets))
    return on_mesh(call, state.h.shape[0], in_specs, (TIME_FIRST, BATCH_FIRST, TIME_FIRST), kernel, z, state, mask, valid, resets)


def backward_on_mesh(call: Callable, kernel, residuals: Residuals, d_h, d_final, mask, valid, resets):
    """Run an LSTM's backward loop with `on_mesh`, and return its results."""
    in_specs = (COPIED, TIME_FIRST, TIME_FIRST, BATCH_FIRST, mask_sharding(mask), TIME_FIRST, _reset_spec(resets))
    args = (kernel, residuals, d_h, d_final, mask, valid, resets)
    return on_mesh(call, d_final.h.shape[0], in_specs, (BATCH_FIRST, BATCH_FIRST, TIME_FIRST), *args)


def forward_twin(sequences: bool, keep: bool, compute_dtype, kernel, z, state, mask, valid, resets):
    """Run the forward loop of the LSTM over time in JAX. The residuals that it returns are a `Residuals`."""
    split = isinstance(z, tuple) or is_per_gate(mask)
    whole = jnp.concatenate(z, axis=-1) if isinstance(z, tuple) else z

    def body(state, inputs):
        z_t, valid_t, reset_t = inputs
        state = restart(state, reset_t, resets)
        z_t = z_t + masked_matmul(state.h, kernel, mask, compute_dtype)
        i, f, g, o = jnp.split(z_t, GATES, axis=-1)
        gates = jnp.concatenate([jax.nn.sigmoid(i), jax.nn.sigmoid(f), jnp.tanh(g), jax.nn.sigmoid(o)], axis=-1)
        i, f, g, o = jnp.split(gates, GATES, axis=-1)
        c = f * state.c + i * g
        new = LSTMState(o * jnp.tanh(c), c)
        if valid_t is not None:
            runs = valid_t[:, None]
            new, gates = jax.tree.map(lambda a, b: jnp.where(runs, a, b), (new, gates), (state, jnp.zeros_like(gates)))
        return new, (new, gates)

    final, (states, gates) = jax.lax.scan(body, state, (whole, valid, None if resets is None else resets.at))
    all_h, all_c = (jnp.concatenate([first[None], rest]) for first, rest in zip(state, states, strict=True))
    residuals = Residuals(tuple(jnp.split(gates, GATES, axis=-1)) if split else gates, all_h, all_c)
    return states.h if sequences else None, final, residuals if keep else None


def backward_twin(split: bool, compute_dtype, kernel, residuals: Residuals, d_h, d_final, mask, valid, resets):
    """Run the backward loop of the LSTM over time in JAX. The argument `residuals` is an instance of `Residuals`."""
    i, f, g, o = residuals.gates if split else jnp.split(residuals.gates, GATES, axis=-1)
    tanh_c, c_before = jnp.tanh(residuals.all_c[1:]), residuals.c_before(resets)
    z_by = (g * i * (1 - i), c_before * f * (1 - f), i * (1 - g * g), tanh_c * o * (1 - o))
    # at a padded step the gates are 0, so that all derivatives are 0; only `forget` must be 1 there
    forget = f if valid is None else jnp.where(valid[:, :, None], f, 1)
    derivatives = hoisted.LocalDerivatives(o * (1 - tanh_c * tanh_c), z_by, forget, residuals.h_before(resets))
    return hoisted.backward_loop(split, kernel, derivatives, d_h, d_final, mask, valid, resets, compute_dtype)
