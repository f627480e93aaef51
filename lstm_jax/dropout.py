"""Dropout masks of a recurrent layer, drawn once per call and batch row, constant over time.

Kinds (`MaskKind`):
    "keras": the masks of `keras.layers.LSTM` by default, for any cell. With recurrent dropout it has one input mask and one recurrent mask
    for
        each gate (its implementation 1); without, all gates share one input mask.
    "per_gate": one mask for each gate in any case (Keras' `implementation=1`).
    "variational": one input mask and one recurrent mask shared by all gates (Gal & Ghahramani 2016).

Zoneout (Krueger et al. 2017) keeps a unit's state; its masks are drawn anew at each step.
"""

import math
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np

from lstm_jax import native
from lstm_jax.bounds import Share, check_number
from lstm_jax.errors import require
from lstm_jax.primitives.operation import ForwardOperation, Vmapped, apply
from lstm_jax.runtime import sharding
from lstm_jax.shapes import GATES

KEY_TYPE = "threefry2x32"
COUNTERS = 2**32
"""Number of values that compiled code can draw from one key."""

MaskKind = Literal["keras", "per_gate", "variational"]


class DropoutMasks(NamedTuple):
    """Masks of factors 0 or 1 / (1 - rate), or None for no dropout.

    Attributes:
        input: mask of x, (B, E) for all gates, or (4, B, E) with one for each gate i, f, g, o.
        recurrent: mask of h, (B, H) for all gates, or (4, B, H) with one for each gate.
        zoneout: masks by name of a part of the cell's state, "h" or "c": bool (T, B, H), True where a step keeps the value before it; or a
            float of shape (), the mean of such masks.
    """

    input: jax.Array | None = None
    recurrent: jax.Array | None = None
    zoneout: dict[str, jax.Array] | None = None


def check_rate(name: str, rate: float) -> float:
    """Return `rate`, if it is a share that a config may hold.

    Raises:
        InputError: if it is not in [0, 1).
    """
    return check_number(name, rate, Share)


def check_mask_kind(kind: str) -> MaskKind:
    """Return `kind`.

    Raises:
        InputError: if it is not a `MaskKind`.
    """
    require(kind in get_args(MaskKind), "dropout_masks", kind, "give keras, per_gate or variational")
    return kind  # pyright: ignore[reportReturnType]


def draw_mask(key: jax.Array, rate: float, shape: tuple[int, ...], dtype=jnp.float32) -> jax.Array:
    """Return a mask of inverted dropout: 0 with probability `rate`, else 1 / (1 - rate).

    Raises:
        InputError: if the rate is outside [0, 1).
    """
    keep = 1 - check_rate("dropout", rate)
    if _can_compile(key, dtype) and math.prod(shape) <= COUNTERS:
        return apply(_DrawMask(keep, tuple(shape)), jax.random.key_data(key))
    return _draw_in_jax(key, keep, shape, dtype)


def _draw_in_jax(key: jax.Array, keep: float, shape: tuple[int, ...], dtype) -> jax.Array:
    return jnp.where(jax.random.bernoulli(key, keep, shape), jnp.asarray(1 / keep, dtype), jnp.asarray(0, dtype))


def _can_compile(key: jax.Array, dtype) -> bool:
    """Return whether compiled code can draw this mask from the same bits."""
    config: Any = jax.config
    same_bits = config.jax_threefry_partitionable and not config.jax_enable_x64 and dtype == jnp.float32
    key_type = jnp.issubdtype(key.dtype, jax.dtypes.prng_key) and str(jax.random.key_impl(key)) == KEY_TYPE
    return bool(same_bits and key_type and sharding.devices() == 1 and not native.why_not())


@dataclass(frozen=True)
class _DrawMask(ForwardOperation):
    """A draw of a mask from the words of a key."""

    keep: float
    shape: tuple[int, ...]
    platforms: tuple[str, ...] = ("cpu",)

    def runs_on(self):
        return self.platforms

    def forward(self, keep, *args):
        keep, scale = np.float32(self.keep), np.float32(1 / self.keep)
        return native.call("lstm_jax_mask", [jax.ShapeDtypeStruct(self.shape, jnp.float32)], args, {}, keep=keep, scale=scale)[0], ()

    def plain_forward(self, keep, *args):
        del keep
        return _draw_in_jax(jax.random.wrap_key_data(*args, impl=KEY_TYPE), self.keep, self.shape, jnp.float32), ()

    def mapped(self, dims, size):
        """Return the draw of the masks of several keys, all at once, in JAX."""
        return Vmapped(replace(self, platforms=()), dims, size)


def draw_masks(
    key: jax.Array,
    batch: int,
    features: int,
    units: int,
    dropout: float,
    recurrent_dropout: float,
    kind: MaskKind = "keras",
    dtype=jnp.float32,
    gates: int = GATES,
) -> DropoutMasks:
    """Return the masks of one call of a recurrent layer.

    Args:
        key: a key.
        batch: B.
        features: E.
        units: H.
        dropout: rate of the input masks.
        recurrent_dropout: rate of the recurrent masks.
        kind: see the module.
        dtype: dtype of the masks.
        gates: number of gates of the cell.

    Raises:
        InputError: if a rate is outside [0, 1) or `kind` is unknown.
    """
    per_gate = check_mask_kind(kind) == "per_gate" or (kind == "keras" and recurrent_dropout > 0)
    lead = (gates,) if per_gate and gates > 1 else ()
    input_key, recurrent_key = jax.random.split(key)
    return DropoutMasks(
        draw_mask(input_key, dropout, (*lead, batch, features), dtype) if dropout else None,
        draw_mask(recurrent_key, recurrent_dropout, (*lead, batch, units), dtype) if recurrent_dropout else None,
    )


def draw_zoneout(key: jax.Array, rates: dict[str, float], steps: int, batch: int, units: int) -> dict[str, jax.Array]:
    """Return `DropoutMasks.zoneout` of one call, for the parts of the state whose rate is not 0.

    Raises:
        InputError: if a rate is outside [0, 1).
    """
    keys = dict(zip(rates, jax.random.split(key, len(rates)), strict=True))
    return {
        name: jax.random.bernoulli(keys[name], check_rate("zoneout", rate), (steps, batch, units)) for name, rate in rates.items() if rate
    }


def mean_zoneout(rates: dict[str, float], dtype=jnp.float32) -> dict[str, jax.Array]:
    """Return the means of the masks of `draw_zoneout`, for evaluation.

    Raises:
        InputError: if a rate is outside [0, 1).
    """
    return {name: jnp.asarray(check_rate("zoneout", rate), dtype) for name, rate in rates.items() if rate}
