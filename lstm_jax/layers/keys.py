"""Random keys of the layers that draw dropout masks."""

import jax
from flax import nnx

from lstm_jax.errors import InputError

Source = nnx.Rngs | nnx.RngStream | jax.Array | None
"""Source of random numbers: `Rngs` with a stream `dropout`, a random stream, a key, or None for the stream of the layer itself."""


def dropout_key(own: nnx.RngStream | None, given: Source) -> jax.Array:
    """Return a key from a source of random numbers.

    Args:
        own: random stream of the layer, or None if it has none.
        given: source that the caller gave, or None.

    Raises:
        InputError: if there is neither a stream of the layer nor a given source.
    """
    source = own if given is None else given
    if source is None:
        raise InputError("rngs", None, "dropout draws from it: give rngs with a `dropout` stream, or deterministic=True")
    return source.dropout() if isinstance(source, nnx.Rngs) else source() if isinstance(source, nnx.RngStream) else source
