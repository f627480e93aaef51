"""Pooling of a recurrent layer's outputs over time: the mean, the maximum or both over the words of each text.

T is the number of steps, B the number of rows, M the largest number of texts packed in a row, and D the number of output features.
"""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from lstm_jax.packing import PackedPlaces


def pool(h: Float[Array, "T B D"], ids: Int[Array, "T B"], kind: str) -> Float[Array, "B P"]:
    """Return the outputs of a recurrent layer, pooled over the words of each row."""
    real = jnp.broadcast_to((ids != 0)[..., None], h.shape)
    mean = jnp.where(real, h, 0).sum(0) / jnp.maximum(real.sum(0), 1).astype(h.dtype)
    largest = jnp.where(real.any(0), jnp.where(real, h, -jnp.inf).max(0), 0)
    return _join(mean, largest, kind)


def pool_packed(h: Float[Array, "T B D"], places: PackedPlaces, kind: str) -> Float[Array, "B M P"]:
    """Return the outputs of a recurrent layer, pooled over the steps of each text, for at most M texts that are packed in each row."""
    member = members(places, h.shape[0])
    mean = sum_members(member, h) / jnp.maximum(member.sum(-1), 1)[..., None].astype(h.dtype)
    return _join(mean, mean if kind == "mean" else _largest(h, places), kind)


@jax.custom_jvp
def _largest(h: Float[Array, "T B D"], places: PackedPlaces) -> Float[Array, "B M D"]:
    """Return the maximum of each of the D outputs over the steps of each packed text; see `pool_packed`."""
    ids = places.segment_ids.T
    begins = jnp.concatenate([jnp.ones_like(ids[:1], bool), ids[1:] != ids[:-1]])

    def running(largest: jax.Array, given: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        row, begins = given
        largest = jnp.where(begins[:, None], row, jnp.maximum(largest, row))
        return largest, largest

    _, so_far = lax.scan(running, jnp.full_like(h[0], -jnp.inf), (h, begins))
    return so_far[places.last, jnp.arange(h.shape[1])[:, None]]


@_largest.defjvp
def _largest_jvp(primals: tuple, tangents: tuple) -> tuple[jax.Array, jax.Array]:
    """Return the value of `_largest` and its tangent."""
    h, places = primals
    value = _largest(h, places)
    member = members(places, h.shape[0])
    equal = (h == text_at_step(value, member)).astype(h.dtype)
    count = jnp.maximum(sum_members(member, equal), 1)
    return value, sum_members(member, equal * tangents[0]) / count


def members(places: PackedPlaces, steps: int) -> Bool[Array, "B M T"]:
    """Return an array whose entry [b, m, t] tells whether step t of row b belongs to text m of the row."""
    step = jnp.arange(steps)[None, None, :]
    return (places.first[..., None] <= step) & (step <= places.last[..., None])


def text_at_step(values: Float[Array, "B M D"], member: Bool[Array, "B M T"]) -> Float[Array, "T B D"]:
    """Return an array that holds for each step the D values of the text to which the step belongs."""
    text = jnp.argmax(member, 1)
    return jnp.swapaxes(jnp.take_along_axis(values, text[..., None], 1), 0, 1)


def sum_members(member: Bool[Array, "B M T"], values: Float[Array, "T B D"]) -> Float[Array, "B M D"]:
    """Return the sums (B, M, D) of `values` over the steps of each of the M texts of each row, computed by a matrix product."""
    return jnp.einsum("bmt,tbd->bmd", member.astype(values.dtype), values, precision=lax.Precision.HIGHEST)


def _join(mean: jax.Array, largest: jax.Array, kind: str) -> jax.Array:
    return {"mean": mean, "max": largest, "mean+max": jnp.concatenate([mean, largest], -1)}[kind]
