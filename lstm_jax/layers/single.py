"""Calls of recurrent layers on a single sequence, whose arrays have no batch axis.

T is the number of steps, E the number of input features and H the number of units.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lstm_jax.dropout import DropoutMasks


def is_single(x: Any) -> bool:
    """Return whether the input of a layer is a single sequence: floats (T, E) or int ids (T,)."""
    if np.ndim(x) not in (1, 2):
        return False
    dtype = x.dtype if hasattr(x, "dtype") else np.asarray(x).dtype
    return np.ndim(x) == (1 if jnp.issubdtype(dtype, jnp.integer) else 2)


def call_on_single(
    layer: Any, x: Any, time_major: bool, sequences: bool, per_step: dict[str, Any], per_row: dict[str, Any], dropout: Any, **options: Any
):
    """Call a recurrent layer on a single sequence, and return its results without a batch axis.

    The layer is called on a batch of one row, which is the sequence.

    Args:
        layer: a `Recurrent` layer.
        x: floats (T, E) or int ids (T,).
        time_major: value of the layer's argument `time_major`.
        sequences: whether to return the outputs of all steps.
        per_step: dict from the names of arguments of the layer to their values, each an array (T,) or None.
        per_row: dict from the names of arguments of the layer to their values, each a number, a state with arrays (H,), or None.
        dropout: `DropoutMasks` without batch axes, or None.
        options: further arguments of the layer.
    """
    axis = int(time_major)
    steps = {name: _expanded(value, axis) for name, value in per_step.items()}
    rows = {name: _with_row(value) for name, value in per_row.items()}
    own: dict[str, Any] = {"time_major": time_major, "return_sequences": sequences, "dropout": _with_batch(dropout)}
    found = layer(_expanded(x, axis), **own, **steps, **rows, **options)
    outputs, state = found if layer.return_state else (found, None)
    outputs = jnp.squeeze(outputs, axis if sequences else 0)
    return (outputs, jax.tree.map(lambda part: part[0], state)) if layer.return_state else outputs


def _expanded(value: Any, axis: int) -> Any:
    """Add an axis with the index `axis` to an array or a list, and return the array. None stays None.

    A NumPy array or a list becomes a NumPy array, not a JAX array, so that 64-bit values are not truncated before they are checked.
    """
    if value is None or isinstance(value, jax.Array):
        return None if value is None else jnp.expand_dims(value, axis)
    return np.expand_dims(np.asarray(value), axis)


def _with_row(value: Any) -> Any:
    """Add a batch axis to a number or an array, or to each array of a state."""
    if isinstance(value, tuple | list):
        parts = [_expanded(part, 0) for part in value]
        return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
    return _expanded(value, 0)


def _with_batch(dropout: DropoutMasks | None) -> DropoutMasks | None:
    """Add a batch axis before the last axis of each mask. The rates of zoneout, which have no axes, are not changed.

    The masks of a single sequence are (features,), or (gates, features) with one mask per gate, or (T, features) for zoneout.
    """
    return jax.tree.map(lambda mask: mask if jnp.ndim(mask) == 0 else jnp.expand_dims(jnp.asarray(mask), -2), dropout)
