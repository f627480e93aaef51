"""Conversion of the weights of LSTM cells between lstm_jax and Flax (Linen and NNX).

In lstm_jax an LSTM is the dict {"kernel": (E, 4H), "recurrent_kernel": (H, 4H), "bias": (4H,)} with the gates in the order i, f, g, o. E is
the number of input features and H the number of units.

Three Flax cells have two dense layers for each gate: LSTMCell and OptimizedLSTMCell of Linen, and LSTMCell of NNX. The dense layers ii, if,
ig and io act on the input, and have a kernel (E, H) and no bias. The dense layers hi, hf, hg and ho act on the state h, and have a kernel
(H, H) and a bias (H,). NNX spells `if` as `if_`.

OptimizedLSTMCell of NNX has only two dense layers, whose columns belong to the gates i, f, g, o, in this order: dense_i with a kernel
(E, 4H), and dense_h with a kernel (H, 4H) and a bias (4H,). All four cells are defined in flax/linen/recurrent.py and
flax/nnx/nn/recurrent.py (Flax 0.12).

The functions of this module accept a parameter tree as a nested dict or as a flat dict. The keys of a flat dict are tuples such as
("hi", "kernel") or strings such as "hi/kernel". A tree may have the form {"params": tree}, and the tree of an RNN has the form
{"cell": tree of the cell}. The state of a Flax cell is the tuple (c, h), while the state in lstm_jax is LSTMState(h, c).
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from lstm_jax.convert.arrays import Arrays, cell_arrays, check_cell, check_keys, kind_of, shaped
from lstm_jax.convert.exporting import FLAX, exported_layer
from lstm_jax.errors import require

GATE_NAMES = "ifgo"


def lstm_from_linen(tree: Mapping[Any, Any]) -> Arrays:
    """Convert the parameters of a Linen LSTMCell or OptimizedLSTMCell to the LSTM weights of lstm_jax.

    Args:
        tree: the parameter tree of the cell, or of an nn.RNN that contains the cell.

    Returns:
        {"kernel": (E, 4H), "recurrent_kernel": (H, 4H), "bias": (4H,)} for E input features and H units.

    Raises:
        InputError: if the names or shapes in the tree are not those of one of these cells.
    """
    return _from_gates(_cell_leaves(tree), forget="if")


def lstm_to_linen(params: Any, rnn: bool = False) -> dict[str, Any]:
    """Convert the LSTM weights of lstm_jax to the parameters of a Linen LSTMCell or OptimizedLSTMCell.

    The method `apply` of the Linen module expects the result as {"params": result}.

    Args:
        params: an `LSTM` layer, or {"kernel": (E, 4H), "recurrent_kernel": (H, 4H), "bias": (4H,)} for E input features and H units.
            The direction of a layer (`go_backwards`, `keep_order`) and its `dtype` are not checked.
        rnn: true for an nn.RNN that contains the cell: the result is then {"cell": parameters of the cell}. False for the cell itself.

    Raises:
        InputError: if the keys or shapes of `params` are not those of an LSTM, or if `params` is a layer with activations other than tanh
            and sigmoid, with zoneout or with a learned initial state.
    """
    return _wrap(_to_gates(params, forget="if"), rnn)


def lstm_from_nnx(tree: Mapping[Any, Any]) -> Arrays:
    """Convert the parameters of an nnx.LSTMCell or nnx.OptimizedLSTMCell to the LSTM weights of lstm_jax.

    Args:
        tree: `nnx.to_pure_dict(nnx.state(module))`, where `module` is the cell or an nnx.RNN that contains the cell. The state of random
            number generators (`rngs`) in the tree is ignored.

    Returns:
        {"kernel": (E, 4H), "recurrent_kernel": (H, 4H), "bias": (4H,)} for E input features and H units.

    Raises:
        InputError: if the names or shapes in the tree are not those of one of these cells.
    """
    leaves = _cell_leaves(tree)
    if not any(path.startswith("dense_") for path in leaves):
        return _from_gates(leaves, forget="if_")
    check_keys("nnx.OptimizedLSTMCell", leaves, ("dense_i/kernel", "dense_h/kernel", "dense_h/bias"))
    arrays = {"kernel": leaves["dense_i/kernel"], "recurrent_kernel": leaves["dense_h/kernel"], "bias": leaves["dense_h/bias"]}
    return cell_arrays("lstm", arrays, "OptimizedLSTMCell: ")


def lstm_to_nnx(params: Any, optimized: bool = True, rnn: bool = False) -> dict[str, Any]:
    """Convert the LSTM weights of lstm_jax to the parameters of an NNX cell, as a pure dict for `nnx.replace_by_pure_dict`.

    Args:
        params: an `LSTM` layer, or {"kernel": (E, 4H), "recurrent_kernel": (H, 4H), "bias": (4H,)} for E input features and H units.
            The direction of a layer (`go_backwards`, `keep_order`) and its `dtype` are not checked.
        optimized: true for an nnx.OptimizedLSTMCell, false for an nnx.LSTMCell.
        rnn: true for an nnx.RNN that contains the cell: the result is then {"cell": parameters of the cell}. False for the cell itself.

    Raises:
        InputError: if the keys or shapes of `params` are not those of an LSTM, or if `params` is a layer with activations other than tanh
            and sigmoid, with zoneout or with a learned initial state.
    """
    if not optimized:
        return _wrap(_to_gates(params, forget="if_"), rnn)
    checked = check_cell("lstm", exported_layer("lstm", params, FLAX))
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
    """Flatten the parameter tree of a Flax LSTM cell, and return a dict from paths, such as "hi/kernel", to arrays."""
    remedy = "give the parameters of a cell, such as nnx.to_pure_dict(nnx.state(cell))"
    require(isinstance(tree, Mapping), "parameter tree", kind_of(tree), remedy)
    leaves = {path: value for path, value in _leaves(tree).items() if "rngs" not in path.split("/")}
    for wrapper in ("params/", "cell/"):
        if leaves and all(path.startswith(wrapper) for path in leaves):
            leaves = {path.removeprefix(wrapper): value for path, value in leaves.items()}
    return leaves


def _gate_layers(forget: str) -> tuple[list[str], list[str]]:
    return [forget if gate == "f" else f"i{gate}" for gate in GATE_NAMES], [f"h{gate}" for gate in GATE_NAMES]


def _from_gates(leaves: Mapping[str, object], forget: str) -> Arrays:
    input_layers, state_layers = _gate_layers(forget)
    names = [f"{layer}/kernel" for layer in input_layers + state_layers] + [f"{layer}/bias" for layer in state_layers]
    check_keys("Flax LSTM cell", leaves, names)
    units = shaped("hi/kernel", leaves["hi/kernel"], "H", "H").shape[1]
    features = shaped("ii/kernel", leaves["ii/kernel"], "E", units).shape[0]

    def joined(layers: list[str], name: str, *shape: int) -> np.ndarray:
        return np.concatenate([shaped(f"{layer}/{name}", leaves[f"{layer}/{name}"], *shape) for layer in layers], axis=-1)

    kernels = {"kernel": joined(input_layers, "kernel", features, units), "recurrent_kernel": joined(state_layers, "kernel", units, units)}
    return cell_arrays("lstm", kernels | {"bias": joined(state_layers, "bias", units)})


def _to_gates(params: Any, forget: str) -> dict[str, Any]:
    checked = check_cell("lstm", exported_layer("lstm", params, FLAX))
    input_layers, state_layers = _gate_layers(forget)
    kernels, recurrent, biases = (
        [np.ascontiguousarray(part) for part in np.split(checked[name], len(GATE_NAMES), axis=-1)]
        for name in ("kernel", "recurrent_kernel", "bias")
    )
    cell = {layer: {"kernel": kernel} for layer, kernel in zip(input_layers, kernels, strict=True)}
    return cell | {layer: {"kernel": kernel, "bias": bias} for layer, kernel, bias in zip(state_layers, recurrent, biases, strict=True)}
