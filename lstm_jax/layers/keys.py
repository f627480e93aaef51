"""Random keys of the layers that draw dropout masks."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from lstm_jax.errors import InputError

Source = nnx.Rngs | nnx.RngStream | jax.Array | None
"""Source of random numbers: `Rngs` with a stream `dropout`, a random stream, a key, or None for the stream of the layer itself."""


def as_key(source: Any) -> Any:
    """Return a source of random numbers. A NumPy array (a raw key) is converted to a JAX array. Any other source is returned unchanged."""
    return jnp.asarray(source) if isinstance(source, np.ndarray) else source


def dropout_key(own: nnx.RngStream | None, given: Source) -> jax.Array:
    """Return a random key from the source `given` or, if this is None, from the layer's own stream."""
    source = own if given is None else given
    stream = getattr(source, "dropout", None) if isinstance(source, nnx.Rngs) else source
    if stream is None:
        shown = source if source is None else "Rngs without a `dropout` stream"
        raise InputError("rngs", shown, "dropout draws from it: give rngs with a `dropout` stream, or deterministic=True")
    return stream() if isinstance(stream, nnx.RngStream) else stream
