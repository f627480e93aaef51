"""The states of a recurrent layer: its initial state, and the state that it carries from one call to the next if it is stateful."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from lstm_jax.cells import Cell
from lstm_jax.errors import require

INITIAL = "initial_"
"""Prefix of the names of the parameters of a learned initial state, as in `initial_h`."""


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


def check_batch(carried: Any, batch: int) -> None:
    """Check that the batch of a call has as many rows as the state that the layer carries from the previous call."""
    rows = carried[0].shape[0]
    require(rows == batch, "batch size", batch, f"the carried state has {rows} rows: give as many, or call reset_state({batch})")


def check_stateful(stateful: bool) -> None:
    """Check that a layer was created with `stateful=True`."""
    require(stateful, "stateful", stateful, "make the layer with stateful=True to carry state")


class LayerState(nnx.Module):
    """Base class of recurrent layers that manages their initial state and the state that they carry between calls.

    B is the number of rows of the batch and H the number of units.

    Attributes:
        row: the `Cell` of the layer, which is usually a value of the dict `CELLS`.
        units: number of units H.
        stateful: whether a call starts from the final state of the previous call.
        learned_state: whether the initial state is a parameter.
        carried: one `CarriedState` variable for each array of the carried state, or None if no state is carried.
    """

    kernel: nnx.Param[jax.Array]
    row: Cell
    units: int
    stateful: bool
    learned_state: bool
    carried: Any

    def initial_state(self, batch: int | None, dtype=None) -> Any:
        """Return the initial state of the layer for a batch of `batch` rows."""
        if batch is None:
            return jax.tree.map(lambda part: part[0], self._initial_state(1, dtype))
        return self._initial_state(batch, dtype)

    def _initial_state(self, batch: int, dtype: Any = None) -> Any:
        state = self.row.initial_state(batch, self.units, self.kernel[...].dtype if dtype is None else dtype)
        learned = self._reset_state(None)
        if learned is None:
            return state
        return jax.tree.map(lambda part, like: jnp.broadcast_to(part.astype(like.dtype)[None], like.shape), learned, state)

    def reset_state(self, batch: int | None = None) -> None:
        """Reset the state that a stateful layer carries between calls."""
        check_stateful(self.stateful)
        if self.learned_state:  # a copy of the learned state would get no gradient
            self.carried = nnx.data(None)
        elif batch is None:
            if self.carried is not None:
                keep(self.carried, self.initial_state(self.carried[0].shape[0]))
        else:
            self.carried = carry(self.initial_state(batch))

    def _reset_state(self, given: Any) -> Any:
        """Return the state that replaces the state of the layer at a reset, or None if the initial state of the cell replaces it."""
        if given is not None or not self.learned_state:
            return given
        like = self.row.state_like()
        return type(like)(*(getattr(self, INITIAL + name)[...] for name in like._fields))

    def _start(self, batch: int, initial_state: Any, reset_state: Any) -> Any:
        """Return the state that a call of the layer gives to `unroll` as the argument `initial_state`."""
        if self.carried is None:
            fresh = self.learned_state and initial_state is None and reset_state is None
            return self._initial_state(batch) if fresh else initial_state
        check_batch(self.carried, batch)
        if initial_state is not None:
            return initial_state
        like = self.row.state_like()
        return type(like)(*(v[...] for v in self.carried))

    def _carry(self, state: Any) -> None:
        """Store a copy of the final state of a call for the next call, if the layer is stateful."""
        if not self.stateful:
            return
        state = jax.tree.map(jnp.copy, state)
        if self.carried is None:
            self.carried = carry(state)
        else:
            keep(self.carried, state)
