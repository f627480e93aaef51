"""Weight initialisers, with the names that they have in `keras.initializers` of Keras
3.

An initialiser is a function (key, shape, dtype) -> array. The formulas are from Glorot
& Bengio 2010 (uniform with limit sqrt(6 / (fan_in + fan_out))), Saxe et al. 2014
(orthogonal), Jozefowicz et al. 2015 (forget bias 1) and He et al. 2015 (He
initialisation). A vector of n entries has fan_in = fan_out = n, as in Keras.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.nn import initializers as plain

from lstm_jax.base.errors import check_choice, parsing, require
from lstm_jax.base.types import GATES, Ints

Initializer = Callable[..., Array]


def _scaled(name: str) -> Initializer:
    """Return an initialiser of JAX that also draws vectors, each as a column of a
    matrix.
    """
    # With the fans of a vector, fan_in = fan_out = n, Glorot's formula becomes LeCun's.
    matrix = getattr(plain, name)()
    vector = getattr(plain, name.replace("glorot", "lecun"))()

    def draw(key: Array, shape: Ints, dtype=jnp.float32):
        if len(shape) == 1:
            return vector(key, (*shape, 1), dtype).reshape(shape)
        return matrix(key, shape, dtype)

    return draw


glorot_uniform: Initializer = _scaled("glorot_uniform")
zeros: Initializer = plain.zeros


def orthogonal(key: Array, shape: Ints, dtype=jnp.float32) -> Array:
    """Return a random matrix with orthonormal columns or, if it has more columns than
    rows, with orthonormal rows.

    If `dtype` has fewer than 32 bits, the matrix is drawn in float32 and then
    converted, since the QR decomposition needs float32.
    """
    drawn_in = jnp.float32 if jnp.dtype(dtype).itemsize < 4 else dtype
    return plain.orthogonal()(key, shape, drawn_in).astype(dtype)


def small_normal(key: Array, shape: Ints, dtype=jnp.float32) -> Array:
    """Return a kernel (E, columns) of normal numbers with variance 2 / (5 E), as in the
    published code of xLSTM.
    """
    deviation = jnp.sqrt(2 / (5 * shape[0])).astype(dtype)
    return jax.random.normal(key, shape, dtype) * deviation


def identity(key: Array, shape: Ints, dtype=jnp.float32) -> Array:
    """Return a matrix with ones on its diagonal and zeros elsewhere.

    Raises:
        ValueError: if `shape` does not have two axes.
    """
    if len(shape) != 2:
        raise ValueError(f"shape {shape} is no matrix's")
    return jnp.eye(*shape, dtype=dtype)


def uniform_embedding(key: Array, shape: Ints, dtype=jnp.float32) -> Array:
    """Return an array of numbers drawn uniformly from [-0.05, 0.05), which is the
    default of Keras' `Embedding`.
    """
    return jax.random.uniform(key, shape, dtype, -0.05, 0.05)


def lstm_bias(units: int, dtype=jnp.float32) -> Array:
    """Return the initial bias of an LSTM, an array (4 * units,) with ones for the
    forget gate and zeros for the other gates.
    """
    # JAX would compile each operation for each size
    return jnp.asarray(np.repeat(np.arange(GATES) == 1, units), dtype)


NAMES: dict[str, Initializer] = {
    "zeros": zeros,
    "ones": plain.ones,
    "identity": identity,
    "orthogonal": orthogonal,
    "random_uniform": uniform_embedding,
    "random_normal": plain.normal(0.05),
    "truncated_normal": plain.truncated_normal(0.05),
    "variance_scaling": _scaled("lecun_normal"),
    "glorot_uniform": glorot_uniform,
    **{
        name: _scaled(name)
        for name in (
            "glorot_normal",
            "he_uniform",
            "he_normal",
            "lecun_uniform",
            "lecun_normal",
        )
    },
}
"""Dict from the name of an initialiser to this initialiser with the default arguments
of Keras."""
_ALIASES = {
    "zero": "zeros",
    "one": "ones",
    "uniform": "random_uniform",
    "normal": "random_normal",
}
_ALIASES |= {"".join(part.title() for part in name.split("_")): name for name in NAMES}
_ALIASES |= {"OrthogonalInitializer": "orthogonal", "IdentityInitializer": "identity"}


def find_initializer(
    which: str | Initializer, argument: str = "initializer"
) -> Initializer:
    """Return the initialiser with a given name. A function (key, shape, dtype) -> array
    is returned unchanged.

    A name is one in `NAMES` such as "glorot_uniform", or a class name of Keras such as
    "GlorotUniform". `argument` is named in errors.

    Raises:
        InputError: if `which` is neither a known name nor a function.
    """
    if callable(which):
        return which
    name = _ALIASES.get(str(which), which)
    check_choice(argument, name, NAMES, "a function (key, shape, dtype), or ")
    return NAMES[name]


def draw(
    which: str | Initializer,
    key: Array,
    shape: Ints,
    dtype=jnp.float32,
    argument: str = "initializer",
) -> Array:
    """Return an array of initial weights, drawn by an initialiser that is given as in
    `find_initializer`.

    Raises:
        InputError: if `which` is neither a known name nor a function, the function
            raises an exception, or it returns an array of another shape.
    """
    found = find_initializer(which, argument)
    remedy = "give a name, or a function (key, shape, dtype) -> array"
    with parsing(argument, remedy):
        drawn = jnp.asarray(found(key, shape, dtype), dtype)
    gave = f"gave shape {drawn.shape}"
    require(drawn.shape == shape, argument, gave, f"{shape} was asked for: {remedy}")
    return drawn
