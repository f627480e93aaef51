"""The two loops of hoisted.py as calls of lstm.cc, one call for all T.

Where derivatives of the loops themselves are asked for (order 2 and more), those of a twin in JAX serve, that gives the same values. On a
mesh each device runs its own rows of the batch.
"""

import os
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec

from lstm_jax import sharding
from lstm_jax.cells import Cell, LSTMParams, LSTMState
from lstm_jax.cells.lstm import masked_matmul
from lstm_jax.dropout import DropoutMasks
from lstm_jax.recurrence import hoisted
from lstm_jax.recurrence.hoisted import Loops
from lstm_jax.recurrence.native.library import TARGETS, register
from lstm_jax.shapes import GATES

TIME_FIRST = PartitionSpec(None, sharding.DATA)
BATCH_FIRST = PartitionSpec(sharding.DATA)
COPIED = PartitionSpec()


def run(cell: Cell, params: LSTMParams, x, state: LSTMState, valid, dropout: DropoutMasks, compute_dtype=None, sequences: bool = True):
    """See `reference.run`."""
    del cell  # the capability table lets only the LSTM come here
    register()
    return hoisted.run_loops(LOOPS, compute_dtype, sequences, params, x, state, valid, dropout)


def _threads() -> int:
    """Cores for one device's call: all of them shared out."""
    return max(1, len(os.sched_getaffinity(0)) // jax.local_device_count("cpu"))


def _dropout(mask) -> int:
    return 0 if mask is None else mask.ndim - 1


def _mask_place(mask) -> PartitionSpec:
    return TIME_FIRST if mask is not None and mask.ndim == 3 else BATCH_FIRST  # (4, B, H) or (B, H)


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


def _call(name: str, results: list, aliases: dict[int, int], args: list, **options):
    attributes = {key: value if isinstance(value, bool) else np.int64(value) for key, value in options.items()}
    shapes = [jax.ShapeDtypeStruct(result.shape, result.dtype) for result in results]
    call = jax.ffi.ffi_call(TARGETS[name], shapes, vmap_method="sequential", input_output_aliases=aliases)
    return list(call(*(arg for arg in args if arg is not None), threads=np.int64(_threads()), **attributes))


def _gates(z) -> list:
    return list(z) if isinstance(z, tuple) else [z]


def _on_mesh(function: Callable, batch: int, in_specs: tuple, out_specs, *args):
    """`function(*args)`, each device with its part where the batch is split over a mesh."""
    if not sharding.splits(batch):
        return function(*args)
    return jax.shard_map(function, in_specs=in_specs, out_specs=out_specs, check_vma=False)(*args)


def _call_forward(sequences: bool, keep: bool, kernel, z, state, mask, valid):
    steps, batch = _gates(z)[0].shape[:2]
    trails = int(sequences or keep) + int(keep)

    def call(kernel, z, state, mask, valid):
        gates, split = _gates(z), isinstance(z, tuple)
        trail = jax.ShapeDtypeStruct((steps + 1, *state.h.shape), state.h.dtype)
        results = [*state, *[trail] * trails, *(gates if keep else [])]
        aliases = {n: 2 + trails + n for n in range(len(gates))} if keep else {}
        options = {"dropout": _dropout(mask), "split": split, "masked": valid is not None, "sequences": sequences, "keep": keep}
        h, c, *rest = _call("forward", results, aliases, [*gates, kernel, *state, mask, valid], **options)
        kept = Trail(tuple(rest[2:]) if split else rest[2], rest[0], rest[1]) if keep else None
        return rest[0][1:] if sequences else None, LSTMState(h, c), kept

    in_specs = (COPIED, TIME_FIRST, BATCH_FIRST, _mask_place(mask), TIME_FIRST)
    return _on_mesh(call, batch, in_specs, (TIME_FIRST, BATCH_FIRST, TIME_FIRST), kernel, z, state, mask, valid)


def _call_backward(split: bool, kernel, kept: Trail, d_h, d_final, mask, valid):
    def call(kernel, kept, d_h, d_final, mask, valid):
        gates = _gates(kept.gates)
        aliases = {n: 2 + n for n in range(len(gates))}
        options = {"dropout": _dropout(mask), "split": split, "masked": valid is not None, "sequences": d_h is not None}
        args = [*gates, kept.c_trail, *d_final, kernel, d_h, mask, valid]
        h, c, *d_z = _call("backward", [*d_final, *gates], aliases, args, **options)
        return LSTMState(h, c), tuple(d_z) if split else d_z[0]

    in_specs = (COPIED, TIME_FIRST, TIME_FIRST, BATCH_FIRST, _mask_place(mask), TIME_FIRST)
    return _on_mesh(call, d_final.h.shape[0], in_specs, (BATCH_FIRST, TIME_FIRST), kernel, kept, d_h, d_final, mask, valid)


def _twin_forward(sequences: bool, keep: bool, kernel, z, state, mask, valid):
    """What `_call_forward` gives, in JAX."""
    split = isinstance(z, tuple)
    whole = jnp.concatenate(z, axis=-1) if split else z

    def body(state, inputs):
        z_t, valid_t = inputs
        z_t = z_t + masked_matmul(state.h, kernel, mask)
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


def _twin_backward(split: bool, kernel, kept: Trail, d_h, d_final, mask, valid):
    """What `_call_backward` gives, in JAX."""
    i, f, g, o = kept.gates if split else jnp.split(kept.gates, GATES, axis=-1)
    tanh_c, c_before = jnp.tanh(kept.c_trail[1:]), kept.c_trail[:-1]
    z_by = (g * i * (1 - i), c_before * f * (1 - f), i * (1 - g * g), tanh_c * o * (1 - o))
    forget = (
        f if valid is None else jnp.where(valid[:, :, None], f, 1)
    )  # the gates of a step that is not valid are 0, and all else with them
    derivatives = hoisted.Kept(o * (1 - tanh_c * tanh_c), z_by, forget, kept.h)
    return hoisted.backward_loop(split, kernel, derivatives, d_h, d_final, mask, valid, None)


def _differentiable(native: Callable, twin: Callable, fixed: int) -> Callable:
    """`native` with the derivative of `twin`, which gives the same; the first `fixed` arguments and the last (bool) have none."""
    function = jax.custom_vjp(native, nondiff_argnums=tuple(range(fixed)))

    def fwd(*args):
        return native(*args), args[fixed:]

    def bwd(*args):
        *options, residuals, cotangents = args
        *arrays, valid = residuals
        _, pull = jax.vjp(lambda *arrays: twin(*options, *arrays, valid), *arrays)
        return *pull(cotangents), None

    function.defvjp(fwd, bwd)
    return function


_forward = _differentiable(_call_forward, _twin_forward, 2)
_backward = _differentiable(_call_backward, _twin_backward, 1)


def _forward_loop(sequences, keep, kernel, z, state, mask, valid, compute_dtype):
    del compute_dtype  # the capability table lets only the parameters' own type come here
    if keep and mask is not None and mask.ndim == 3 and not isinstance(z, tuple):
        z = tuple(jnp.split(z, GATES, axis=-1))  # the gates take z's place, and backward wants them apart
    return _forward(sequences, keep, kernel, z, state, mask, valid)


def _backward_loop(split, kernel, kept, d_h, d_final, mask, valid, compute_dtype):
    del compute_dtype
    return _backward(split, kernel, kept, d_h, d_final, mask, valid)


LOOPS = Loops(_forward_loop, _backward_loop)
