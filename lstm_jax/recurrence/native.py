"""The LSTM over time as one call of native/lstm.cc forward and one backward.

Where derivatives of these calls themselves are asked for (order 2 and more), or gradients by dropout masks, a twin in JAX serves, that
gives the same values. On a mesh each device runs its own rows of the batch.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_derivatives import SymbolicZero

from lstm_jax import native, sharding
from lstm_jax.cells import Cell, LSTMParams, LSTMState
from lstm_jax.cells.products import project
from lstm_jax.dropout import DropoutMasks
from lstm_jax.recurrence import hoisted
from lstm_jax.recurrence.trail import (
    BATCH_FIRST,
    COPIED,
    TIME_FIRST,
    Trail,
    backward_twin,
    differentiable,
    forward_twin,
    mask_place,
    on_mesh,
)
from lstm_jax.shapes import GATES


def run(
    cell: Cell,
    params: LSTMParams,
    x,
    state: LSTMState,
    valid,
    dropout: DropoutMasks,
    compute_dtype=None,
    sequences: bool = True,
    tokens: jax.Array | None = None,
):
    """See `reference.run`. tokens (T, B): see `unroll`."""
    del cell, compute_dtype  # the capability table lets only the LSTM come here, and products in the parameters' own type
    x = x.astype(jnp.int32) if jnp.issubdtype(x.dtype, jnp.integer) else x
    tokens = None if tokens is None or x.ndim == 2 else tokens.astype(jnp.int32)
    return _run(sequences, params, x, state, valid, tokens, dropout)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _run(sequences, params, x, state, valid, tokens, dropout):
    h, final, _ = _forward(sequences, False, params, x, state, dropout, valid, tokens)
    return h, final


def _fwd(sequences, *args):
    # symbolic_zeros wraps every leaf, to say which gradients are wanted
    wanted = [any(leaf.perturbed for leaf in jax.tree.leaves(arg, is_leaf=_wrapped)) for arg in args]
    params, x, state, valid, tokens, dropout = jax.tree.map(lambda leaf: leaf.value, args, is_leaf=_wrapped)
    h, final, kept = _forward(sequences, True, params, x, state, dropout, valid, tokens)
    by_x = wanted[1] and not jnp.issubdtype(x.dtype, jnp.integer)
    # flags travel as trees without leaves
    return (h, final), (params, x, dropout, valid, tokens, kept, _flag(by_x), _flag(wanted[5]))


def _wrapped(leaf: Any) -> bool:
    return hasattr(leaf, "perturbed")


def _flag(value: bool) -> tuple | None:
    return () if value else None


def _bwd(sequences, residuals, cotangents):
    del sequences
    params, x, dropout, valid, tokens, kept, by_x, by_masks = residuals
    d_h, d_final = cotangents
    d_h = None if isinstance(d_h, SymbolicZero) else d_h
    d_final = LSTMState(*(jnp.zeros_like(kept.h_trail[0]) if isinstance(d, SymbolicZero) else d for d in d_final))
    args = (params, x, kept, d_h, d_final, dropout, valid, tokens)
    if by_masks is not None:
        d_params, d_x, d_state, d_masks = _twin_gradients(*args)
        return d_params, d_x, d_state, None, None, d_masks
    d_params, d_x, d_state = _backward(by_x is not None, *args)
    return d_params, d_x, d_state, None, None, DropoutMasks()


_run.defvjp(_fwd, _bwd, symbolic_zeros=True)


def _kinds(mask) -> int:
    return 0 if mask is None else GATES if mask.ndim == 3 else 1


def _mask_places(dropout: DropoutMasks) -> Any:
    return jax.tree.map(mask_place, dropout)


def _options(x, dropout: DropoutMasks, valid, tokens, sequences: bool) -> dict[str, Any]:
    ids = bool(jnp.issubdtype(x.dtype, jnp.integer))
    return {
        "ids": ids,
        "input_masks": _kinds(dropout.input),
        "recurrent_masks": _kinds(dropout.recurrent),
        "masked": valid is not None,
        "tokens": tokens is not None,
        "sequences": sequences,
    }


def _call_forward(sequences: bool, keep: bool, params: LSTMParams, x, state: LSTMState, dropout: DropoutMasks, valid, tokens):
    def call(params, x, state, dropout, valid, tokens):
        (steps, batch), like = x.shape[:2], params.kernel.dtype
        trail = jax.ShapeDtypeStruct((steps + 1, *state.h.shape), like)
        gates = jax.ShapeDtypeStruct((steps, batch, params.kernel.shape[1]), like)
        results = [*state, *([trail, trail, gates] if keep else [trail] if sequences else [])]
        args = [x, *params, *state, *dropout, valid, tokens]
        options = _options(x, dropout, valid, tokens, sequences)
        h, c, *rest = native.call("lstm_jax_forward", results, args, {}, keep=keep, **options)
        kept = Trail(rest[2], rest[0], rest[1]) if keep else None
        return rest[0][1:] if sequences else None, LSTMState(h, c), kept

    in_specs = (COPIED, TIME_FIRST, BATCH_FIRST, _mask_places(dropout), TIME_FIRST, TIME_FIRST)
    args = (params, x, state, dropout, valid, tokens)
    return on_mesh(call, x.shape[1], in_specs, (TIME_FIRST, BATCH_FIRST, TIME_FIRST), *args)


def _call_backward(by_x: bool, params: LSTMParams, x, kept: Trail, d_h, d_final: LSTMState, dropout: DropoutMasks, valid, tokens):
    split = sharding.splits(x.shape[1])

    def call(params, x, kept, d_h, d_final, dropout, valid, tokens):
        results = [*d_final, *params, *([x] if by_x else [])]
        args = [x, params.kernel, params.recurrent_kernel, *kept, *d_final, d_h, *dropout, valid, tokens]
        options = _options(x, dropout, valid, tokens, d_h is not None)
        h, c, *rest = native.call("lstm_jax_backward", results, args, {}, d_x=by_x, **options)
        d_params = LSTMParams(*rest[:3])
        d_params = lax.psum(d_params, sharding.DATA) if split else d_params
        return d_params, rest[3] if by_x else None, LSTMState(h, c)

    in_specs = (COPIED, TIME_FIRST, TIME_FIRST, TIME_FIRST, BATCH_FIRST, _mask_places(dropout), TIME_FIRST, TIME_FIRST)
    args = (params, x, kept, d_h, d_final, dropout, valid, tokens)
    return on_mesh(call, x.shape[1], in_specs, (COPIED, TIME_FIRST, BATCH_FIRST), *args)


def _twin_forward(sequences: bool, keep: bool, params: LSTMParams, x, state: LSTMState, dropout: DropoutMasks, valid, tokens):
    """What `_call_forward` gives, in JAX."""
    del tokens  # equal x have equal products
    z = project(params, x, dropout.input)
    h, final, kept = forward_twin(sequences, keep, None, params.recurrent_kernel, z, state, dropout.recurrent, valid)
    if kept is not None and isinstance(kept.gates, tuple):
        kept = kept._replace(gates=jnp.concatenate(kept.gates, axis=-1))
    return h, final, kept


def _twin_gradients(params: LSTMParams, x, kept: Trail, d_h, d_final: LSTMState, dropout: DropoutMasks, valid, tokens):
    """Gradients by parameters, x, the first state and the masks, in JAX."""
    split = GATES in (_kinds(dropout.input), _kinds(dropout.recurrent))
    kept = kept._replace(gates=tuple(jnp.split(kept.gates, GATES, axis=-1))) if split else kept
    d_state, d_z = backward_twin(split, None, params.recurrent_kernel, kept, d_h, d_final, dropout.recurrent, valid)
    d_params, d_x, d_masks = hoisted.gradients(params, x, dropout, kept.h, d_z)
    if tokens is not None and d_x is not None:
        first = (tokens[:, None] == tokens[None]).argmax(0)  # the first step s of (s, t, B) at which row b reads what it reads at t
        d_x = jnp.zeros_like(d_x).at[first, jnp.arange(x.shape[1])].add(d_x)
    return d_params, d_x, d_state, d_masks


def _twin_backward(by_x: bool, *args):
    """What `_call_backward` gives, in JAX."""
    d_params, d_x, d_state, _ = _twin_gradients(*args)
    return d_params, d_x if by_x else None, d_state


_forward = differentiable(_call_forward, _twin_forward, 2)
_backward = differentiable(_call_backward, _twin_backward, 1)
