"""Dropout masks of a recurrent layer: drawn once per call and batch row, constant over time, returned as arrays.

Kinds (`MaskKind`):
    "keras": what `keras.layers.LSTM` does by default, for any cell. With recurrent dropout it works in its implementation 1, one input
        mask and one recurrent mask a gate; without, all gates share one input mask.
    "per_gate": one mask a gate in any case (Keras' `implementation=1`).
    "variational": one shared mask each (Gal & Ghahramani 2016).

Zoneout (Krueger et al. 2017) is the one that is drawn anew at each step: a unit's state stays as it was.
"""

import math
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lstm_jax import native
from lstm_jax.errors import require
from lstm_jax.primitives.operation import ForwardOperation, Vmapped, apply
from lstm_jax.runtime import sharding
from lstm_jax.shapes import GATES

KEY_TYPE = "threefry2x32"
COUNTERS = 2**32
"""Numbers that compiled code can draw from one key."""

MaskKind = Literal["keras", "per_gate", "variational"]


class DropoutMasks(NamedTuple):
    """Factors 0 or 1 / (1 - rate), or None for no dropout there.

    input: (B, E) shared by the gates, or (4, B, E) one a gate, i, f, g, o.
    recurrent: (B, H) or (4, B, H) likewise.
    zoneout: by name of a part of the cell's state, "h" or "c": bool (T, B, H), True where a step leaves it as it was; or of shape (), the
        share of the state before that a step keeps, which is the mean over such masks.
    """

    input: jax.Array | None = None
    recurrent: jax.Array | None = None
    zoneout: dict[str, jax.Array] | None = None


def check_rate(name: str, rate: float) -> float:
    """Return `rate` if it is in [0, 1).

    Raises:
        InputError: otherwise.
    """
    require(0 <= rate < 1, name, rate, "give a share from 0 to below 1")
    return rate


def draw_mask(key: jax.Array, rate: float, shape: tuple[int, ...], dtype=jnp.float32) -> jax.Array:
    """Inverted dropout: 0 with probability `rate`, else 1 / (1 - rate); `shape` in, `shape` out."""
    keep = 1 - check_rate("dropout", rate)
    if _compiled(key, dtype) and math.prod(shape) <= COUNTERS:
        return apply(_DrawMask(keep, tuple(shape)), jax.random.key_data(key))
    return _drawn(key, keep, shape, dtype)


def _drawn(key: jax.Array, keep: float, shape: tuple[int, ...], dtype) -> jax.Array:
    return jnp.where(jax.random.bernoulli(key, keep, shape), jnp.asarray(1 / keep, dtype), jnp.asarray(0, dtype))


def _compiled(key: jax.Array, dtype) -> bool:
    """Whether compiled code can draw this mask, from the same bits."""
    config: Any = jax.config
    known = config.jax_threefry_partitionable and not config.jax_enable_x64 and dtype == jnp.float32
    key_type = jnp.issubdtype(key.dtype, jax.dtypes.prng_key) and str(jax.random.key_impl(key)) == KEY_TYPE
    return bool(known and key_type and sharding.devices() == 1 and not native.why_not())


@dataclass(frozen=True)
class _DrawMask(ForwardOperation):
    """A mask from the words of a key."""

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
        return _drawn(jax.random.wrap_key_data(*args, impl=KEY_TYPE), self.keep, self.shape, jnp.float32), ()

    def mapped(self, dims, size):
        """Draw the masks of several keys in JAX, all at once."""
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
    """The masks of one call of a recurrent layer whose cell has so many gates.

    Raises:
        InputError: if a rate is outside [0, 1) or `kind` is unknown.
    """
    require(kind in ("keras", "per_gate", "variational"), "dropout_masks", kind, "give keras, per_gate or variational")
    per_gate = kind == "per_gate" or (kind == "keras" and recurrent_dropout > 0)
    lead = (gates,) if per_gate and gates > 1 else ()
    input_key, recurrent_key = jax.random.split(key)
    return DropoutMasks(
        draw_mask(input_key, dropout, (*lead, batch, features), dtype) if dropout else None,
        draw_mask(recurrent_key, recurrent_dropout, (*lead, batch, units), dtype) if recurrent_dropout else None,
    )


def draw_zoneout(key: jax.Array, rates: dict[str, float], steps: int, batch: int, units: int) -> dict[str, jax.Array]:
    """`DropoutMasks.zoneout` of one call, of the parts of the state whose rate is not 0.

    Raises:
        InputError: if a rate is outside [0, 1).
    """
    keys = dict(zip(rates, jax.random.split(key, len(rates)), strict=True))
    return {
        name: jax.random.bernoulli(keys[name], check_rate("zoneout", rate), (steps, batch, units)) for name, rate in rates.items() if rate
    }


def mean_zoneout(rates: dict[str, float], dtype=jnp.float32) -> dict[str, jax.Array]:
    """The same without chance, for evaluation."""
    return {name: jnp.asarray(check_rate("zoneout", rate), dtype) for name, rate in rates.items() if rate}
