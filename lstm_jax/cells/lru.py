"""The linear recurrent unit, LRU (Orvieto et al. 2023, "Resurrecting recurrent neural
networks for long sequences", section 3).

    s' = l s + exp(gamma) x B, in complex numbers, with l = exp(-exp(nu) + i exp(theta))
    h = (Re s, Im s)

The paper's output Re(C s) + D x is linear in h and x, and thus a `Dense` layer for h
and one for x.
"""

from functools import cache
from math import pi
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from lstm_jax.base.errors import require
from lstm_jax.cells.cell import Cell, made_by, times
from lstm_jax.cells.products import Mask, Projected, Steps, check_sizes, project, zeros
from lstm_jax.cells.simple_rnn import HiddenState


class LRUParams(NamedTuple):
    """Parameters of the LRU: kernel (E, 2H), whose columns are Re B and Im B, and nu,
    theta and gamma, each (H,).
    """

    kernel: Array
    nu: Array
    theta: Array
    gamma: Array


def _project(
    params: LRUParams, x: Steps, mask: Mask = None, compute_dtype=None
) -> Projected:
    gain = jnp.tile(jnp.exp(params.gamma), 2)  # of the real and the imaginary columns
    kernel = params.kernel * jnp.broadcast_to(gain, params.kernel.shape)
    return project(params._replace(kernel=kernel), x, mask, compute_dtype)


def decay(params: LRUParams) -> Array:
    """Return (Re l, Im l), an array (2H,)."""
    size = jnp.exp(-jnp.exp(params.nu))
    angle = jnp.exp(params.theta)
    return jnp.concatenate([size * jnp.cos(angle), size * jnp.sin(angle)])


def _initial_state(batch: int, units: int, dtype=jnp.float32) -> HiddenState:
    return HiddenState(zeros(batch, 2 * units, dtype))


@cache
def lru(least: float = 0.0, most: float = 1.0, phase: float = 2 * pi) -> Cell:
    """Return the cell whose initial eigenvalues l are uniform on the ring from radius
    `least` to `most`, with angles up to `phase`.

    The defaults are those of the cell `lru` in `CELLS`. For long memory the paper has a
    ring near 1 and small angles. The same arguments give the same object.

    Raises:
        InputError: if not 0 <= least < most <= 1, or `phase` is not above 0.
    """
    in_circle = 0 <= least < most <= 1
    remedy = "give 0 <= least < most <= 1"
    require(in_circle, "ring of the LRU", f"{least} to {most}", remedy)
    require(phase > 0, "phase", phase, "give a number above 0")

    def init(key, features, units, dtype=jnp.float32):
        check_sizes(features, units)
        kernel_key, ring_key, phase_key = jax.random.split(key, 3)
        square = jax.random.uniform(ring_key, (units,), dtype, least**2, most**2)
        # so that all logarithms are finite
        square = jnp.clip(square, jnp.finfo(dtype).tiny, 1 - jnp.finfo(dtype).eps)
        angle = phase * (1 - jax.random.uniform(phase_key, (units,), dtype))
        kernel = jax.random.normal(kernel_key, (features, 2 * units), dtype)
        return LRUParams(
            kernel=kernel / jnp.sqrt(2 * features).astype(dtype),
            nu=jnp.log(-jnp.log(square) / 2),  # |l|^2 = square
            theta=jnp.log(angle),
            gamma=jnp.log1p(-square) / 2,  # exp(gamma) = sqrt(1 - |l|^2)
        )

    def step(params, state, z, mask=None, compute_dtype=None):
        return HiddenState(times(True, decay(params), state.h) + z)

    cell = Cell(
        "lru",
        2,
        LRUParams,
        init,
        None,
        _initial_state,
        step,
        _project,
        decay=decay,
        complex_state=True,
        takes_ids=True,
    )
    return made_by(cell, lru, least, most, phase)
