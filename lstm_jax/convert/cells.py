"""Conversion of the weights of recurrent layers between lstm_jax and Keras.

In lstm_jax the weights are a dict of arrays. E is the number of input features and H the number of units. A GRU has the arrays kernel
(E, 3H), recurrent_kernel (H, 3H), bias (3H,) and recurrent_bias (3H,). The cell "gru_reset_before" has no recurrent_bias. It is the variant
of the GRU that multiplies the state by the reset gate before it multiplies the result by the recurrent kernel. The gates of a GRU have the
order u, r, n (update, reset, new). A simple RNN has the arrays kernel (E, H), recurrent_kernel (H, H) and bias (H,). The LSTM is described
in `lstm_jax.convert`.

A Keras GRU has the gates in the same order (Keras writes z for u). With `reset_after=True` it has both biases in one array (2, 3H). With
`reset_after=False`, which is the cell "gru_reset_before", it has one bias (3H,), as in lstm_jax. Keras' arrays are defined by the methods
`build` in keras/src/layers/rnn/gru.py and simple_rnn.py (Keras 3.15).
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from lstm_jax.convert.arrays import LAYOUTS, Arrays, cell_arrays, check_cell, shaped
from lstm_jax.convert.checks import is_list, kind_of
from lstm_jax.convert.exporting import KERAS, exported_layer
from lstm_jax.errors import require

CELLS = ("gru", "gru_reset_before", "simple_rnn")


def _check_name(cell: str) -> None:
    require(cell in CELLS, "cell", cell, f"give one of {', '.join(CELLS)}; LSTMs have functions of their own")


def listed(subject: str, weights: Any) -> list[Any]:
    """Return the weights of a Keras layer or model as a list, after checking that they are a list or a similar collection."""
    weights = list(weights) if isinstance(weights, Iterator) else weights
    require(is_list(weights), subject, kind_of(weights), "give the list that get_weights() returns")
    return list(weights)


def cell_from_keras(cell: str, weights: Sequence[Any]) -> Arrays:
    """Convert the weights of a Keras GRU or SimpleRNN layer to the dict of arrays that lstm_jax uses.

    Args:
        cell: "gru" for a Keras GRU with `reset_after=True` (the default), "gru_reset_before" for a Keras GRU with `reset_after=False`, or
            "simple_rnn" for a Keras SimpleRNN.
        weights: the list that `get_weights()` of the layer returns: kernel, recurrent kernel and bias. For E input features and H units
            their shapes are (E, 3H), (H, 3H) and (2, 3H) for "gru"; (E, 3H), (H, 3H) and (3H,) for "gru_reset_before"; and (E, H), (H, H)
            and (H,) for "simple_rnn". If the bias is absent, it becomes zeros.

    Returns:
        a dict with the keys "kernel", "recurrent_kernel" and "bias". If `cell` is "gru", it also has the key "recurrent_bias".

    Raises:
        InputError: if `cell` is none of the three names, `weights` is not a list of 2 or 3 arrays, or an array has a wrong shape.
    """
    _check_name(cell)
    return from_list(cell, weights)


def from_list(cell: str, weights: Sequence[Any], where: str = "") -> Arrays:
    """Convert the weights of a Keras LSTM, GRU or SimpleRNN layer to the dict of arrays that lstm_jax uses."""
    title = "LSTM" if cell == "lstm" else cell
    weights = listed(f"{where}{title} weights", weights)
    require(len(weights) in (2, 3), f"{where}{title} weights", f"{len(weights)} arrays", "give kernel, recurrent kernel and, if any, bias")
    arrays = {"kernel": weights[0], "recurrent_kernel": weights[1], "bias": weights[2] if len(weights) == 3 else None}
    if cell == "gru":
        columns = shaped(f"{where}kernel", weights[0], "E", LAYOUTS[cell].columns).shape[1]
        rows = (None, None) if arrays["bias"] is None else shaped(f"{where}bias", arrays["bias"], 2, columns)
        arrays["bias"], arrays["recurrent_bias"] = rows
    return cell_arrays(cell, arrays, where)


def to_list(cell: str, params: Mapping[str, Any], where: str = "") -> list[np.ndarray]:
    """Convert the weights of a cell to the list of arrays that `set_weights` of a Keras layer expects.

    This function is the inverse of `from_list`.
    """
    checked = check_cell(cell, params, where)
    bias = np.stack([checked["bias"], checked["recurrent_bias"]]) if cell == "gru" else checked["bias"]
    return [checked["kernel"], checked["recurrent_kernel"], bias]


def cell_to_keras(cell: str, params: Any) -> list[np.ndarray]:
    """Convert the weights of a GRU or simple RNN to the list of arrays that `set_weights` of a Keras layer expects.

    This function is the inverse of `cell_from_keras`.

    Args:
        cell: "gru" for a Keras GRU with `reset_after=True` (the default), "gru_reset_before" for a Keras GRU with `reset_after=False`, or
            "simple_rnn" for a Keras SimpleRNN.
        params: a `Recurrent` layer, or a dict with the keys "kernel", "recurrent_kernel" and "bias". If `cell` is "gru", the dict also has
            the key "recurrent_bias". The Keras layer must have the activations and the direction of the `Recurrent` layer. This function
            does not check them.

    Raises:
        InputError: if `cell` is none of the three names, if `params` has wrong keys or shapes, or if `params` is a layer with another cell,
            with zoneout or with a learned initial state. Keras has neither zoneout nor a learned initial state.
    """
    _check_name(cell)
    return to_list(cell, exported_layer(cell, params, KERAS))
