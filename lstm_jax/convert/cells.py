"""Conversion of GRU and simple RNN layers between our layout, `get_weights()` of Keras, and state dicts of PyTorch.

The layouts are those of `build` in keras/src/layers/rnn/gru.py and simple_rnn.py (Keras 3.15) and of torch/nn/modules/rnn.py. In our layout
the arrays have the names of the fields of the cell's parameters in `lstm_jax.cells`, and the gates of a GRU have the order u, r, n. Keras'
GRU has the same order (it calls u "z"), and has both biases in one array (2, 3H). PyTorch has the gates in rows, in the order r, u, n. Its
GRU and its simple RNN have two biases each; our simple RNN has their sum. E is the number of features of the input, H the number of units.
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
    """Return the weights of a Keras GRU or SimpleRNN layer in our layout.

    Args:
        cell: the kind of cell: "gru", "gru_reset_before" or "simple_rnn".
        weights: `get_weights()` of the layer: kernel (E, 3H), recurrent kernel (H, 3H) and, if the layer has one, bias: (2, 3H) for "gru",
            (3H,) for "gru_reset_before". For "simple_rnn" each 3H is H. A missing bias becomes zeros.

    Raises:
        InputError: if `cell` is none of the three, the number of arrays is not 2 or 3, or a shape is not that of the cell.
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
    """Return the list of arrays that Keras' `layer.set_weights` takes; the inverse of `cell_from_keras`.

    Args:
        cell: the kind of cell: "gru", "gru_reset_before" or "simple_rnn".
        params: the arrays in our layout.

    Raises:
        InputError: if `cell` is none of the three, or if a key or shape is not that of the cell.
    """
    checked = _checked(cell, params)
    bias = np.stack([checked["bias"], checked["recurrent_bias"]]) if cell == "gru" else checked["bias"]
    return [checked["kernel"], checked["recurrent_kernel"], bias]


def _reordered(cell: str, array: np.ndarray) -> np.ndarray:
    """Exchange the update and reset gates along the last axis of an array of a GRU. Return an array of a simple RNN unchanged."""
    if cell == "simple_rnn":
        return array
    u, r, n = np.split(array, 3, axis=-1)
    return np.concatenate([r, u, n], axis=-1)


def _check_torch(cell: str) -> None:
    require(cell in ("gru", "simple_rnn"), "cell", cell, "PyTorch has gru and simple_rnn; LSTMs have functions of their own")


def cell_from_torch(cell: str, state_dict: Mapping[str, Any]) -> Arrays:
    """Return the weights of a PyTorch nn.GRU or nn.RNN (with tanh) in our layout.

    Args:
        cell: the kind of cell: "gru" or "simple_rnn".
        state_dict: state dict of a module with one layer, one direction and biases; its values are arrays or tensors.

    Raises:
        InputError: if `cell` is neither of the two, or if a name or shape is not that of such a module.
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
    """Return the state dict of a PyTorch nn.GRU or nn.RNN with one layer, as NumPy arrays; the inverse of `cell_from_torch`.

    The bias of a simple RNN becomes bias_ih, and bias_hh is zeros.

    Args:
        cell: the kind of cell: "gru" or "simple_rnn".
        params: the arrays in our layout.

    Raises:
        InputError: if `cell` is neither of the two, or if a key or shape is not that of the cell.
    """
    _check_torch(cell)
    checked = {name: _reordered(cell, array) for name, array in _checked(cell, params).items()}
    second = checked.get("recurrent_bias", np.zeros_like(checked["bias"]))
    arrays = (checked["kernel"].T, checked["recurrent_kernel"].T, checked["bias"], second)
    return dict(zip(TORCH, map(np.ascontiguousarray, arrays), strict=True))
