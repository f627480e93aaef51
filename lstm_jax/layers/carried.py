"""Storage of the state that a recurrent layer with `stateful=True` carries from one call to the next."""

from typing import Any

import jax.numpy as jnp
from flax import nnx

from lstm_jax.errors import require


class CarriedState(nnx.Variable):
    """Variable that holds one array of the state that a stateful layer carries between calls, such as h (B, H) of an LSTM.

    B is the number of rows of the batch and H the number of units.
    """


def carry(state: Any) -> Any:
    """Return a tuple of `CarriedState` variables, one for each array of a state."""
    return nnx.data(tuple(CarriedState(part) for part in state))


def keep(carried: Any, state: Any) -> None:
    """Set the `CarriedState` variables of a layer to the arrays of a new state."""
    for variable, value in zip(carried, state, strict=True):
        variable[...] = value


def clear(carried: Any) -> None:
    """Set the `CarriedState` variables of a layer to zeros. If `carried` is None, as before the first call of the layer, do nothing."""
    for variable in carried or ():
        variable[...] = jnp.zeros_like(variable[...])


def check_batch(carried: Any, batch: int) -> None:
    """Check that the batch of a call has as many rows as the state that the layer carries from the previous call.

    Args:
        carried: the `CarriedState` variables of the layer.
        batch: number of rows of the batch.

    Raises:
        InputError: if the numbers of rows differ.
    """
    rows = carried[0].shape[0]
    require(rows == batch, "batch size", batch, f"the carried state has {rows} rows: give as many, or call reset_state({batch})")


def check_stateful(stateful: bool) -> None:
    """Check that a layer was created with `stateful=True`.

    Args:
        stateful: value of the layer's argument `stateful`.

    Raises:
        InputError: if `stateful` is false.
    """
    require(stateful, "stateful", stateful, "make the layer with stateful=True to carry state")
