"""The cell sLSTM: an LSTM with exponential input gates, a normaliser and heads (Beck et
al. 2024, "xLSTM", section 2.2).

    z = x W + h U + b, split into i, f, g, o;  h' = sigmoid(o) c'
    c' = w c + (1 - w) tanh(g), with w = sigmoid(log sigmoid(f) + n - i)
    n' = log(exp(log sigmoid(f) + n) + exp(i))

The paper has a cell state C, a normaliser N and a stabiliser S, and h' = sigmoid(o) C'
/ N'. Here c is the ratio C / N and n the logarithm S + log N, so that nothing overflows
and no stabiliser is needed. The output h is the same.

Each head reads its own part of h, so that U has blocks: `recurrent_kernel` (H / heads,
4H), in which each gate has H columns, those of a head side by side.
"""

from functools import cache
from typing import NamedTuple

import jax.numpy as jnp
from jax import Array
from jax.nn import log_sigmoid, sigmoid

from lstm_jax.base.errors import require
from lstm_jax.base.types import GATES
from lstm_jax.cells.cell import Cell, made_by
from lstm_jax.cells.initializers import small_normal
from lstm_jax.cells.lstm import LSTMParams
from lstm_jax.cells.min_rnns import share
from lstm_jax.cells.products import Gates, Mask, block_matmul, check_sizes, zeros

EMPTY = -1e4
"""Logarithm of the normaliser before the first step. exp(-1e4) is 0 in float64."""


class SLSTMState(NamedTuple):
    """State of the sLSTM: the output h, the normalised cell state c and the logarithm n
    of the normaliser, each (batch, units).
    """

    h: Array
    c: Array
    n: Array


def _initial_state(batch: int, units: int, dtype=jnp.float32) -> SLSTMState:
    nothing = zeros(batch, units, dtype)
    return SLSTMState(h=nothing, c=nothing, n=nothing + EMPTY)


def _bias(units: int, heads: int, dtype) -> Array:
    size = units // heads
    place = jnp.arange(size, dtype=dtype) / max(1, size - 1)  # 0 to 1 within a head
    bias = jnp.zeros((GATES, heads, size), dtype)
    return bias.at[1].set(5 - 12 * place**0.3).reshape(-1)  # of the forget gate


def whole_kernel(kernel: Array) -> Array:
    """Return the recurrent kernel (H, 4H) of one head that equals those of several
    heads: their blocks, with zeros elsewhere.
    """
    size = len(kernel)
    heads = kernel.shape[1] // (GATES * size)
    blocks = kernel.reshape(size, GATES, heads, size)
    eye = jnp.eye(heads, dtype=kernel.dtype)
    return jnp.einsum("dgkn,jk->jdgkn", blocks, eye).reshape(heads * size, -1)


def _step(
    params: LSTMParams,
    state: SLSTMState,
    z: Gates,
    mask: Mask = None,
    compute_dtype=None,
) -> SLSTMState:
    by_h = block_matmul(state.h, params.recurrent_kernel, GATES, mask, compute_dtype)
    i, f, g, o = jnp.split(z + by_h, GATES, axis=-1)  # each (B, H)
    before = log_sigmoid(f) + state.n  # log of the normaliser's old part; i of its new
    w = share(before - i)
    c = w * state.c + share(i - before) * jnp.tanh(g)  # share(i - before) = 1 - w
    h = sigmoid(o) * c
    return SLSTMState(h, c, jnp.logaddexp(before, i))


@cache
def slstm(heads: int) -> Cell:
    """Return the cell sLSTM with `heads` heads, the same object for each number. The
    cell `slstm` in `CELLS` has one.

    As in the published code, the kernel is normal with variance 2 / (5 E), the
    recurrent kernel is zeros, and the bias of the forget gate falls from 5 to -7 over
    the units of a head.

    Raises:
        InputError: if `heads` is below 1, or, when parameters are drawn, if it does not
            divide the number of units.
    """
    require(heads >= 1, "heads", heads, "give 1 or more")

    def init(key, features, units, dtype=jnp.float32):
        check_sizes(features, units, heads)
        kernel = small_normal(key, (features, GATES * units), dtype)
        recurrent = jnp.zeros((units // heads, GATES * units), dtype)
        return LSTMParams(kernel, recurrent, _bias(units, heads, dtype))

    def bias(units, dtype=jnp.float32):
        return _bias(units, heads, dtype)

    cell = Cell("slstm", GATES, LSTMParams, init, bias, _initial_state, _step)
    return made_by(cell, slstm, heads)
