"""Conversion of LSTM cells from and to the parameter trees of Flax.

The layouts are those of flax/linen/recurrent.py and flax/nnx/nn/recurrent.py of Flax 0.12. Linen's LSTMCell and OptimizedLSTMCell and
NNX's LSTMCell have one dense layer for each gate: ii, if, ig, io with a kernel (E, H), and hi, hf, hg, ho with a kernel (H, H) and the
only bias, (H,). NNX spells `if` as `if_`. NNX's OptimizedLSTMCell has two wide layers, dense_i with a kernel (E, 4H) and dense_h with a
kernel (H, 4H) and bias (4H,), in our gate order.

Trees may be nested, or flat with tuples or "/"-joined strings as keys. A "params" above the cell and the "cell" of an RNN are
removed. Both APIs carry (c, h), where our state is LSTMState(h, c).
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from lstm_jax.convert.arrays import Arrays, check_keys, check_lstm, lstm_arrays, shaped
from lstm_jax.shapes import GATES

GATE_NAMES = "ifgo"


def lstm_from_linen(tree: Mapping[Any, Any]) -> Arrays:
    """Return our arrays from the parameters of a Linen LSTMCell or OptimizedLSTMCell, alone or in an nn.RNN.

    Raises:
        InputError: for other names than those of one such cell, or a wrong shape.
    """
    return _from_gates(_cell_leaves(tree), forget="if")


def lstm_to_linen(params: Mapping[str, Any], rnn: bool = False) -> dict[str, Any]:
    """Return the parameters of a Linen LSTMCell or OptimizedLSTMCell; put them under "params" for `apply`.

    Args:
        params: an LSTM in our layout.
        rnn: put the arrays under "cell", for an nn.RNN.

    Raises:
        InputError: for a wrong key or shape.
    """
    return _wrap(_to_gates(params, forget="if"), rnn)


def lstm_from_nnx(tree: Mapping[Any, Any]) -> Arrays:
    """Return our arrays from `nnx.to_pure_dict(nnx.state(cell))` of an nnx.LSTMCell or nnx.OptimizedLSTMCell, alone or in an nnx.RNN.

    The state of random streams (`rngs`) is ignored.

    Raises:
        InputError: for other names than those of one such cell, or a wrong shape.
    """
    leaves = _cell_leaves(tree)
    if not any(path.startswith("dense_") for path in leaves):
        return _from_gates(leaves, forget="if_")
    check_keys("nnx.OptimizedLSTMCell", leaves, ("dense_i/kernel", "dense_h/kernel", "dense_h/bias"))
    return lstm_arrays(leaves["dense_i/kernel"], leaves["dense_h/kernel"], leaves["dense_h/bias"], "OptimizedLSTMCell: ")


def lstm_to_nnx(params: Mapping[str, Any], optimized: bool = True, rnn: bool = False) -> dict[str, Any]:
    """Return the pure dict of an nnx.OptimizedLSTMCell or nnx.LSTMCell, for `nnx.replace_by_pure_dict(state, ...)`.

    Args:
        params: an LSTM in our layout.
        optimized: for an OptimizedLSTMCell, else for an LSTMCell.
        rnn: put the arrays under "cell", for an nnx.RNN.

    Raises:
        InputError: for a wrong key or shape.
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
    """Return path -> array of the cell in `tree`, without random streams and without the wrappers above the cell."""
    leaves = {path: value for path, value in _leaves(tree).items() if "rngs" not in path.split("/")}
    for wrapper in ("params/", "cell/"):
        if leaves and all(path.startswith(wrapper) for path in leaves):
            leaves = {path.removeprefix(wrapper): value for path, value in leaves.items()}
    return leaves


def _gate_layers(forget: str) -> tuple[list[str], list[str]]:
    """Return the names of the dense layers of the input and of the state, in our gate order."""
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
