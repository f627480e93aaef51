"""Dense output layers (heads), which map the output of a recurrent layer to logits."""

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from lstm_jax.cells import initializers
from lstm_jax.layers.initial import check_size
from lstm_jax.layers.refusals import constructor


class ClassifierHead(nnx.Module):
    """Dense output layer x W + b, equal to `keras.layers.Dense` without an activation.
    It maps features (..., D) to logits (..., classes).

    Args:
        features: number of input features D.
        classes: number of logits. Two classes need only 1 logit: sigmoid(logit) is then
            the probability of the second class.
        kernel_initializer: initialiser of W, given as for `Recurrent`.
        bias_initializer: initialiser of b, given in the same way.
        param_dtype: dtype of the parameters.
        rngs: random streams; the parameters are drawn from the stream `params`.

    Raises:
        InputError: if `features` or `classes` is not an int of 1 or more, or an
            initialiser is unknown.
    """

    @constructor
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
        features, classes = (
            check_size("features", features),
            check_size("classes", classes),
        )
        self.kernel = nnx.Param(
            initializers.draw(
                kernel_initializer,
                rngs.params(),
                (features, classes),
                param_dtype,
                "kernel_initializer",
            )
        )
        self.bias = nnx.Param(
            initializers.draw(
                bias_initializer,
                rngs.params(),
                (classes,),
                param_dtype,
                "bias_initializer",
            )
        )

    def __call__(self, x: Float[Array, "... D"]) -> Float[Array, "... C"]:
        logits: Array = x @ self.kernel[...]
        return logits + jnp.broadcast_to(self.bias[...], logits.shape)


class TiedHead(nnx.Module):
    """Dense output layer with tied weights: its kernel is the transposed table of an
    embedding layer (Press & Wolf 2017).

    A call takes features x (..., D) and a table (classes, D), and returns the logits x
    table^T + b, an array (..., classes). The bias b, the only parameter, starts as
    zeros. The arguments are those of `ClassifierHead`.

    Raises:
        InputError: if `classes` is not an int of 1 or more.
    """

    def __init__(self, classes: int, *, param_dtype=jnp.float32, rngs: nnx.Rngs):
        classes = check_size("classes", classes)
        self.bias = nnx.Param(
            initializers.zeros(rngs.params(), (classes,), param_dtype)
        )

    def __call__(
        self, x: Float[Array, "... D"], table: Float[Array, "C D"]
    ) -> Float[Array, "... C"]:
        logits: Array = x @ table.T
        return logits + jnp.broadcast_to(self.bias[...], logits.shape)
