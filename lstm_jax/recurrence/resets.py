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
    """Return the state from which a step starts: `resets.state` in the rows that are reset, and `state` in all other rows.

    Args:
        state: the state after the previous step.
        at: bool (B,), the flags of this step, or None if `resets` is None.
        resets: the resets, or None.
    """
    if at is None or resets is None:
        return state
    return jax.tree.map(lambda new, old: jnp.where(at[:, None], new, old), resets.state, state)


def restart_all(before: jax.Array, start: Any, resets: Resets | None) -> jax.Array:
    """Apply the resets to one array of the state, such as h, and return its values before each step (T, B, H).

    Args:
        before: values (T, B, H) of the array before each step, without the effect of the resets. Entry 0 is the initial value, and entry t
            is the value after step t - 1. The values of a row are ignored at the steps before which the row is reset.
        start: the corresponding array (B, H) of `resets.state`, from whose values a row starts again when it is reset; or None if `resets`
            is None.
        resets: the resets, or None.
    """
    return before if resets is None else jnp.where(resets.at[:, :, None], start[None], before)


def split_gradient(gradient: Any, d_reset: Any, at: jax.Array | None) -> tuple[Any, Any]:
    """Back-propagate through the resets before a step, and return the two resulting gradients.

    In a row that is reset, the step starts from `Resets.state`. The gradient of this row is therefore added to `d_reset`, and the state
    after the previous step gets the gradient 0. In any other row, the state after the previous step gets the gradient unchanged.

    Args:
        gradient: gradient with respect to the state from which the step starts.
        d_reset: gradient with respect to `Resets.state` from the later steps, or None if there are no resets.
        at: bool (B,), True in the rows that are reset, or None if there are no resets.

    Returns:
        A pair: the gradient with respect to the state after the previous step, and the new value of `d_reset`.
    """
    if at is None:
        return gradient, d_reset
    starts = at[:, None]
    d_reset = jax.tree.map(lambda total, part: total + jnp.where(starts, part, 0), d_reset, gradient)
    return jax.tree.map(lambda part: jnp.where(starts, 0, part), gradient), d_reset
