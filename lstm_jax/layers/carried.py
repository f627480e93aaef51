"""The state that a layer with `stateful=True` carries from call to call."""

from typing import Any

import jax.numpy as jnp
from flax import nnx

from lstm_jax.errors import require


class CarriedState(nnx.Variable):
    """A part (B, H) of a carried state."""


def carry(state: Any) -> Any:
    """Return variables with the parts of a state."""
    return nnx.data(tuple(CarriedState(part) for part in state))


def keep(carried: Any, state: Any) -> None:
    """Set the carried state."""
    for variable, value in zip(carried, state, strict=True):
        variable[...] = value


def clear(carried: Any) -> None:
    """Set the carried state to zeros; do nothing if there is no state yet."""
    for variable in carried or ():
        variable[...] = jnp.zeros_like(variable[...])


def check_batch(carried: Any, batch: int) -> None:
    """Check that a call has as many rows as the carried state.

    Raises:
        InputError: if it has more or fewer.
    """
    rows = carried[0].shape[0]
    require(rows == batch, "batch size", batch, f"the carried state has {rows} rows: give as many, or call reset_state({batch})")


def check_stateful(stateful: bool) -> None:
    """Check that the layer carries state.

    Raises:
        InputError: if it does not.
    """
    require(stateful, "stateful", stateful, "make the layer with stateful=True to carry state")
