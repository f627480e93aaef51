"""Activation functions of Keras, found by the names that they have in
`keras.activations`.

Three functions of Keras are missing: `glu`, whose output has half the size of its
input; `threshold`, which takes further arguments; and `sparsemax`, which in Keras 3.15
does not return the distribution that its paper defines (Martins & Astudillo 2016).
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

from lstm_jax.base.checks import is_a
from lstm_jax.base.errors import check_choice, parsing, require

Activation = Callable[[Array], Array]


def linear(x: Array) -> Array:
    """Return x."""
    return x


def leaky_relu(x: Array) -> Array:
    """Return x where x is positive, and 0.2 x elsewhere. The slope 0.2 is the default
    of Keras; the default of JAX is 0.01.
    """
    return jax.nn.leaky_relu(x, 0.2)


def gelu(x: Array) -> Array:
    """Return x times the cumulative distribution function of the standard normal
    distribution, computed exactly, as in Keras.
    """
    return jax.nn.gelu(x, approximate=False)


def tanh_shrink(x: Array) -> Array:
    """Return x - tanh(x)."""
    return x - jnp.tanh(x)


def soft_shrink(x: Array) -> Array:
    """Return x - 0.5 where x > 0.5, x + 0.5 where x < -0.5, and 0 elsewhere."""
    return jnp.where(x > 0.5, x - 0.5, jnp.where(x < -0.5, x + 0.5, jnp.zeros_like(x)))


def hard_shrink(x: Array) -> Array:
    """Return x where |x| > 0.5, and 0 elsewhere."""
    return jnp.where(jnp.abs(x) > 0.5, x, jnp.zeros_like(x))


_OF_JAX = (
    "sigmoid",
    "relu",
    "relu6",
    "elu",
    "celu",
    "selu",
    "silu",
    "mish",
    "softmax",
    "log_softmax",
    "softplus",
    "squareplus",
    "log_sigmoid",
    "hard_sigmoid",
    "hard_silu",
    "hard_tanh",
    "sparse_plus",
    "sparse_sigmoid",
)
"""Names that `jax.nn` gives to the same functions as Keras."""
ACTIVATIONS: dict[str, Activation] = {
    name: getattr(jax.nn, name) for name in _OF_JAX
} | {
    "linear": linear,
    "tanh": jnp.tanh,
    "exponential": jnp.exp,
    "leaky_relu": leaky_relu,
    "gelu": gelu,
    "swish": jax.nn.silu,
    "hard_swish": jax.nn.hard_silu,
    "softsign": jax.nn.soft_sign,
    "hard_shrink": hard_shrink,
    "soft_shrink": soft_shrink,
    "tanh_shrink": tanh_shrink,
}


def find_activation(
    which: str | Activation | None, argument: str = "activation"
) -> Activation:
    """Return the activation function with the given name, or check a given function and
    return it.
    """
    if which is None:
        return linear
    if not callable(which):
        check_choice(argument, which, ACTIVATIONS, "a function, or ")
        return ACTIVATIONS[which]
    require(
        not is_a(which, "flax", "Module"),
        argument,
        type(which).__name__,
        "its parameters would not be trained: give a function",
    )
    with parsing(argument, "give a function, or an object that has a hash"):
        hash(which)
    x = jax.ShapeDtypeStruct((2, 6), jnp.float32)
    with parsing(argument, "give a function that maps (B, H) to (B, H)"):
        found = jax.eval_shape(which, x)
    shape, dtype = getattr(found, "shape", None), getattr(found, "dtype", None)
    fits = shape == x.shape and dtype == x.dtype
    require(
        fits,
        argument,
        f"maps (2, 6) float32 to {shape} {dtype}",
        "give a function that keeps shape and type",
    )
    return which


def activation_name(function: Activation) -> str | Activation:
    """Return the name of an activation function, or the function itself if it is not in
    `ACTIVATIONS`.
    """
    return next(
        (name for name, known in ACTIVATIONS.items() if known is function), function
    )
