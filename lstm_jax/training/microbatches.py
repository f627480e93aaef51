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
    """Return arrays (count, B / count, ...): microbatch k has rows k, k + count, ..., so that no row moves to another device of a mesh."""

    def divide(array: jax.Array) -> jax.Array:
        parts = array.reshape(array.shape[0] // count, count, *array.shape[1:])
        return sharding.constrain(jnp.moveaxis(parts, 1, 0), 1)

    return jax.tree.map(divide, tree)


def joined(tree: Any) -> Any:
    """Join the microbatches that `divided` has returned, and return arrays (B, ...) with the rows in their original order."""
    return jax.tree.map(lambda a: sharding.constrain(jnp.moveaxis(a, 0, 1).reshape(-1, *a.shape[2:]), 0), tree)


def for_each(function: Callable[..., Any], count: int, batch: Any, weight: Any, key: Any, carry: Any) -> Any:
    """Call a function for each microbatch, and stack its results along a new first axis."""
    if count == 1:
        return function(batch, weight, key, carry)
    parts = (jnp.arange(count), *divided((batch, weight, carry), count))
    return jax.lax.map(lambda part: function(*part[1:3], jax.random.fold_in(key, part[0]), part[3]), parts)


def accumulated(
    function: Callable[..., tuple[Any, Any, Any]], count: int, batch: Any, weight: Any, key: Any, carry: Any, stacked: Any = ()
) -> tuple[Any, Any, Any]:
    """Call a function for each microbatch, and add up its results that are sums over examples, such as gradients."""
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
