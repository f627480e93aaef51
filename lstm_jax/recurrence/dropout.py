"""Dropout masks of a recurrent layer. They are drawn once per call for each row of the
batch, and are constant over time.

`MaskKind` names the kinds of masks:

- "keras": the masks that `keras.layers.LSTM` draws by default. If the layer has
  recurrent dropout, each gate has its own input mask and its own recurrent mask (Keras'
  `implementation=1`). If it has input dropout only, all gates share one input mask.
- "per_gate": each gate has its own masks, whether or not the layer has recurrent
  dropout (Keras' `implementation=1`).
- "variational": all gates share one input mask and one recurrent mask (Gal & Ghahramani
  2016).

Zoneout (Krueger et al. 2017) lets random units keep their previous state. Unlike
dropout masks, zoneout masks are drawn anew at each step.

B is the batch size, T the number of steps, E the number of input features and H the
number of units. For a cell with P outputs, such as an LSTM with a recurrent projection,
the masks of the output h have P columns instead of H.
"""

import math
from dataclasses import replace
from functools import partial
from numbers import Integral
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from lstm_jax import native
from lstm_jax.base import sharding
from lstm_jax.base.checks import Share, check_number, frozen
from lstm_jax.base.errors import check_choice, require
from lstm_jax.base.types import GATES, Ints, Texts
from lstm_jax.native.operation import Operation, Vmapped, apply

KEY_TYPE = "threefry2x32"
COUNTERS = 2**32
"""Largest number of random values that the C++ library can draw from one key."""

MaskKind = Literal["keras", "per_gate", "variational"]


@partial(
    jax.export.register_namedtuple_serialization,
    serialized_name="lstm_jax.DropoutMasks",
)
class DropoutMasks(NamedTuple):
    """Dropout and zoneout masks of one call of a recurrent layer. A field is None if
    the call has no dropout of that kind.

    Each entry of `input` and `recurrent` is a factor: either 0 or 1 / (1 - rate). B is
    the batch size, T the number of steps, E the number of input features, and H the
    number of columns of the state array.

    Attributes:
        input: mask of the input x: (B, E) if all gates share it, or (gates, B, E) with
            one mask per gate (i, f, g, o for the LSTM).
        recurrent: mask of the output h of the previous step: (B, H) if all gates share
            it, or (gates, B, H) with one mask per gate.
        zoneout: dict from the name of a state array, "h" or "c", to its mask. In
            training the mask is bool (T, B, H), True where a step keeps the previous
            value. In evaluation, the expected value of the mask, a float array of shape
            (), takes its place.
    """

    input: Array | None = None
    recurrent: Array | None = None
    zoneout: dict[str, Array] | None = None


def check_rate(name: str, rate: float) -> float:
    """Return a dropout rate, or raise an `InputError` if it is not in [0, 1)."""
    return check_number(name, rate, Share)


def draw_mask(key: Array, rate: float, shape: Ints, dtype=jnp.float32) -> Array:
    """Return a mask of inverted dropout: each entry is 0 with probability `rate`, else
    1 / (1 - rate).

    Raises:
        InputError: if `rate` is not in [0, 1).
    """
    remedy = "give a share from 0 to below 1"
    require(0 <= rate < 1, "dropout", rate, remedy)
    keep = 1.0 - float(rate)
    # of an exported program it may be symbolic, and has no value yet
    count: Any = math.prod(shape)
    if isinstance(count, Integral) and count <= COUNTERS and _can_compile(key, dtype):
        return apply(_DrawMask(keep, tuple(shape)), jax.random.key_data(key))
    return _draw_in_jax(key, keep, shape, dtype)


def _draw_in_jax(key: Array, keep: float, shape: Ints, dtype) -> Array:
    return jnp.where(
        jax.random.bernoulli(key, keep, shape),
        jnp.asarray(1 / keep, dtype),
        jnp.asarray(0, dtype),
    )


def _can_compile(key: Array, dtype) -> bool:
    """Return whether the C++ library of this project can draw a mask that equals the
    mask of `jax.random`.
    """
    config: Any = jax.config
    if config.jax_enable_x64 or not config.jax_threefry_partitionable:
        return False
    typed = jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
    same_bits = typed and str(jax.random.key_impl(key)) == KEY_TYPE
    fits = same_bits and dtype == jnp.float32
    return fits and sharding.devices() == 1 and not native.why_not()


@frozen
class _DrawMask(Operation):
    """Operation that draws a dropout mask from the two uint32 numbers of a threefry2x32
    key, on `platforms` by the C++ library.
    """

    keep: float
    shape: Ints
    platforms: Texts = ("cpu",)

    def forward(self, custom, keep, *args):
        if not custom:
            key = jax.random.wrap_key_data(*args, impl=KEY_TYPE)
            return _draw_in_jax(key, self.keep, self.shape, jnp.float32), ()
        like = jax.ShapeDtypeStruct(self.shape, jnp.float32)
        numbers = {"keep": np.float32(self.keep), "scale": np.float32(1 / self.keep)}
        return native.call("lstm_jax_mask", like, args, **numbers), ()

    def mapped(self, dims, size, axes):
        return Vmapped(replace(self, platforms=()), dims, size, tuple(axes))


def draw_masks(
    key: Array,
    batch: int,
    features: int,
    units: int,
    dropout: float,
    recurrent_dropout: float,
    kind: MaskKind = "keras",
    dtype=jnp.float32,
    gates: int = GATES,
) -> DropoutMasks:
    """Return the input and recurrent masks of one call of a recurrent layer; see the
    module for the values of `kind`.

    `units` is the number of columns of the output h, which equals the number of units
    unless the cell projects its output. If the rate `dropout` or `recurrent_dropout` is
    0, the field `input` or `recurrent` of the result is None. If the cell has one gate,
    the masks have no axis of gates. An `InputError` is raised if a rate is not in [0,
    1), or `kind` has another value.
    """
    check_choice("dropout_masks", kind, get_args(MaskKind))
    per_gate = kind == "per_gate" or (kind == "keras" and recurrent_dropout > 0)
    lead = (gates,) if per_gate and gates > 1 else ()
    input_key, recurrent_key = jax.random.split(key)

    def draw(key: Array, rate: float, size: int) -> Array | None:
        return draw_mask(key, rate, (*lead, batch, size), dtype) if rate else None

    return DropoutMasks(
        draw(input_key, dropout, features),
        draw(recurrent_key, recurrent_dropout, units),
    )
