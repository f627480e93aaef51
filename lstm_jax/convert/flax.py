"""Conversion of LSTM cells between our layout, which `lstm_jax.convert` describes, and the parameter trees of Flax (Linen and NNX).

The layouts are those of flax/linen/recurrent.py and flax/nnx/nn/recurrent.py of Flax 0.12; E is the number of features, H the number of
units. Linen's LSTMCell and OptimizedLSTMCell and NNX's LSTMCell have two dense layers for each gate: ii, if, ig, io with a kernel (E, H)
and no bias, and hi, hf, hg, ho with a kernel (H, H) and a bias (H,). NNX spells `if` as `if_`. NNX's OptimizedLSTMCell has two dense layers
in all, dense_i with a kernel (E, 4H) and dense_h with a kernel (H, 4H) and a bias (4H,), in our gate order.

A tree may be nested, or flat with tuples or strings joined by "/" as keys. A key "params" above the cell and the key "cell" of an RNN are
removed. The state of Flax' cells is the tuple (c, h), where our state is LSTMState(h, c).
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from lstm_jax.convert.arrays import Arrays, check_keys, check_lstm, lstm_arrays, shaped
from lstm_jax.shapes import GATES

GATE_NAMES = "ifgo"


def lstm_from_linen(tree: Mapping[Any, Any]) -> Arrays:
    """Return the parameters of a Linen LSTMCell or OptimizedLSTMCell, which may be in an nn.RNN, as an LSTM in our layout.

    Raises:
        InputError: if the names or shapes in the tree are not those of one such cell.
    """
    return _from_gates(_cell_leaves(tree), forget="if")


def lstm_to_linen(params: Mapping[str, Any], rnn: bool = False) -> dict[str, Any]:
    """Return an LSTM in our layout as the parameters of a Linen LSTMCell or OptimizedLSTMCell.

    `apply` takes them as {"params": parameters}.

    Args:
        params: an LSTM in our layout.
        rnn: whether the parameters are for an nn.RNN, which has them under the key "cell".

    Raises:
        InputError: if the keys or shapes are not those of an LSTM in our layout.
    """
    return _wrap(_to_gates(params, forget="if"), rnn)


def lstm_from_nnx(tree: Mapping[Any, Any]) -> Arrays:
    """Return the parameters of an nnx.LSTMCell or nnx.OptimizedLSTMCell, which may be in an nnx.RNN, as an LSTM in our layout.

    Args:
        tree: `nnx.to_pure_dict(nnx.state(cell))`. The state of random number generators (`rngs`) in it is ignored.

    Raises:
        InputError: if the names or shapes in the tree are not those of one such cell.
    """
    leaves = _cell_leaves(tree)
    if not any(path.startswith("dense_") for path in leaves):
        return _from_gates(leaves, forget="if_")
    check_keys("nnx.OptimizedLSTMCell", leaves, ("dense_i/kernel", "dense_h/kernel", "dense_h/bias"))
    return lstm_arrays(leaves["dense_i/kernel"], leaves["dense_h/kernel"], leaves["dense_h/bias"], "OptimizedLSTMCell: ")


def lstm_to_nnx(params: Mapping[str, Any], optimized: bool = True, rnn: bool = False) -> dict[str, Any]:
    """Return an LSTM in our layout as the pure dict of an NNX cell, which `nnx.replace_by_pure_dict(state, ...)` takes.

    Args:
        params: an LSTM in our layout.
        optimized: whether the cell is an nnx.OptimizedLSTMCell; else it is an nnx.LSTMCell.
        rnn: whether the parameters are for an nnx.RNN, which has them under the key "cell".

    Raises:
        InputError: if the keys or shapes are not those of an LSTM in our layout.
    """
    if not optimized:
        return _wrap(_to_gates(params, forget="if_"), rnn)
    checked = check_lstm(params)
    dense_h = {"kernel": checked["recurrent_kernel"], "bias": checked["bias"]}
    return _wrap({"dense_i": {"kernel": checked["kernel"]}, "dense_h": dense_h}, rnn)


def _wrap(cell: dict[str, Any], rnn: bool) -> dict[str, Any]:
    return {"cell": cell} if rnn else cell


def _leaves(tree: Mapping[Any, Any], above: str = "") -> dict[str, object]:
    found: dict[str, object] = {}
    for key, value in tree.items():
        path = above + ("/".join(map(str, key)) if isinstance(key, tuple) else str(key))
        found |= _leaves(value, f"{path}/") if isinstance(value, Mapping) else {path: value}
    return found


def _cell_leaves(tree: Mapping[Any, Any]) -> dict[str, object]:
    """Return a dict from path to array of the cell in a tree, without random number generators and without the keys above the cell."""
    leaves = {path: value for path, value in _leaves(tree).items() if "rngs" not in path.split("/")}
    for wrapper in ("params/", "cell/"):
        if leaves and all(path.startswith(wrapper) for path in leaves):
            leaves = {path.removeprefix(wrapper): value for path, value in leaves.items()}
    return leaves


def _gate_layers(forget: str) -> tuple[list[str], list[str]]:
    """Return the names of the input's dense layers and the names of the state's dense layers, both in our gate order.

    Args:
        forget: name of the input's dense layer for the gate f: "if" in Linen, "if_" in NNX.
    """
    return [forget if gate == "f" else f"i{gate}" for gate in GATE_NAMES], [f"h{gate}" for gate in GATE_NAMES]


def _from_gates(leaves: Mapping[str, object], forget: str) -> Arrays:
    input_layers, state_layers = _gate_layers(forget)
    names = [f"{layer}/kernel" for layer in input_layers + state_layers] + [f"{layer}/bias" for layer in state_layers]
    check_keys("Flax LSTM cell", leaves, names)
    units = shaped("hi/kernel", leaves["hi/kernel"], "H", "H").shape[1]
    features = shaped("ii/kernel", leaves["ii/kernel"], "E", units).shape[0]
    return lstm_arrays(
        np.concatenate([shaped(f"{layer}/kernel", leaves[f"{layer}/kernel"], features, units) for layer in input_layers], axis=1),
        np.concatenate([shaped(f"{layer}/kernel", leaves[f"{layer}/kernel"], units, units) for layer in state_layers], axis=1),
        np.concatenate([shaped(f"{layer}/bias", leaves[f"{layer}/bias"], units) for layer in state_layers]),
    )


def _to_gates(params: Mapping[str, Any], forget: str) -> dict[str, Any]:
    checked = check_lstm(params)
    input_layers, state_layers = _gate_layers(forget)
    kernels, recurrent, biases = (
        [np.ascontiguousarray(part) for part in np.split(checked[name], GATES, axis=-1)] for name in ("kernel", "recurrent_kernel", "bias")
    )
    cell = {layer: {"kernel": kernel} for layer, kernel in zip(input_layers, kernels, strict=True)}
    return cell | {layer: {"kernel": kernel, "bias": bias} for layer, kernel, bias in zip(state_layers, recurrent, biases, strict=True)}
