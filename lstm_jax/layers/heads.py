"""Dense layers on the output of a recurrent layer."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from lstm_jax import initializers
from lstm_jax.errors import require


class ClassifierHead(nnx.Module):
    """Dense layer x W + b: features (..., D) -> logits (..., classes). It equals `keras.layers.Dense` without an activation.

    For two classes, use `classes=1`: the only logit is that of the second class, whose probability is sigmoid(logit).

    Raises:
        InputError: if `features` or `classes` is below 1, or an initialiser is unknown.
    """

    def __init__(
        self,
        features: int,
        classes: int = 1,
        *,
        kernel_initializer: str | initializers.Initializer = "glorot_uniform",
        bias_initializer: str | initializers.Initializer = "zeros",
        param_dtype=jnp.float32,
        rngs: nnx.Rngs,
    ):
        require(features >= 1, "features", features, "give 1 or more")
        require(classes >= 1, "classes", classes, "give 1 or more")
        self.kernel = nnx.Param(
            initializers.draw(kernel_initializer, rngs.params(), (features, classes), param_dtype, "kernel_initializer")
        )
        self.bias = nnx.Param(initializers.draw(bias_initializer, rngs.params(), (classes,), param_dtype, "bias_initializer"))

    def __call__(self, x: Float[Array, "... D"]) -> Float[Array, "... C"]:
        logits: jax.Array = x @ self.kernel[...]
        return logits + jnp.broadcast_to(self.bias[...], logits.shape)


class TiedHead(nnx.Module):
    """Dense layer x table^T + b, whose kernel is the transposed table of an embedding (Press & Wolf 2017).

    It maps features (..., D) and a table (classes, D) to logits (..., classes). The bias b is its only parameter.
    """

    def __init__(self, classes: int, *, param_dtype=jnp.float32, rngs: nnx.Rngs):
        require(classes >= 1, "classes", classes, "give 1 or more")
        self.bias = nnx.Param(initializers.zeros(rngs.params(), (classes,), param_dtype))

    def __call__(self, x: Float[Array, "... D"], table: Float[Array, "C D"]) -> Float[Array, "... C"]:
        logits: jax.Array = x @ table.T
        return logits + jnp.broadcast_to(self.bias[...], logits.shape)
