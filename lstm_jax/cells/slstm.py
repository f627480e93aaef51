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

import jax
import jax.numpy as jnp
from jax import Array
from jax.nn import log_sigmoid, sigmoid

from lstm_jax.base.errors import require
from lstm_jax.base.shapes import GATES
from lstm_jax.cells.cell import Cell, made_by
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
    return SLSTMState(nothing, nothing, nothing + EMPTY)


def _bias(units: int, heads: int, dtype) -> Array:
    place = jnp.arange(units // heads, dtype=dtype) / max(1, units // heads - 1)
    return (
        jnp.zeros((GATES, heads, units // heads), dtype)
        .at[1]
        .set(5 - 12 * place**0.3)
        .reshape(-1)
    )


def whole_kernel(kernel: Array) -> Array:
    """Return the recurrent kernel (H, 4H) of one head that equals those of several
    heads: their blocks, with zeros elsewhere.
    """
    size, heads = len(kernel), kernel.shape[1] // (GATES * len(kernel))
    blocks = jnp.einsum(
        "dgkn,jk->jdgkn",
        kernel.reshape(size, GATES, heads, size),
        jnp.eye(heads, dtype=kernel.dtype),
    )
    return blocks.reshape(heads * size, -1)


def _step(
    params: LSTMParams,
    state: SLSTMState,
    z: Gates,
    mask: Mask = None,
    compute_dtype=None,
) -> SLSTMState:
    i, f, g, o = jnp.split(
        z + block_matmul(state.h, params.recurrent_kernel, GATES, mask, compute_dtype),
        GATES,
        axis=-1,
    )
    before = log_sigmoid(f) + state.n
    c = share(before - i) * state.c + share(i - before) * jnp.tanh(g)
    return SLSTMState(sigmoid(o) * c, c, jnp.logaddexp(before, i))


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
        check_sizes(features, units)
        require(
            units % heads == 0, "heads", heads, f"give a divisor of the {units} units"
        )
        kernel = jax.random.normal(key, (features, GATES * units), dtype) * jnp.sqrt(
            2 / (5 * features)
        ).astype(dtype)
        return LSTMParams(
            kernel,
            jnp.zeros((units // heads, GATES * units), dtype),
            _bias(units, heads, dtype),
        )

    def bias(units, dtype=jnp.float32):
        return _bias(units, heads, dtype)

    return made_by(
        Cell("slstm", GATES, LSTMParams, init, bias, _initial_state, _step),
        slstm,
        heads,
    )
