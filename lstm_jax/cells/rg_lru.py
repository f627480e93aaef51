"""The real-gated linear recurrent unit, RG-LRU (De et al. 2024, "Griffin", section 2.4).

    r = sigmoid(z_r), i = sigmoid(z_i);  log a = 8 r log sigmoid(L);  h' = a h + sqrt(1 - a^2) i z_x

Here z_r, z_i and z_x are the columns of x W + bias that belong to one gate or to the candidate, and L is the parameter `decay`. In the
paper z_x is x itself, the result of the layer before: W_x = identity. The published code multiplies by 1 in place of sqrt(1 - a^2) at the
first step and after a reset. Here these steps are like all others.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.nn import log_sigmoid, sigmoid

from lstm_jax.cells.cell import Cell, zero_bias
from lstm_jax.cells.min_rnns import make_step
from lstm_jax.cells.products import Mask, Projected, Steps, check_sizes, project
from lstm_jax.cells.simple_rnn import initial_state
from lstm_jax.initializers import NAMES

GATES, _POWER, _LEAST, _MOST = 3, 8, 0.9, 0.999


class RGLRUParams(NamedTuple):
    """Parameters of the RG-LRU: kernel W (E, 3H) and bias (3H,), with the columns in the order r, i, x, and decay L (H,)."""

    kernel: Array
    bias: Array
    decay: Array


@jax.custom_jvp
def _root(x: Array) -> Array:
    return jnp.sqrt(x)


@_root.defjvp
def _root_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    (x,), (change,) = primals, tangents
    return _root(x), change / (2 * _root(jnp.maximum(x, 2.5e-7)))  # at most 1000, as in the published code


def _project(params: RGLRUParams, x: Steps, mask: Mask = None, compute_dtype=None) -> Projected:
    r, rest = jnp.split(project(params, x, mask, compute_dtype), [params.decay.size], axis=-1)
    return jnp.concatenate([_POWER * sigmoid(r) * jnp.broadcast_to(log_sigmoid(params.decay), r.shape), rest], axis=-1)


def linear(z: Array) -> tuple[Array, Array]:
    """Return the arrays a and b, each (..., H), with which a step changes the output h to a h + b, from z = (log a, z_i, z_x)."""
    log_a, i, x = jnp.split(z, GATES, axis=-1)
    return jnp.exp(log_a), _root(-jnp.expm1(2 * log_a)) * sigmoid(i) * x


def _init(key: Array, features: int, units: int, dtype=jnp.float32) -> RGLRUParams:
    """As in the paper, the kernel is drawn by LeCun's initialiser, and sigmoid(L)^8 uniformly from 0.9 to 0.999."""
    check_sizes(features, units)
    kernel_key, decay_key = jax.random.split(key)
    decay = jax.random.uniform(decay_key, (units,), dtype, _LEAST, _MOST) ** (1 / _POWER)
    kernel = NAMES["lecun_normal"](kernel_key, (features, GATES * units), dtype)
    return RGLRUParams(kernel, bias(units, dtype), jnp.log(decay) - jnp.log1p(-decay))


bias = zero_bias(GATES)
CELL = Cell("rg_lru", GATES, RGLRUParams, _init, bias, initial_state, make_step(linear), project=_project, linear=linear, takes_ids=True)
