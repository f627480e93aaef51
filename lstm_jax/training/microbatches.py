"""Gradient accumulation: a batch is divided into microbatches, which are read one after another, and their gradients are added up.

Residuals are the arrays that a forward pass keeps for the backward pass. Only the residuals of one microbatch are in memory at a time.
Apart from rounding, the sum of the microbatches' gradients is the gradient of the whole batch, because a training objective is a sum over
the examples of the batch; see `step.Objective`. Each microbatch has dropout masks of its own.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from lstm_jax.runtime import sharding


def divided(tree: Any, count: int) -> Any:
    """Divide the arrays (B, ...) of a pytree into microbatches, and return arrays (count, B / count, ...).

    Microbatch k has the rows k, k + count, ..., so that no row moves from one device of a mesh to another.
    """

    def divide(array: jax.Array) -> jax.Array:
        parts = array.reshape(array.shape[0] // count, count, *array.shape[1:])
        return sharding.constrain(jnp.moveaxis(parts, 1, 0), 1)

    return jax.tree.map(divide, tree)


def joined(tree: Any) -> Any:
    """Join the microbatches that `divided` has returned, and return arrays (B, ...) with the rows in their original order."""
    return jax.tree.map(lambda a: sharding.constrain(jnp.moveaxis(a, 0, 1).reshape(-1, *a.shape[2:]), 0), tree)


def for_each(function: Callable[..., Any], count: int, batch: Any, weight: Any, key: Any, carry: Any) -> Any:
    """Call a function for each microbatch, and stack its results along a new first axis.

    If `count` is 1, the function is called once for the whole batch, and its result has no new axis.

    Args:
        function: function(batch, weight, key, carry) that returns a pytree of arrays.
        count: number of microbatches.
        batch: pytree of arrays (B, ...).
        weight: weights (B,) of the examples.
        key: random key. Each of several microbatches gets a key of its own.
        carry: pytree of arrays (B, ...) that one training step hands to the next, such as recurrent states. Like the batch it is divided
            by rows. It is not handed from one microbatch to the next.
    """
    if count == 1:
        return function(batch, weight, key, carry)
    parts = (jnp.arange(count), *divided((batch, weight, carry), count))
    return jax.lax.map(lambda part: function(*part[1:3], jax.random.fold_in(key, part[0]), part[3]), parts)


def accumulated(
    function: Callable[..., tuple[Any, Any, Any]], count: int, batch: Any, weight: Any, key: Any, carry: Any, stacked: Any = ()
) -> tuple[Any, Any, Any]:
    """Call a function for each microbatch, and add up its results that are sums over examples, such as gradients.

    Args:
        function: function(batch, weight, key, carry, stacked) that returns three values: a pytree of sums over the examples, such as
            gradients and metrics; a pytree of values that are not added up; and the new carry.
        count: number of microbatches. If 1, the function is called once for the whole batch.
        batch: pytree of arrays (B, ...).
        weight: weights (B,) of the examples.
        key: random key. Each of several microbatches gets a key of its own.
        carry: pytree of arrays (B, ...) that one training step hands to the next, such as recurrent states. Like the batch it is divided
            by rows. It is not handed from one microbatch to the next.
        stacked: results of `for_each` for the same batch and `count`, or () if there are none. They are the last argument of the function.
            If `count` is above 1, each call gets one entry along the first axis of the arrays. If `count` is 1, the arrays have no such
            axis, and the call gets the whole arrays.

    Returns:
        Three values: the sums over all microbatches, the values that are not added up, and the new carry. If there are several
        microbatches, the arrays of the second value have a new first axis, with one entry for each microbatch. The arrays of the new carry
        are (B, ...) again.
    """
    if count == 1:
        return function(batch, weight, key, carry, stacked)
    parts = (jnp.arange(count), *divided((batch, weight, carry), count), stacked)

    def arguments(part: Any) -> tuple[Any, ...]:
        number, batch, weight, carry, stacked = part
        return batch, weight, jax.random.fold_in(key, number), carry, stacked

    def body(sums: Any, part: Any) -> tuple[Any, Any]:
        added, own, carry = function(*arguments(part))
        return jax.tree.map(jnp.add, sums, added), (own, carry)

    shapes = jax.eval_shape(lambda part: function(*arguments(part))[0], jax.tree.map(lambda a: a[0], parts))
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    sums, (own, carry) = jax.lax.scan(body, zeros, parts)
    return sums, own, joined(carry)
