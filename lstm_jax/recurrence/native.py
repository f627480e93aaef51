"""The LSTM over time as one call of native/lstm.cc forward and one backward.

Where derivatives of these calls themselves are asked for (order 2 and more), or gradients by dropout masks, a twin in JAX serves, that
gives the same values. On a mesh each device runs its own rows of the batch.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_derivatives import SymbolicZero
from jax.sharding import PartitionSpec

from lstm_jax import native, sharding
from lstm_jax.cells import Cell, LSTMParams, LSTMState
from lstm_jax.cells.lstm import masked_matmul, project
from lstm_jax.dropout import DropoutMasks
from lstm_jax.recurrence import hoisted
from lstm_jax.shapes import GATES

TIME_FIRST = PartitionSpec(None, sharding.DATA)
BATCH_FIRST = PartitionSpec(sharding.DATA)
COPIED = PartitionSpec()


class Trail(NamedTuple):
    """Of the forward pass. gates: (T, B, 4H), i, f, g, o after their functions, zeros where a step is not valid; h, c: (T + 1, B, H), the
    initial ones first."""

    gates: jax.Array
    h: jax.Array
    c: jax.Array


def run(cell: Cell, params: LSTMParams, x, state: LSTMState, valid, dropout: DropoutMasks, compute_dtype=None, sequences: bool = True):
    """See `reference.run`."""
    del cell, compute_dtype  # the capability table lets only the LSTM come here, and products in the parameters' own type
    return _run(sequences, params, x.astype(jnp.int32) if jnp.issubdtype(x.dtype, jnp.integer) else x, state, valid, dropout)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _run(sequences, params, x, state, valid, dropout):
    h, final, _ = _forward(sequences, False, params, x, state, dropout, valid)
    return h, final


def _fwd(sequences, *args):
    # symbolic_zeros wraps every leaf, to say which gradients are wanted
    wanted = [any(leaf.perturbed for leaf in jax.tree.leaves(arg, is_leaf=_wrapped)) for arg in args]
    params, x, state, valid, dropout = jax.tree.map(lambda leaf: leaf.value, args, is_leaf=_wrapped)
    h, final, kept = _forward(sequences, True, params, x, state, dropout, valid)
    by_x = wanted[1] and not jnp.issubdtype(x.dtype, jnp.integer)
    # flags travel as trees without leaves
    return (h, final), (params, x, dropout, valid, kept, _flag(by_x), _flag(wanted[4]))


def _wrapped(leaf: Any) -> bool:
    return hasattr(leaf, "perturbed")


def _flag(value: bool) -> tuple | None:
    return () if value else None


def _bwd(sequences, residuals, cotangents):
    del sequences
    params, x, dropout, valid, kept, by_x, by_masks = residuals
    d_h, d_final = cotangents
    d_h = None if isinstance(d_h, SymbolicZero) else d_h
    d_final = LSTMState(*(jnp.zeros_like(kept.h[0]) if isinstance(d, SymbolicZero) else d for d in d_final))
    args = (params, x, kept, d_h, d_final, dropout, valid)
    if by_masks is not None:
        d_params, d_x, d_state, d_masks = _twin_gradients(*args)
        return d_params, d_x, d_state, None, d_masks
    d_params, d_x, d_state = _backward(by_x is not None, *args)
    return d_params, d_x, d_state, None, DropoutMasks()


_run.defvjp(_fwd, _bwd, symbolic_zeros=True)


def _kinds(mask) -> int:
    return 0 if mask is None else GATES if mask.ndim == 3 else 1


def _mask_places(dropout: DropoutMasks) -> Any:
    return jax.tree.map(lambda mask: TIME_FIRST if _kinds(mask) == GATES else BATCH_FIRST, dropout)  # (4, B, size) or (B, size)


def _on_mesh(function: Callable, batch: int, in_specs: tuple, out_specs, *args):
    """`function(*args)`, each device with its part where the batch is split over a mesh."""
    if not sharding.splits(batch):
        return function(*args)
    return jax.shard_map(function, in_specs=in_specs, out_specs=out_specs, check_vma=False)(*args)


def _options(x, dropout: DropoutMasks, valid, sequences: bool) -> dict[str, Any]:
    ids = bool(jnp.issubdtype(x.dtype, jnp.integer))
    return {
        "ids": ids,
        "input_masks": _kinds(dropout.input),
        "recurrent_masks": _kinds(dropout.recurrent),
        "masked": valid is not None,
        "sequences": sequences,
    }


def _call_forward(sequences: bool, keep: bool, params: LSTMParams, x, state: LSTMState, dropout: DropoutMasks, valid):
    def call(params, x, state, dropout, valid):
        (steps, batch), like = x.shape[:2], params.kernel.dtype
        trail = jax.ShapeDtypeStruct((steps + 1, *state.h.shape), like)
        gates = jax.ShapeDtypeStruct((steps, batch, params.kernel.shape[1]), like)
        results = [*state, *([trail, trail, gates] if keep else [trail] if sequences else [])]
        args = [x, *params, *state, *dropout, valid]
        h, c, *rest = native.call("lstm_jax_forward", results, args, {}, keep=keep, **_options(x, dropout, valid, sequences))
        kept = Trail(rest[2], rest[0], rest[1]) if keep else None
        return rest[0][1:] if sequences else None, LSTMState(h, c), kept

    in_specs = (COPIED, TIME_FIRST, BATCH_FIRST, _mask_places(dropout), TIME_FIRST)
    return _on_mesh(call, x.shape[1], in_specs, (TIME_FIRST, BATCH_FIRST, TIME_FIRST), params, x, state, dropout, valid)


def _call_backward(by_x: bool, params: LSTMParams, x, kept: Trail, d_h, d_final: LSTMState, dropout: DropoutMasks, valid):
    split = sharding.splits(x.shape[1])

    def call(params, x, kept, d_h, d_final, dropout, valid):
        results = [*d_final, *params, *([x] if by_x else [])]
        args = [x, params.kernel, params.recurrent_kernel, *kept, *d_final, d_h, *dropout, valid]
        h, c, *rest = native.call("lstm_jax_backward", results, args, {}, d_x=by_x, **_options(x, dropout, valid, d_h is not None))
        d_params = LSTMParams(*rest[:3])
        d_params = lax.psum(d_params, sharding.DATA) if split else d_params
        return d_params, rest[3] if by_x else None, LSTMState(h, c)

    in_specs = (COPIED, TIME_FIRST, TIME_FIRST, TIME_FIRST, BATCH_FIRST, _mask_places(dropout), TIME_FIRST)
    args = (params, x, kept, d_h, d_final, dropout, valid)
    return _on_mesh(call, x.shape[1], in_specs, (COPIED, TIME_FIRST, BATCH_FIRST), *args)


def _twin_forward(sequences: bool, keep: bool, params: LSTMParams, x, state: LSTMState, dropout: DropoutMasks, valid):
    """What `_call_forward` gives, in JAX."""

    def body(state, inputs):
        z, valid_t = inputs
        i, f, g, o = jnp.split(z + masked_matmul(state.h, params.recurrent_kernel, dropout.recurrent), GATES, axis=-1)
        gates = jnp.concatenate([jax.nn.sigmoid(i), jax.nn.sigmoid(f), jnp.tanh(g), jax.nn.sigmoid(o)], axis=-1)
        i, f, g, o = jnp.split(gates, GATES, axis=-1)
        c = f * state.c + i * g
        new = LSTMState(o * jnp.tanh(c), c)
        if valid_t is not None:
            there = valid_t[:, None]
            new, gates = jax.tree.map(lambda a, b: jnp.where(there, a, b), (new, gates), (state, jnp.zeros_like(gates)))
        return new, (new, gates)

    final, (states, gates) = lax.scan(body, state, (project(params, x, dropout.input), valid))
    h, c = (jnp.concatenate([first[None], rest]) for first, rest in zip(state, states, strict=True))
    return states.h if sequences else None, final, Trail(gates, h, c) if keep else None


def _twin_gradients(params: LSTMParams, x, kept: Trail, d_h, d_final: LSTMState, dropout: DropoutMasks, valid):
    """Gradients by parameters, x, the first state and the masks, in JAX."""
    i, f, g, o = jnp.split(kept.gates, GATES, axis=-1)
    tanh_c, c = jnp.tanh(kept.c[1:]), kept.c[:-1]
    z_by = (g * i * (1 - i), c * f * (1 - f), i * (1 - g * g), tanh_c * o * (1 - o))
    # the gates of a step that is not valid are 0, and all else with them
    forget = f if valid is None else jnp.where(valid[:, :, None], f, 1)
    derivatives = hoisted.Kept(o * (1 - tanh_c * tanh_c), z_by, forget, kept.h[:-1])
    split = GATES in (_kinds(dropout.input), _kinds(dropout.recurrent))
    d_state, d_z = hoisted.backward_loop(split, params.recurrent_kernel, derivatives, d_h, d_final, dropout.recurrent, valid, None)
    d_params, d_x, d_masks = hoisted.gradients(params, x, dropout, kept.h[:-1], d_z)
    return d_params, d_x, d_state, d_masks


def _twin_backward(by_x: bool, *args):
    """What `_call_backward` gives, in JAX."""
    d_params, d_x, d_state, _ = _twin_gradients(*args)
    return d_params, d_x if by_x else None, d_state


def _differentiable(call: Callable, twin: Callable, fixed: int) -> Callable:
    """`call` with the derivative of `twin`, which gives the same; the first `fixed` arguments and whatever is not a float have none."""
    function = jax.custom_vjp(call, nondiff_argnums=tuple(range(fixed)))

    def fwd(*args):
        return call(*args), args[fixed:]

    def bwd(*args):
        *options, residuals, cotangents = args
        leaves, tree = jax.tree.flatten(residuals)
        floats = [n for n, leaf in enumerate(leaves) if jnp.issubdtype(leaf.dtype, jnp.floating)]

        def of_floats(values):
            filled = list(leaves)
            for n, value in zip(floats, values, strict=True):
                filled[n] = value
            return twin(*options, *jax.tree.unflatten(tree, filled))

        _, pull = jax.vjp(of_floats, [leaves[n] for n in floats])
        gradients: list[Any] = [None] * len(leaves)
        for n, gradient in zip(floats, pull(cotangents)[0], strict=True):
            gradients[n] = gradient
        return jax.tree.unflatten(tree, gradients)

    function.defvjp(fwd, bwd)
    return function


_forward = _differentiable(_call_forward, _twin_forward, 2)
_backward = _differentiable(_call_backward, _twin_backward, 1)
