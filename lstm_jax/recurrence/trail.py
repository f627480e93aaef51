"""Residuals of compiled loops (native.py, pallas/), twins of the loops in JAX that give the same values, and the mesh."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from lstm_jax.cells import LSTMState
from lstm_jax.cells.products import masked_matmul
from lstm_jax.recurrence import hoisted
from lstm_jax.runtime import sharding
from lstm_jax.shapes import GATES

TIME_FIRST = PartitionSpec(None, sharding.DATA)
BATCH_FIRST = PartitionSpec(sharding.DATA)
COPIED = PartitionSpec()


class Trail(NamedTuple):
    """Of the forward pass. gates: i, f, g, o after their functions, one (T, B, 4H) or four (T, B, H), zeros where a step is not valid;
    h_trail, c_trail: (T + 1, B, H), the initial ones first."""

    gates: Any
    h_trail: jax.Array
    c_trail: jax.Array

    @property
    def h(self) -> jax.Array:
        """Before each step."""
        return self.h_trail[:-1]


def mask_place(mask) -> PartitionSpec:
    """Where a dropout mask (B, size) or (4, B, size) lives on a mesh."""
    return TIME_FIRST if mask is not None and mask.ndim == 3 else BATCH_FIRST


def on_mesh(function: Callable, batch: int, in_specs: tuple, out_specs, *args):
    """`function(*args)`, each device with its part where the batch is split over a mesh."""
    if not sharding.splits(batch):
        return function(*args)
    return jax.shard_map(function, in_specs=in_specs, out_specs=out_specs, check_vma=False)(*args)


def forward_on_mesh(call: Callable, kernel, z, state, mask, valid):
    """`call(kernel, z, state, mask, valid)` -> h of all steps, final state, Trail."""
    in_specs = (COPIED, TIME_FIRST, BATCH_FIRST, mask_place(mask), TIME_FIRST)
    return on_mesh(call, state.h.shape[0], in_specs, (TIME_FIRST, BATCH_FIRST, TIME_FIRST), kernel, z, state, mask, valid)


def backward_on_mesh(call: Callable, kernel, kept: Trail, d_h, d_final, mask, valid):
    """`call(kernel, kept, d_h, d_final, mask, valid)` -> d of the first state, d_z."""
    in_specs = (COPIED, TIME_FIRST, TIME_FIRST, BATCH_FIRST, mask_place(mask), TIME_FIRST)
    return on_mesh(call, d_final.h.shape[0], in_specs, (BATCH_FIRST, TIME_FIRST), kernel, kept, d_h, d_final, mask, valid)


def forward_twin(sequences: bool, keep: bool, compute_dtype, kernel, z, state, mask, valid):
    """h of all steps or None, final state, Trail or None; arguments as in `hoisted.Loops`."""
    split = isinstance(z, tuple) or (mask is not None and mask.ndim == 3)
    whole = jnp.concatenate(z, axis=-1) if isinstance(z, tuple) else z

    def body(state, inputs):
        z_t, valid_t = inputs
        z_t = z_t + masked_matmul(state.h, kernel, mask, compute_dtype)
        i, f, g, o = jnp.split(z_t, GATES, axis=-1)
        gates = jnp.concatenate([jax.nn.sigmoid(i), jax.nn.sigmoid(f), jnp.tanh(g), jax.nn.sigmoid(o)], axis=-1)
        i, f, g, o = jnp.split(gates, GATES, axis=-1)
        c = f * state.c + i * g
        new = LSTMState(o * jnp.tanh(c), c)
        if valid_t is not None:
            there = valid_t[:, None]
            new, gates = jax.tree.map(lambda a, b: jnp.where(there, a, b), (new, gates), (state, jnp.zeros_like(gates)))
        return new, (new, gates)

    final, (states, gates) = jax.lax.scan(body, state, (whole, valid))
    h_trail, c_trail = (jnp.concatenate([first[None], rest]) for first, rest in zip(state, states, strict=True))
    kept = Trail(tuple(jnp.split(gates, GATES, axis=-1)) if split else gates, h_trail, c_trail)
    return states.h if sequences else None, final, kept if keep else None


def backward_twin(split: bool, compute_dtype, kernel, kept: Trail, d_h, d_final, mask, valid):
    """d of the first state, d_z; arguments as in `hoisted.Loops`."""
    i, f, g, o = kept.gates if split else jnp.split(kept.gates, GATES, axis=-1)
    tanh_c, c_before = jnp.tanh(kept.c_trail[1:]), kept.c_trail[:-1]
    z_by = (g * i * (1 - i), c_before * f * (1 - f), i * (1 - g * g), tanh_c * o * (1 - o))
    # the gates of a step that is not valid are 0, and all else with them
    forget = f if valid is None else jnp.where(valid[:, :, None], f, 1)
    derivatives = hoisted.Kept(o * (1 - tanh_c * tanh_c), z_by, forget, kept.h)
    return hoisted.backward_loop(split, kernel, derivatives, d_h, d_final, mask, valid, compute_dtype)
