"""Conversion of the weights of GRU and simple RNN layers between lstm_jax, Keras and PyTorch.

In lstm_jax the weights are a dict of arrays. E is the number of input features and H the number of units. A GRU has the arrays kernel
(E, 3H), recurrent_kernel (H, 3H), bias (3H,) and recurrent_bias (3H,). A variant of the GRU applies its reset gate to the state before it
multiplies the state by the recurrent kernel. This variant has no recurrent_bias. The gates of a GRU have the order u, r, n (update, reset,
new). A simple RNN has the arrays kernel (E, H), recurrent_kernel (H, H) and bias (H,).

A Keras GRU has the gates in the same order (Keras writes z for u), and has both biases in one array (2, 3H). The weights of a PyTorch GRU
are transposed, and its gates have the order r, u, n. A simple RNN of PyTorch has two biases, whose sum is the bias in lstm_jax. These
arrays are defined by the methods `build` in keras/src/layers/rnn/gru.py and simple_rnn.py (Keras 3.15), and in torch/nn/modules/rnn.py.
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
    """Convert the weights of a Keras GRU or SimpleRNN layer to the dict of arrays that lstm_jax uses.

    Args:
        cell: "gru" for a Keras GRU with `reset_after=True` (the default), "gru_reset_before" for a Keras GRU with `reset_after=False`, or
            "simple_rnn" for a Keras SimpleRNN.
        weights: the list that `get_weights()` of the layer returns: kernel, recurrent kernel and bias. Their shapes are (E, 3H), (H, 3H)
            and (2, 3H) for "gru"; (E, 3H), (H, 3H) and (3H,) for "gru_reset_before"; and (E, H), (H, H) and (H,) for "simple_rnn". If the
            bias is absent, it becomes zeros.

    Returns:
        a dict with the keys "kernel", "recurrent_kernel" and "bias". If `cell` is "gru", it also has the key "recurrent_bias".

    Raises:
        InputError: if `cell` is none of the three names, the number of arrays is not 2 or 3, or an array has a wrong shape.
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
    """Convert the weights of a GRU or simple RNN to the list of arrays that `set_weights` of a Keras layer expects.

    This function is the inverse of `cell_from_keras`.

    Args:
        cell: "gru" for a Keras GRU with `reset_after=True` (the default), "gru_reset_before" for a Keras GRU with `reset_after=False`, or
            "simple_rnn" for a Keras SimpleRNN.
        params: dict with the keys "kernel", "recurrent_kernel" and "bias". If `cell` is "gru", it also has the key "recurrent_bias".

    Raises:
        InputError: if `cell` is none of the three names, or if `params` has wrong keys or shapes.
    """
    checked = _checked(cell, params)
    bias = np.stack([checked["bias"], checked["recurrent_bias"]]) if cell == "gru" else checked["bias"]
    return [checked["kernel"], checked["recurrent_kernel"], bias]


def _reordered(cell: str, array: np.ndarray) -> np.ndarray:
    """Return a weight array of a GRU after exchanging the columns of the update gate with those of the reset gate.

    If `cell` is "simple_rnn", return the array unchanged.
    """
    if cell == "simple_rnn":
        return array
    u, r, n = np.split(array, 3, axis=-1)
    return np.concatenate([r, u, n], axis=-1)


def _check_torch(cell: str) -> None:
    require(cell in ("gru", "simple_rnn"), "cell", cell, "PyTorch has gru and simple_rnn; LSTMs have functions of their own")


def cell_from_torch(cell: str, state_dict: Mapping[str, Any]) -> Arrays:
    """Convert the state dict of a PyTorch nn.GRU, or nn.RNN with tanh, to the dict of arrays that lstm_jax uses.

    Args:
        cell: "gru" for an nn.GRU, or "simple_rnn" for an nn.RNN.
        state_dict: state dict of a module with one layer, one direction and biases. Its values are arrays or tensors.

    Returns:
        a dict with the keys "kernel", "recurrent_kernel" and "bias". If `cell` is "gru", it also has the key "recurrent_bias".

    Raises:
        InputError: if `cell` is neither of the two names, or if the state dict does not have the names and shapes of such a module.
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
    """Convert the weights of a GRU or simple RNN to the state dict of a PyTorch nn.GRU or nn.RNN with one layer.

    This function is the inverse of `cell_from_torch`. The values of the state dict are NumPy arrays. The bias of a simple RNN becomes
    bias_ih, and bias_hh becomes zeros.

    Args:
        cell: "gru" for an nn.GRU, or "simple_rnn" for an nn.RNN.
        params: dict with the keys "kernel", "recurrent_kernel" and "bias". If `cell` is "gru", it also has the key "recurrent_bias".

    Raises:
        InputError: if `cell` is neither of the two names, or if `params` has wrong keys or shapes.
    """
    _check_torch(cell)
    checked = {name: _reordered(cell, array) for name, array in _checked(cell, params).items()}
    second = checked.get("recurrent_bias", np.zeros_like(checked["bias"]))
    arrays = (checked["kernel"].T, checked["recurrent_kernel"].T, checked["bias"], second)
    return dict(zip(TORCH, map(np.ascontiguousarray, arrays), strict=True))
