"""Adversarial perturbations of word vectors: the changes of a given size that raise the
loss of a text most (Miyato et al. 2017).

A row of a batch holds one text or several packed texts. B is the number of rows, T the
number of steps (words) of a row, and E the number of features of a word.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from lstm_jax.lab.sentiment.model import members, sum_members, text_at_step
from lstm_jax.recurrence.packing import PackedPlaces

TINY = 1e-30
"""Smallest squared norm with which a gradient is normalised. A smaller squared norm is
raised to this value."""


Loss = Callable[..., tuple[Array, Array]]
"""Function loss(params, vectors, *rest) that returns the loss and the logits. It must
not close over arrays of a trace."""


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def with_gradient(loss: Loss, params, vectors, *rest) -> tuple[Array, Array, Any]:
    """Return the loss, the logits, and the gradient of the loss with respect to the
    word vectors.

    If JAX differentiates the loss, `loss` is not evaluated again. The returned logits
    and the returned gradient count as constants.
    """
    return _forward(loss, params, vectors, *rest)[0]


def _forward(loss: Loss, params, vectors, *rest) -> tuple[tuple, tuple]:
    (value, logits), gradients = jax.value_and_grad(loss, (0, 1), has_aux=True)(
        params, vectors, *rest
    )
    return (value, logits, gradients[1]), (gradients, (None,) * len(rest))


def _backward(loss: Loss, residuals: tuple, cotangents: tuple) -> tuple:
    gradients, nones = residuals
    return *jax.tree.map(lambda gradient: cotangents[0] * gradient, gradients), *nones


with_gradient.defvjp(_forward, _backward)


def perturbation(
    vectors: Float[Array, "T B E"],
    gradient: Float[Array, "T B E"],
    ids: Int[Array, "B T"],
    places: PackedPlaces | None,
    size: float,
) -> Float[Array, "T B E"]:
    """Return the perturbation of the word vectors: for each text, size * s * g / |g|.

    Here g is the gradient of the loss with respect to all word vectors of the text, and
    s the root mean square of their entries (about 1 in Miyato et al., who use the size
    5). Padding (id 0) is not changed. `places` are the positions of packed texts, or
    None if each row is one text.
    """
    real = (ids.T != 0).astype(vectors.dtype)
    values = jnp.stack(
        [(gradient**2).sum(-1) * real, (vectors**2).sum(-1) * real, real], -1
    )
    if places is None:
        sums = jnp.broadcast_to(values.sum(0, keepdims=True), values.shape)
    else:
        member = members(places, len(values))
        sums = text_at_step(sum_members(member, values), member)
    squares, own, words = (sums[..., n] for n in range(3))  # of the steps of each text
    spread = jnp.sqrt(own / (jnp.maximum(words, 1) * vectors.shape[-1]))
    scale = size * spread * lax.rsqrt(jnp.maximum(squares, TINY)) * real
    return jnp.broadcast_to(scale[..., None], gradient.shape) * gradient
