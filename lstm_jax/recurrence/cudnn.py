"""The backend `cudnn`, which calls the LSTM of cuDNN through `jax.experimental.rnn`.
One call computes the input projection and all steps.

The weights of cuDNN are one flat array: W (4H, E), U (4H, H) and two biases (4H,), with
the gates in the order i, f, g, o, as in `LSTMParams`. The second bias is set to 0. E is
the number of input features and H the number of units.

cuDNN accepts float32 only. Its matrix products are computed in TF32 unless
`jax_default_matmul_precision` is "highest", as in the other backends. cuDNN returns
zeros at padded steps, and the function `run` replaces them by the last valid output.
cuDNN needs a length of at least 1. A row without a valid step is therefore given the
length 1, and `run` then replaces its final state by the initial state. The backend
supports no recurrent dropout, no masks in which valid steps follow padded steps, and no
second derivatives. On a mesh each device runs its own rows of the batch.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.custom_batching import sequential_vmap
from jax.experimental import rnn

from lstm_jax.base.errors import InputError
from lstm_jax.cells import LSTMParams, LSTMState
from lstm_jax.cells.products import is_ids, masked, one_hot_rows
from lstm_jax.recurrence.call import (
    BATCH_FIRST,
    COPIED,
    Call,
    Options,
    on_mesh,
    select_rows,
)

OPTIONS = (1, 0.0, False)
"""Options of cuDNN: number of layers, rate of dropout, and whether the LSTM is
bidirectional."""


def why_not() -> str:
    """Return "" if the backend `cudnn` is available in this installation, else the
    reason why it is not.
    """
    return (
        ""
        if getattr(getattr(rnn, "gpu_rnn", None), "_cuda_rnn", None)
        else "jaxlib has no cuDNN: install jax[cuda12]"
    )


def pack(params: LSTMParams) -> Array:
    """Convert the parameters of an LSTM with E input features and H units to the
    weights of cuDNN, one flat array.
    """
    kernel, recurrent, bias = params
    return jnp.concatenate(
        [kernel.T.ravel(), recurrent.T.ravel(), bias, jnp.zeros_like(bias)]
    )


def run(options: Options, call: Call):
    """Run the LSTM over time with cuDNN. The arguments and results are those of
    `reference.run`.
    """
    # BACKENDS selects this backend only for the LSTM in float32 without resets
    params, x, state, valid, dropout, *_ = call
    features, units = params.kernel.shape[0], params.recurrent_kernel.shape[0]
    if is_ids(x):
        x = one_hot_rows(x, features, params.kernel.dtype)
    x = masked(x, dropout.input)
    steps, batch = x.shape[:2]
    lengths = jnp.full(batch, steps, jnp.int32)
    if valid is not None:
        lengths = valid.sum(0, dtype=jnp.int32)

    def run_rows(weights, x, state, lengths):
        sizes = (features, units)
        h, c = state.h[None], state.c[None]  # of one layer
        counts = jnp.maximum(lengths, 1)
        results: Any = _lstm(sizes, x, h, c, weights, counts)
        y, h, c = results
        return y, LSTMState(h[0], c[0])

    in_specs = (COPIED, BATCH_FIRST, BATCH_FIRST, BATCH_FIRST)
    out_specs = (BATCH_FIRST, BATCH_FIRST)
    rows = (pack(params), jnp.swapaxes(x, 0, 1), state, lengths)
    y, final = on_mesh(run_rows, batch, in_specs, out_specs, *rows)
    h = jnp.swapaxes(y, 0, 1)  # (T, B, H)
    if valid is not None:
        final = select_rows(lengths > 0, final, state)
        h = select_rows(valid, h, final.h[None])
    return h if options.sequences else None, final


def _precision() -> lax.Precision:
    exact = getattr(jax.config, "jax_default_matmul_precision", None) in (
        "highest",
        "float32",
    )
    return lax.Precision.HIGHEST if exact else lax.Precision.HIGH


def _once(call: Callable) -> Any:
    """Return a function that runs the forward or the backward pass of cuDNN, and that
    supports `vmap`.
    """

    @partial(jax.custom_jvp, nondiff_argnums=(0,))
    def function(sizes, *arrays):
        return sequential_vmap(partial(call, sizes))(*arrays)

    @function.defjvp
    def refuse(sizes, primals, tangents):
        raise InputError(
            "backend cudnn", "asked for a derivative of order 2", "name another backend"
        )

    return function


@_once
def _forward(sizes: tuple[int, int], x, h, c, weights, lengths):
    return rnn.lstm_fwd(x, h, c, weights, lengths, *sizes, *OPTIONS, _precision())


@_once
def _backward(sizes: tuple[int, int], residuals, cotangents):
    return rnn.lstm_bwd(*sizes, *OPTIONS, _precision(), residuals, cotangents)[:4]


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _lstm(sizes: tuple[int, int], x, h, c, weights, lengths):
    return _forward(sizes, x, h, c, weights, lengths)[0]


def _bwd(sizes: tuple[int, int], residuals, cotangents):
    return *_backward(sizes, residuals, cotangents), None


_lstm.defvjp(_forward, _bwd)
