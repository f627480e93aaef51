"""Arguments of a call of a recurrent layer: its inputs, its random keys, and a single
sequence without a batch axis.

B is the batch size, T the number of steps, E the number of input features and H the
number of units.
"""

import math
from typing import Any, TypeGuard

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array
from numpy import ndarray

from lstm_jax.base.errors import InputError, require
from lstm_jax.cells.products import is_ids
from lstm_jax.recurrence import as_array

Source = nnx.Rngs | nnx.RngStream | Array | None
"""Source of random numbers: `Rngs` with a stream `dropout`, a random stream, a key, or
None for the stream of the layer itself."""


class Layer(nnx.Module):
    """Base class of the recurrent layers and their stacks."""

    def count_params(self) -> int:
        """Return the number of scalars in the trainable parameters, as in Keras."""
        return sum(
            math.prod(leaf.shape)
            for leaf in jax.tree.leaves(nnx.state(self, nnx.Param))
        )


class DropoutLayer(Layer):
    """Base class of the layers that draw random masks in training: they have a random
    stream, and a flag that switches the masks off.
    """

    def __init__(self, rngs: nnx.Rngs | None, draws: bool):
        stream = getattr(rngs, "dropout", None) if draws else None
        self.rngs = None if stream is None else stream.fork()
        self.deterministic = False

    def set_view(self, deterministic: bool | None = None) -> None:
        """Set whether the layer runs without dropout. None changes nothing.
        `flax.nnx.view` calls this method.
        """
        if deterministic is not None:
            self.deterministic = deterministic


def is_training(layer: DropoutLayer, deterministic: bool | None) -> bool:
    """Return whether a call of a layer draws masks, given the argument `deterministic`
    of the call.
    """
    return not (layer.deterministic if deterministic is None else deterministic)


def is_key(source: Source) -> TypeGuard[Array]:
    """Return whether a source of random numbers is a key, also a raw key of NumPy."""
    return not (source is None or isinstance(source, nnx.Rngs | nnx.RngStream))


def dropout_key(own: nnx.RngStream | None, given: Source) -> Array:
    """Return a random key from the source `given` or, if this is None, from the layer's
    own stream.
    """
    stream = own if given is None else given
    if isinstance(stream, nnx.Rngs):
        stream = getattr(stream, "dropout", None)
    if stream is None:
        shown = given if given is None else "Rngs without a `dropout` stream"
        remedy = "dropout draws from it: give rngs with a `dropout` stream, or "
        raise InputError("rngs", shown, f"{remedy}deterministic=True")
    return stream() if isinstance(stream, nnx.RngStream) else stream


def read_input(x) -> Any:
    """Return the input x of a layer as an array: floats (B, T, E) or int ids (B, T), or
    a single sequence without the axis B.
    """
    remedy = "give floats (B, T, E), or int ids (B, T)"
    array = as_array("x", x, remedy)
    require(array.ndim >= 2 or is_single(array), "x", array.shape, remedy)
    return array


def is_single(x: Array | ndarray) -> bool:
    """Return whether the input of a layer is a single sequence: floats (T, E) or int
    ids (T,).
    """
    return x.ndim == (1 if is_ids(x) else 2)


def expanded(name: str, value, axis: int) -> Any:
    """Return an array or list with a new axis at the index `axis`, or at its end if it
    has fewer axes. None stays None.
    """
    if value is None:
        return None
    array = as_array(name, value, "give an array, or a list with rows of equal length")
    expand = _expand_dims if isinstance(array, Array) else np.expand_dims
    return expand(array, min(axis, array.ndim))


# outside of `jit`, in a third of the time
_expand_dims = jax.jit(jnp.expand_dims, static_argnums=1, inline=True)


def with_row(name: str, value) -> Any:
    """Return an array, or a state of several arrays, with a batch axis of size 1 in
    front. None stays None.
    """
    if isinstance(value, tuple | list):
        parts = [expanded(name, part, 0) for part in value]
        return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
    return expanded(name, value, 0)
