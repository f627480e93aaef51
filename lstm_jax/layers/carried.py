"""The state that a layer with `stateful=True` carries from call to call."""

from typing import Any

import jax.numpy as jnp
from flax import nnx

from lstm_jax.errors import require


class CarriedState(nnx.Variable):
    """One array (B, H) of a carried state, such as h or c of the LSTM; B is the number of rows and H the number of units."""


def carry(state: Any) -> Any:
    """Return one `CarriedState` variable for each array of a state."""
    return nnx.data(tuple(CarriedState(part) for part in state))


def keep(carried: Any, state: Any) -> None:
    """Set the variables of a carried state to the arrays of `state`."""
    for variable, value in zip(carried, state, strict=True):
        variable[...] = value


def clear(carried: Any) -> None:
    """Set the carried state to zeros; do nothing if `carried` is None, as before the first call of the layer."""
    for variable in carried or ():
        variable[...] = jnp.zeros_like(variable[...])


def check_batch(carried: Any, batch: int) -> None:
    """Check that the batch of a call has as many rows as the carried state.

    Raises:
        InputError: if the numbers of rows differ.
    """
    rows = carried[0].shape[0]
    require(rows == batch, "batch size", batch, f"the carried state has {rows} rows: give as many, or call reset_state({batch})")


def check_stateful(stateful: bool) -> None:
    """Check that the layer was created with `stateful=True`.

    Raises:
        InputError: if `stateful` is false.
    """
    require(stateful, "stateful", stateful, "make the layer with stateful=True to carry state")
