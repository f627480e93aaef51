"""Conversion of GRU and simple RNN layers from and to Keras' `get_weights()` and PyTorch's state dicts.

The layouts are those of keras/src/layers/rnn/gru.py and simple_rnn.py of Keras 3.15 (`build`) and of torch/nn/modules/rnn.py. Our arrays
have the names of the fields of the cell's parameters in `lstm_jax.cells`. Keras' GRU has our gate order (it calls u "z") and both biases in
one array (2, 3H). PyTorch stacks r, u, n in rows; both of its layers have two biases, of which a simple RNN's are summed.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lstm_jax.convert.arrays import Arrays, check_keys, shaped
from lstm_jax.errors import require

NAMES = {
    "gru": ("kernel", "recurrent_kernel", "bias", "recurrent_bias"),
    "gru_reset_before": ("kernel", "recurrent_kernel", "bias"),
    "simple_rnn": ("kernel", "recurrent_kernel", "bias"),
}
GATES = {"gru": 3, "gru_reset_before": 3, "simple_rnn": 1}
TORCH = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")


def _checked(cell: str, params: Mapping[str, Any]) -> Arrays:
    require(cell in NAMES, "cell", cell, f"give one of {', '.join(NAMES)}; LSTMs have functions of their own")
    check_keys(cell, params, NAMES[cell])
    recurrent = shaped("recurrent_kernel", params["recurrent_kernel"], "H", "G H")
    units, columns = recurrent.shape
    require(columns == GATES[cell] * units, "recurrent_kernel", f"shape {recurrent.shape}", f"expected (H, {GATES[cell]} H) of a {cell}")
    found = {"kernel": shaped("kernel", params["kernel"], "E", columns), "recurrent_kernel": recurrent}
    return found | {name: shaped(name, params[name], columns) for name in NAMES[cell][2:]}


def cell_from_keras(cell: str, weights: Sequence[Any]) -> Arrays:
    """Return our arrays from Keras' GRU or SimpleRNN: [kernel (E, G H), recurrent kernel (H, G H), bias], the bias optional.

    Args:
        cell: a key of `NAMES`.
        weights: the layer's `get_weights()`.

    Raises:
        InputError: for another cell, another number of arrays or a shape that the cell does not have.
    """
    require(len(weights) in (2, 3), f"{cell} weights", f"{len(weights)} arrays", "give kernel, recurrent kernel and, if any, bias")
    kernel, recurrent = weights[:2]
    columns = np.shape(kernel)[-1]
    kind = np.asarray(kernel).dtype
    if cell == "gru":
        bias = np.zeros((2, columns), kind) if len(weights) == 2 else shaped("bias", weights[2], 2, columns)
        return _checked(cell, {"kernel": kernel, "recurrent_kernel": recurrent, "bias": bias[0], "recurrent_bias": bias[1]})
    bias = np.zeros(columns, kind) if len(weights) == 2 else weights[2]
    return _checked(cell, {"kernel": kernel, "recurrent_kernel": recurrent, "bias": bias})


def cell_to_keras(cell: str, params: Mapping[str, Any]) -> list[np.ndarray]:
    """Return the list for Keras' `layer.set_weights`.

    Raises:
        InputError: for a wrong cell, key or shape.
    """
    checked = _checked(cell, params)
    bias = np.stack([checked["bias"], checked["recurrent_bias"]]) if cell == "gru" else checked["bias"]
    return [checked["kernel"], checked["recurrent_kernel"], bias]


def _reordered(cell: str, array: np.ndarray) -> np.ndarray:
    """Exchange the gates u and r of u, r, n along the last axis."""
    if cell == "simple_rnn":
        return array
    u, r, n = np.split(array, 3, axis=-1)
    return np.concatenate([r, u, n], axis=-1)


def _check_torch(cell: str) -> None:
    require(cell in ("gru", "simple_rnn"), "cell", cell, "PyTorch has gru and simple_rnn; LSTMs have functions of their own")


def cell_from_torch(cell: str, state_dict: Mapping[str, Any]) -> Arrays:
    """Return our arrays from the state dict of an nn.GRU or nn.RNN (tanh) of one layer and one direction, with biases.

    Args:
        cell: "gru" or "simple_rnn".
        state_dict: name -> array or tensor.

    Raises:
        InputError: for another cell, a missing or foreign name or a wrong shape.
    """
    _check_torch(cell)
    check_keys(f"{cell} state dict", state_dict, TORCH)
    rows = f"{GATES[cell]} H"
    kernel, recurrent = shaped(TORCH[0], state_dict[TORCH[0]], rows, "E").T, shaped(TORCH[1], state_dict[TORCH[1]], rows, "H").T
    first, second = (shaped(name, state_dict[name], kernel.shape[1]) for name in TORCH[2:])
    ours = {"kernel": kernel, "recurrent_kernel": recurrent} | ({"bias": first + second} if cell == "simple_rnn" else {"bias": first})
    ours |= {"recurrent_bias": second} if cell == "gru" else {}
    return _checked(cell, {name: _reordered(cell, array) for name, array in ours.items()})


def cell_to_torch(cell: str, params: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Return the state dict, in NumPy, of an nn.GRU or nn.RNN of one layer; a simple RNN's bias_hh is zeros.

    Raises:
        InputError: for a wrong cell, key or shape.
    """
    _check_torch(cell)
    checked = {name: _reordered(cell, array) for name, array in _checked(cell, params).items()}
    second = checked.get("recurrent_bias", np.zeros_like(checked["bias"]))
    arrays = (checked["kernel"].T, checked["recurrent_kernel"].T, checked["bias"], second)
    return dict(zip(TORCH, map(np.ascontiguousarray, arrays), strict=True))
