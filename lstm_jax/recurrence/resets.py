"""Resets of the state within a sequence, and the functions with which the backends apply them.

Before a step at which a row is reset, the state of the row is replaced by a given state. The steps after a reset therefore do not depend on
the steps before it, and no gradient crosses it.

B is the batch size, T the number of steps and H the number of units.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp


class Resets(NamedTuple):
    """Resets of the state within a sequence.

    Attributes:
        at: bool (T, B). The entry (t, b) is True if the state of row b of the batch is replaced before step t. The steps are in the order
            in which they are processed.
        state: the new state, with arrays (B, H). Where `at` is True, row b of these arrays replaces the state of row b of the batch.
    """

    at: Any
    state: Any


def restart(state: Any, at: jax.Array | None, resets: Resets | None) -> Any:
    """Return the state from which a step starts: `resets.state` in the rows that are reset, and `state` in all other rows."""
    if at is None or resets is None:
        return state
    return jax.tree.map(lambda new, old: jnp.where(at[:, None], new, old), resets.state, state)


def restart_all(before: jax.Array, start: Any, resets: Resets | None) -> jax.Array:
    """Apply the resets to one array of the state, such as h, and return its values before each step (T, B, H)."""
    return before if resets is None else jnp.where(resets.at[:, :, None], start[None], before)


def split_gradient(gradient: Any, d_reset: Any, at: jax.Array | None) -> tuple[Any, Any]:
    """Back-propagate through the resets before a step, and return the two resulting gradients."""
    if at is None:
        return gradient, d_reset
    starts = at[:, None]
    d_reset = jax.tree.map(lambda total, part: total + jnp.where(starts, part, 0), d_reset, gradient)
    return jax.tree.map(lambda part: jnp.where(starts, 0, part), gradient), d_reset
