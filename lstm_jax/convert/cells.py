"""Conversion of the weights of GRU and simple RNN layers between lstm_jax and Keras.

In lstm_jax the weights are a dict of arrays. E is the number of input features and H the number of units. A GRU has the arrays kernel
(E, 3H), recurrent_kernel (H, 3H), bias (3H,) and recurrent_bias (3H,). The cell "gru_reset_before" has no recurrent_bias. It is the variant
of the GRU that multiplies the state by the reset gate first and by the recurrent kernel then. The gates of a GRU have the order u, r, n
(update, reset, new). A simple RNN has the arrays kernel (E, H), recurrent_kernel (H, H) and bias (H,).

A Keras GRU has the gates in the same order (Keras writes z for u), and has both biases in one array (2, 3H). These arrays are defined by
the methods `build` in keras/src/layers/rnn/gru.py and simple_rnn.py (Keras 3.15).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lstm_jax.convert.arrays import Arrays, cell_arrays, check_cell, shaped
from lstm_jax.errors import require

CELLS = ("gru", "gru_reset_before", "simple_rnn")


def _check_name(cell: str) -> None:
    require(cell in CELLS, "cell", cell, f"give one of {', '.join(CELLS)}; LSTMs have functions of their own")


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
        InputError: if `cell` is none of the three names, the number of arrays is not 2 or 3, or an array has a wrong shape.
    """
    _check_name(cell)
    require(len(weights) in (2, 3), f"{cell} weights", f"{len(weights)} arrays", "give kernel, recurrent kernel and, if any, bias")
    arrays = {"kernel": weights[0], "recurrent_kernel": weights[1], "bias": weights[2] if len(weights) == 3 else None}
    if cell == "gru":
        rows = (None, None) if arrays["bias"] is None else shaped("bias", arrays["bias"], 2, np.shape(weights[0])[-1])
        arrays["bias"], arrays["recurrent_bias"] = rows
    return cell_arrays(cell, arrays)


def cell_to_keras(cell: str, params: Mapping[str, Any]) -> list[np.ndarray]:
    """Convert the weights of a GRU or simple RNN to the list of arrays that `set_weights` of a Keras layer expects.

    This function is the inverse of `cell_from_keras`.

    Args:
        cell: "gru" for a Keras GRU with `reset_after=True` (the default), "gru_reset_before" for a Keras GRU with `reset_after=False`, or
            "simple_rnn" for a Keras SimpleRNN.
        params: dict with the keys "kernel", "recurrent_kernel" and "bias". If `cell` is "gru", it also has the key "recurrent_bias".

    Raises:
        InputError: if `cell` is none of the three names, or if `params` has wrong keys or shapes.
    """
    _check_name(cell)
    checked = check_cell(cell, params)
    bias = np.stack([checked["bias"], checked["recurrent_bias"]]) if cell == "gru" else checked["bias"]
    return [checked["kernel"], checked["recurrent_kernel"], bias]
