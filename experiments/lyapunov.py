"""Largest Lyapunov exponent of a recurrent cell: how fast two states that are close to
each other separate or approach.
"""

import jax
import jax.numpy as jnp
from jax import Array, lax

from lstm_jax.cells import Cell


def largest_lyapunov_exponent(
    cell: Cell, params, x: Array, initial_state, skip: int = 0, seed: int = 0
) -> Array:
    """Return the largest Lyapunov exponent (B,) of a cell that is driven by given
    inputs, in nats per step.

    The distance of two states that are close to each other grows or shrinks as
    exp(exponent * steps). If the exponent is negative, the cell forgets its initial
    state. If it is positive, the cell is chaotic. The computation follows Benettin et
    al. 1980: the derivative of each step propagates a random tangent vector of the
    state, which is then scaled back to length 1. The exponent is the mean logarithm of
    the factor by which a step lengthens the vector. If a step maps the vector to zero,
    it stays zero, and all later steps contribute the logarithm of the smallest normal
    number (-87.3 in float32) instead of minus infinity.

    x holds ids (T, B) or vectors (T, B, E). The first `skip` steps are left out of the
    mean, and `seed` is the seed of the random tangent vector.
    """
    z = cell.project(params, x, None, None)
    leaves, tree = jax.tree.flatten(initial_state)
    keys = jax.random.split(jax.random.key(seed), len(leaves))
    drawn = jax.tree.unflatten(
        tree,
        [
            jax.random.normal(key, leaf.shape, leaf.dtype)
            for key, leaf in zip(keys, leaves, strict=True)
        ],
    )

    def scaled(difference):
        leaves = jax.tree.leaves(difference)
        largest = jnp.stack([jnp.abs(leaf).max(-1) for leaf in leaves]).max(0)
        # a difference that has vanished stays 0
        largest = jnp.maximum(largest, jnp.finfo(z.dtype).tiny)
        # their squares neither overflow nor vanish
        parts = jax.tree.map(lambda leaf: leaf / largest[:, None], difference)
        squares = [(part**2).sum(-1) for part in jax.tree.leaves(parts)]
        length = jnp.sqrt(jnp.stack(squares).sum(0))
        length = jnp.where(length == 0, 1, length)
        unit = jax.tree.map(lambda part: part / length[:, None], parts)
        return unit, jnp.log(largest) + jnp.log(length)

    def step(carry, z_t):
        state, difference = carry
        after, difference = jax.jvp(
            lambda state: cell.step(params, state, z_t, None, None),
            (state,),
            (difference,),
        )
        difference, growth = scaled(difference)
        return (after, difference), growth

    _, growth = lax.scan(step, (initial_state, scaled(drawn)[0]), z)
    return growth[skip:].mean(0)
