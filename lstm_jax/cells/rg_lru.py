"""The real-gated linear recurrent unit, RG-LRU (De et al. 2024, "Griffin", section
2.4).

    r = sigmoid(z_r), i = sigmoid(z_i)
    log a = 8 r log sigmoid(L)
    h' = a h + sqrt(1 - a^2) i x

Here z_r and z_i are the columns of x W + bias that belong to a gate, and L is the
parameter `decay`. The cell `rg_lru` in `CELLS` has a third product z_x in place of the
last x, so that E need not be H. `rg_lru(heads)` is the paper's. The published code
multiplies by 1 in place of sqrt(1 - a^2) at the first step and after a reset. Here
these steps are like all others.
"""

from functools import cache
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.nn import log_sigmoid, sigmoid

from lstm_jax.base.errors import require
from lstm_jax.cells.cell import Cell, made_by, zero_bias
from lstm_jax.cells.initializers import NAMES
from lstm_jax.cells.min_rnns import make_step
from lstm_jax.cells.products import (
    Mask,
    Projected,
    Steps,
    block_matmul,
    check_sizes,
    is_per_gate,
    masked,
    project,
)
from lstm_jax.cells.simple_rnn import initial_state

_POWER, _LEAST, _MOST = 8, 0.9, 0.999


class RGLRUParams(NamedTuple):
    """Parameters of the RG-LRU: kernel (E, 3H) and bias (3H,), with the columns in the
    order r, i, x, and decay L (H,).

    `rg_lru(heads)` has the gates r and i alone: kernel (H / heads, 2H), in which the
    columns of a gate are those of each head side by side.
    """

    kernel: Array
    bias: Array
    decay: Array


@jax.custom_jvp
def _root(x: Array) -> Array:
    return jnp.sqrt(x)


@_root.defjvp
def _root_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    (x,), (change,) = primals, tangents
    # at most 1000, as in the published code
    return _root(x), change / (2 * _root(jnp.maximum(x, 2.5e-7)))


def _project(
    params: RGLRUParams, x: Steps, mask: Mask = None, compute_dtype=None
) -> Projected:
    return _with_decay(params, project(params, x, mask, compute_dtype))


def _with_decay(params: RGLRUParams, z: Projected) -> Projected:
    r, rest = jnp.split(z, [params.decay.size], axis=-1)
    log_share = jnp.broadcast_to(log_sigmoid(params.decay), r.shape)
    log_a = _POWER * sigmoid(r) * log_share
    return jnp.concatenate([log_a, rest], axis=-1)


def linear(z: Array) -> tuple[Array, Array]:
    """Return the arrays a and b, each (..., H), with which a step changes the output h
    to a h + b, from z = (log a, z_i, x).
    """
    log_a, i, x = jnp.split(z, 3, axis=-1)
    root = _root(-jnp.expm1(2 * log_a))  # sqrt(1 - a^2)
    return jnp.exp(log_a), root * sigmoid(i) * x


def _params(key: Array, units: int, shape: tuple[int, int], dtype) -> RGLRUParams:
    """As in the paper, the kernel is drawn by LeCun's initialiser, and sigmoid(L)^8
    uniformly from 0.9 to 0.999.
    """
    kernel_key, decay_key = jax.random.split(key)
    power = jax.random.uniform(decay_key, (units,), dtype, _LEAST, _MOST)
    decay = power ** (1 / _POWER)
    kernel = NAMES["lecun_normal"](kernel_key, shape, dtype)
    logit = jnp.log(decay) - jnp.log1p(-decay)  # the inverse of sigmoid
    return RGLRUParams(kernel, jnp.zeros(shape[1:], dtype), logit)


def _init(key: Array, features: int, units: int, dtype=jnp.float32) -> RGLRUParams:
    check_sizes(features, units)
    return _params(key, units, (features, 3 * units), dtype)


CELL = Cell(
    "rg_lru",
    3,
    RGLRUParams,
    _init,
    zero_bias(3),
    initial_state,
    make_step(linear),
    project=_project,
    linear=linear,
    takes_ids=True,
)


@cache
def rg_lru(heads: int) -> Cell:
    """Return the RG-LRU as in the paper, which reads H features, has x itself as its
    candidate, and gates of `heads` diagonal blocks.

    The same number gives the same object.

    Raises:
        InputError: if `heads` is below 1, or, when parameters are drawn, if it does not
            divide the number of units, or E is not H.
    """
    require(heads >= 1, "heads", heads, "give 1 or more")

    def init(key, features, units, dtype=jnp.float32):
        check_sizes(features, units, heads)
        remedy = f"the RG-LRU with heads reads as many as it has units, {units}"
        require(features == units, "features", features, remedy)
        return _params(key, units, (units // heads, 2 * units), dtype)

    def project_blocks(params, x, mask=None, compute_dtype=None):
        z = block_matmul(x, params.kernel, 2, mask, compute_dtype)
        z = _with_decay(params, z + jnp.broadcast_to(params.bias, z.shape))
        candidate = masked(x, mask[1] if is_per_gate(mask) else mask)
        return jnp.concatenate([z, candidate], axis=-1)

    cell = Cell(
        "rg_lru_blocks",
        2,
        RGLRUParams,
        init,
        zero_bias(2),
        initial_state,
        make_step(linear),
        project_blocks,
        linear,
        blocks=heads,
    )
    return made_by(cell, rg_lru, heads)
