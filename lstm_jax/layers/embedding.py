"""A table of learned vectors, one for each token id (Bengio et al. 2003), equal to `keras.layers.Embedding`."""

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from lstm_jax import initializers
from lstm_jax.errors import require
from lstm_jax.runtime import sharding


class Embedding(nnx.Module):
    """Embedding: ids (...,) int -> vectors (..., features), the rows of a table (vocabulary, features).

    Args:
        vocabulary: number of rows; ids run from 0 to vocabulary - 1. An id out of range gives NaN vectors, as with `jnp.take`.
        features: number of columns.
        mask_zero: whether id 0 is padding, see `mask`.
        initializer: a name, or (key, shape, dtype) -> table; by default uniform in [-0.05, 0.05), as in Keras.
        param_dtype: dtype of the table.
        rngs: the stream `params` is drawn from.

    Raises:
        InputError: if `vocabulary` or `features` is below 1, or the initialiser is unknown.
    """

    def __init__(
        self,
        vocabulary: int,
        features: int,
        *,
        mask_zero: bool = False,
        initializer: str | initializers.Initializer = initializers.uniform_embedding,
        param_dtype=jnp.float32,
        rngs: nnx.Rngs,
    ):
        require(vocabulary >= 1, "vocabulary", vocabulary, "give 1 or more")
        require(features >= 1, "features", features, "give 1 or more")
        self.mask_zero = mask_zero
        self.embedding = nnx.Param(initializers.draw(initializer, rngs.params(), (vocabulary, features), param_dtype))

    def __call__(self, ids: Int[Array, "..."]) -> Float[Array, "... E"]:
        return sharding.gather_columns(self.embedding[...], ids)

    def mask(self, ids: Int[Array, "..."]) -> Bool[Array, "..."] | None:
        """Return whether each id is not padding; None if `mask_zero` is False."""
        return ids != 0 if self.mask_zero else None


__all__ = ["Embedding"]
