"""The LSTM of cuDNN, through jax.experimental.rnn: the projection and all steps in one call of the library.

cuDNN's weights are one flat array: W (4H, E), U (4H, H) and two biases (4H), gates i, f, g, o as here; the second bias is 0. It takes
float32 only, and TF32 for its products unless `jax_default_matmul_precision` is "highest", as the other backends do. Its outputs at padded
steps are zeros, which are replaced by the last valid output; a row without a valid step gets length 1, and its results are replaced. It has
no recurrent dropout, no masks with gaps and no second derivative. On a mesh each device runs its own rows of the batch.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_batching import sequential_vmap
from jax.experimental import rnn

from lstm_jax.cells import Cell, LSTMParams, LSTMState
from lstm_jax.cells.products import one_hot_rows
from lstm_jax.dropout import DropoutMasks
from lstm_jax.errors import InputError
from lstm_jax.recurrence.residuals import BATCH_FIRST, COPIED, on_mesh
from lstm_jax.shapes import GATES

LAYERS, DROPOUT, BIDIRECTIONAL = 1, 0.0, False


def why_not() -> str:
    """Return why the backend does not serve in this installation; empty if it does."""
    return "" if getattr(getattr(rnn, "gpu_rnn", None), "_cuda_rnn", None) else "jaxlib has no cuDNN: install jax[cuda12]"


def pack(params: LSTMParams) -> jax.Array:
    """Return cuDNN's weights (4H (E + H + 2),)."""
    kernel, recurrent, bias = params
    return jnp.concatenate([kernel.T.ravel(), recurrent.T.ravel(), bias, jnp.zeros_like(bias)])


def unpack(weights: jax.Array, features: int, units: int) -> LSTMParams:
    """Return the cell's parameters; the two biases are summed."""
    width = GATES * units
    kernel, recurrent, first, second = jnp.split(weights, [width * features, width * (features + units), width * (features + units + 1)])
    return LSTMParams(kernel.reshape(width, features).T, recurrent.reshape(width, units).T, first + second)


def run(cell: Cell, params: LSTMParams, x, state: LSTMState, valid, dropout: DropoutMasks, compute_dtype=None, sequences: bool = True):
    """Run the LSTM, see `reference.run`; `valid` comes from lengths: no valid step follows one that is not valid."""
    del cell, compute_dtype  # the table of backends admits only the LSTM and float32
    features, units = params.kernel.shape[0], params.recurrent_kernel.shape[0]
    if jnp.issubdtype(x.dtype, jnp.integer):
        x = one_hot_rows(x, features, params.kernel.dtype)
    if dropout.input is not None:
        x = x * jnp.broadcast_to(dropout.input, x.shape)
    steps, batch = x.shape[:2]
    lengths = jnp.full(batch, steps, jnp.int32) if valid is None else valid.sum(0, dtype=jnp.int32)

    def call(weights, x, state, lengths):
        results: Any = _lstm((features, units), x, state.h[None], state.c[None], weights, jnp.maximum(lengths, 1))
        y, h, c = results
        return y, LSTMState(h[0], c[0])

    in_specs = (COPIED, BATCH_FIRST, BATCH_FIRST, BATCH_FIRST)
    y, final = on_mesh(call, batch, in_specs, (BATCH_FIRST, BATCH_FIRST), pack(params), jnp.swapaxes(x, 0, 1), state, lengths)
    h = jnp.swapaxes(y, 0, 1)
    if valid is not None:
        final = jax.tree.map(lambda after, before: jnp.where((lengths > 0)[:, None], after, before), final, state)
        h = jnp.where(valid[:, :, None], h, final.h[None])
    return h if sequences else None, final


def _precision() -> lax.Precision:
    exact = getattr(jax.config, "jax_default_matmul_precision", None) in ("highest", "float32")
    return lax.Precision.HIGHEST if exact else lax.Precision.HIGH


def _once(call: Callable) -> Any:
    """Return `call(sizes, *arrays)` with rules for vmap (one set of arrays runs after the other) and an error for a second derivative."""

    @partial(jax.custom_jvp, nondiff_argnums=(0,))
    def function(sizes: tuple[int, int], *arrays):
        return sequential_vmap(partial(call, sizes))(*arrays)

    @function.defjvp
    def refuse(sizes: tuple[int, int], primals, tangents):
        raise InputError("backend cudnn", "asked for a derivative of order 2", "name another backend")

    return function


@_once
def _forward(sizes: tuple[int, int], x, h, c, weights, lengths):
    """Return (y (B, T, H), h and c (1, B, H)), and the residuals."""
    return rnn.lstm_fwd(x, h, c, weights, lengths, sizes[0], sizes[1], LAYERS, DROPOUT, BIDIRECTIONAL, _precision())


@_once
def _backward(sizes: tuple[int, int], residuals, cotangents):
    return rnn.lstm_bwd(sizes[0], sizes[1], LAYERS, DROPOUT, BIDIRECTIONAL, _precision(), residuals, cotangents)[:4]


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _lstm(sizes: tuple[int, int], x, h, c, weights, lengths):
    return _forward(sizes, x, h, c, weights, lengths)[0]


def _bwd(sizes: tuple[int, int], residuals, cotangents):
    return *_backward(sizes, residuals, cotangents), None


_lstm.defvjp(_forward, _bwd)
