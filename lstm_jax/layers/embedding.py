"""The embedding layer, a table of learned vectors with one vector for each token id
(Bengio et al. 2003).
"""

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from lstm_jax.base import sharding
from lstm_jax.cells import initializers
from lstm_jax.layers.initial import check_size
from lstm_jax.layers.refusals import constructor
from lstm_jax.recurrence import as_int32


class Embedding(nnx.Module):
    """Embedding layer, equal to `keras.layers.Embedding`. It maps int ids (...) to
    vectors (..., features), the rows of a learned table.

    Args:
        vocabulary: number of rows of the table. Valid ids are 0 to vocabulary - 1. As
            in `jnp.take`, a negative id counts from the end, and an id out of range
            gives a vector of NaN.
        features: number of columns of the table.
        mask_zero: whether id 0 means padding; see `mask`.
        initializer: initialiser of the table, given as for `Recurrent`. The default
            draws uniformly from [-0.05, 0.05), as Keras does.
        param_dtype: dtype of the table.
        rngs: random streams; the initial table is drawn from the stream `params`.

    Raises:
        InputError: if `vocabulary` or `features` is not an int of 1 or more, or the
            initialiser is unknown.
    """

    @constructor
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
        vocabulary, features = (
            check_size("vocabulary", vocabulary),
            check_size("features", features),
        )
        self.mask_zero = mask_zero
        self.embedding = nnx.Param(
            initializers.draw(
                initializer, rngs.params(), (vocabulary, features), param_dtype
            )
        )

    def __call__(
        self, ids: Int[Array, "..."], batch_axis: int = 0
    ) -> Float[Array, "... E"]:
        """Return the vectors (..., E) of ids (...). On a device mesh, the vectors are
        sharded along their axis `batch_axis`.

        Raises:
            InputError: if the ids are not ints.
        """
        # ids of few bits cannot be compared with the number of rows, and JAX would wrap
        # ids of 64 bits
        return sharding.gather_columns(
            self.embedding[...], as_int32("ids", ids), batch_axis
        )

    def mask(self, ids: Int[Array, "..."]) -> Bool[Array, "..."] | None:
        """Return a bool array that is True where an id is not padding (id 0), or None
        if the layer has `mask_zero=False`.
        """
        return as_int32("ids", ids) != 0 if self.mask_zero else None
