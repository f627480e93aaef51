"""The cell mLSTM: an LSTM with a matrix as its memory, and heads (Beck et al. 2024,
"xLSTM", section 2.3).

    i = exp(z_i), f = sigmoid(z_f), o = sigmoid(z_o)
    C' = f C + i v k^T
    n' = f n + i k
    h' = o C' q / max(|n' q|, 1)

Each head has its own i and f, d = H / heads columns of q, k, v and o, and a matrix C
(d, d). q is divided by sqrt(d), as in the published code; the paper divides k, with the
same h. The state has C exp(-m) and n exp(-m), where m is the largest exponent so far,
so that nothing overflows. No gate depends on h, and L steps are products of matrices
(L, L) and (L, d): see `chunk`.
"""

from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.nn import log_sigmoid, sigmoid

from lstm_jax.base.errors import require
from lstm_jax.cells.cell import Cell, made_by, zero_bias
from lstm_jax.cells.initializers import small_normal
from lstm_jax.cells.products import (
    Gates,
    Mask,
    Projected,
    Steps,
    check_sizes,
    is_per_gate,
    multiplied,
    project,
    zeros,
)


class MLSTMParams(NamedTuple):
    """Parameters of the mLSTM: kernel (E, 4H) and bias (4H,) of q, k, v, o, gate_kernel
    (E, 2 heads) and gate_bias (2 heads,) of i, f.
    """

    kernel: Array
    bias: Array
    gate_kernel: Array
    gate_bias: Array


class MLSTMState(NamedTuple):
    """State of the mLSTM: the output h (B, H), the memory c (B, heads * d * d), the
    normaliser n (B, H) and the exponent m (B, heads).
    """

    h: Array
    c: Array
    n: Array
    m: Array


def _project(
    params: MLSTMParams, x: Steps, mask: Mask = None, compute_dtype=None
) -> Projected:
    """Return (q, k, v, o, i, f). With a mask for each gate, i has that of k and f that
    of v.
    """
    gate_mask = mask[1:3] if is_per_gate(mask) else mask
    gates = multiplied(params.gate_kernel, x, gate_mask, compute_dtype)
    gates = gates + jnp.broadcast_to(params.gate_bias, gates.shape)
    return jnp.concatenate([project(params, x, mask, compute_dtype), gates], axis=-1)


def _split(z: Array, heads: int) -> tuple[Array, ...]:
    """Return q, k, v (..., heads, d), sigmoid(o) (..., H), i and log f (..., heads)."""
    units = (z.shape[-1] - 2 * heads) // 4
    size = units // heads  # d
    ends = [units, 2 * units, 3 * units, 4 * units, 4 * units + heads]
    *vectors, o, i, f = jnp.split(z, ends, axis=-1)
    q, k, v = (part.reshape(*z.shape[:-1], heads, size) for part in vectors)
    return q / size**0.5, k, v, sigmoid(o), i, log_sigmoid(f)


def _matrices(state: MLSTMState) -> tuple[Array, Array, Array]:
    """Return C (B, heads, d, d), n (B, heads, d) and m (B, heads)."""
    batch, heads = state.m.shape
    n = state.n.reshape(batch, heads, -1)
    size = n.shape[-1]
    return state.c.reshape(batch, heads, size, size), n, state.m


def _step(
    params: MLSTMParams,
    state: MLSTMState,
    z: Gates,
    mask: Mask = None,
    compute_dtype=None,
) -> MLSTMState:
    q, k, v, o, i, log_f = _split(z, state.m.shape[1])
    c, n, before = _matrices(state)
    m = jnp.maximum(log_f + before, i)
    old = jnp.exp(log_f + before - m)[..., None]  # (B, heads, 1)
    new = jnp.exp(i - m)[..., None] * k  # (B, heads, d)
    n = old * n + new
    c = old[..., None] * c + new[..., None] * v[:, :, None]  # (B, heads, d, d)

    size = jnp.maximum(jnp.abs((n * q).sum(-1)), jnp.exp(-m))
    read = jnp.einsum("bhk,bhkv->bhv", q, c) / size[..., None]
    h = o * read.reshape(o.shape)  # (B, H)
    return MLSTMState(h, c.reshape(state.c.shape), n.reshape(state.n.shape), m)


def chunk(
    state: MLSTMState, z: Array, valid: Array | None, resets: Any
) -> tuple[Array, MLSTMState]:
    """Run L steps at once, as `Cell.chunk` describes.

    C after step t has i_s v_s k_s^T times f from s + 1 to t, if no reset lies between
    (Beck et al. 2025, "Tiled flash linear attention").
    """
    *parts, o, i, log_f = _split(z, state.m.shape[1])
    # (B, heads, L, d) and (B, heads, L)
    q, k, v, i, log_f = (jnp.moveaxis(part, 0, 2) for part in (*parts, i, log_f))
    if valid is not None:
        by_row = valid.T[:, None]  # (B, 1, L)
        log_f = jnp.where(by_row, log_f, 0)
        i = jnp.where(by_row, i, -jnp.inf)

    # what the state before the chunk contributes to each step
    decay = jnp.cumsum(log_f, -1)
    c, n, carried = _matrices(state)
    carried = jnp.broadcast_to(carried[..., None], decay.shape)
    memory = q @ c  # (B, heads, L, d)
    normaliser = jnp.einsum("bhtk,bhk->bht", q, n)
    joined = jnp.tril(jnp.ones((1, 1, len(z), len(z)), bool))
    if resets is not None:
        # (B, 1, L), 0 before the first reset
        segment = jnp.cumsum(resets.at.T, -1)[:, None]
        joined &= segment[..., None] == segment[..., None, :]
        new_c, new_n, new_m = _matrices(resets.state)
        # up to the last reset
        before = lax.cummin(jnp.where(resets.at.T[:, None], decay - log_f, 0), axis=2)
        fresh = segment > 0
        carried = jnp.where(fresh, new_m[..., None] - before, carried)
        memory = jnp.where(fresh[..., None], q @ new_c, memory)
        normaliser = jnp.where(fresh, jnp.einsum("bhtk,bhk->bht", q, new_n), normaliser)
        c = jnp.where(fresh[..., -1:, None], new_c, c)
        n = jnp.where(fresh[..., -1:], new_n, n)

    # exponents without `decay` of step t, which all terms of a step share: (B, heads,
    # t, s)
    exponents = jnp.where(joined, (i - decay)[..., None, :], -jnp.inf)
    # h does not depend on it
    largest = lax.stop_gradient(jnp.maximum(exponents.max(-1), carried))
    scores = (q @ k.mT) * jnp.exp(exponents - largest[..., None])
    kept = jnp.exp(carried - largest)
    total = jnp.abs(scores.sum(-1) + kept * normaliser)
    size = jnp.maximum(total, jnp.exp(-largest - decay))
    h = (scores @ v + kept[..., None] * memory) / size[..., None]
    h = o * jnp.moveaxis(h, 2, 0).reshape(o.shape)  # (L, B, H)

    # the state after the chunk
    last = jnp.maximum(exponents[..., -1, :].max(-1), carried[..., -1])
    k = k * jnp.exp(exponents[..., -1, :] - last[..., None])[..., None]
    kept = jnp.exp(carried[..., -1] - last)[..., None]
    c = (kept[..., None] * c + k.mT @ v).reshape(state.c.shape)
    n = (kept * n + k.sum(2)).reshape(state.n.shape)
    return h, MLSTMState(h[-1], c, n, last + decay[..., -1])


@cache
def mlstm(heads: int) -> Cell:
    """Return the cell mLSTM with `heads` heads, the same object for each number. The
    cell `mlstm` in `CELLS` has one.

    As in the published code, the kernel is normal with variance 2 / (5 E), the gates do
    not depend on x at first, the bias of i is normal with standard deviation 0.1, and
    that of f rises from 3 to 6 over the heads.

    Raises:
        InputError: if `heads` is below 1, or, when parameters are drawn, if it does not
            divide the number of units.
    """
    require(heads >= 1, "heads", heads, "give 1 or more")

    def init(key, features, units, dtype=jnp.float32):
        check_sizes(features, units, heads)
        kernel_key, bias_key = jax.random.split(key)
        of_input = 0.1 * jax.random.normal(bias_key, (heads,), dtype)
        of_forget = jnp.linspace(3, 6, heads, dtype=dtype)
        return MLSTMParams(
            kernel=small_normal(kernel_key, (features, 4 * units), dtype),
            bias=jnp.zeros((4 * units,), dtype),
            gate_kernel=jnp.zeros((features, 2 * heads), dtype),
            gate_bias=jnp.concatenate([of_input, of_forget]),
        )

    def initial_state(batch, units, dtype=jnp.float32):
        sizes = (units, units * (units // heads), units, heads)
        return MLSTMState(*(zeros(batch, size, dtype) for size in sizes))

    cell = Cell(
        "mlstm",
        4,
        MLSTMParams,
        init,
        zero_bias(4),
        initial_state,
        _step,
        _project,
        takes_ids=True,
        chunk=chunk,
    )
    return made_by(cell, mlstm, heads)
