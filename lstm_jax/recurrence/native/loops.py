"""The two loops of hoisted.py as calls of lstm.cc, one call for all T; see trail.py for what they keep."""

import os

import jax
import jax.numpy as jnp
import numpy as np

from lstm_jax.cells import Cell, LSTMParams, LSTMState
from lstm_jax.dropout import DropoutMasks
from lstm_jax.recurrence import hoisted
from lstm_jax.recurrence.hoisted import Loops
from lstm_jax.recurrence.native.library import TARGETS, register
from lstm_jax.recurrence.trail import Trail, backward_on_mesh, backward_twin, differentiable, forward_on_mesh, forward_twin
from lstm_jax.shapes import GATES


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


def _call(name: str, results: list, aliases: dict[int, int], args: list, **options):
    attributes = {key: value if isinstance(value, bool) else np.int64(value) for key, value in options.items()}
    shapes = [jax.ShapeDtypeStruct(result.shape, result.dtype) for result in results]
    call = jax.ffi.ffi_call(TARGETS[name], shapes, vmap_method="sequential", input_output_aliases=aliases)
    return list(call(*(arg for arg in args if arg is not None), threads=np.int64(_threads()), **attributes))


def _gates(z) -> list:
    return list(z) if isinstance(z, tuple) else [z]


def _call_forward(sequences: bool, keep: bool, compute_dtype, kernel, z, state, mask, valid):
    del compute_dtype  # the capability table lets only the parameters' own type come here
    steps = _gates(z)[0].shape[0]
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

    return forward_on_mesh(call, kernel, z, state, mask, valid)


def _call_backward(split: bool, compute_dtype, kernel, kept: Trail, d_h, d_final, mask, valid):
    del compute_dtype

    def call(kernel, kept, d_h, d_final, mask, valid):
        gates = _gates(kept.gates)
        aliases = {n: 2 + n for n in range(len(gates))}
        options = {"dropout": _dropout(mask), "split": split, "masked": valid is not None, "sequences": d_h is not None}
        args = [*gates, kept.c_trail, *d_final, kernel, d_h, mask, valid]
        h, c, *d_z = _call("backward", [*d_final, *gates], aliases, args, **options)
        return LSTMState(h, c), tuple(d_z) if split else d_z[0]

    return backward_on_mesh(call, kernel, kept, d_h, d_final, mask, valid)


_forward = differentiable(_call_forward, forward_twin, 3)
_backward = differentiable(_call_backward, backward_twin, 2)


def _forward_loop(sequences, keep, kernel, z, state, mask, valid, compute_dtype):
    if keep and mask is not None and mask.ndim == 3 and not isinstance(z, tuple):
        z = tuple(jnp.split(z, GATES, axis=-1))  # the gates take z's place, and backward wants them apart
    return _forward(sequences, keep, compute_dtype, kernel, z, state, mask, valid)


def _backward_loop(split, kernel, kept, d_h, d_final, mask, valid, compute_dtype):
    return _backward(split, compute_dtype, kernel, kept, d_h, d_final, mask, valid)


LOOPS = Loops(_forward_loop, _backward_loop)
