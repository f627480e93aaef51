"""Conversion of the weights of LSTM cells between lstm_jax and Flax (Linen and NNX).

The docstring of the package `lstm_jax.convert` describes the layout of weights in
lstm_jax.

Three Flax cells have two dense layers for each gate: LSTMCell and OptimizedLSTMCell of
Linen, and LSTMCell of NNX. The dense layers ii, if, ig and io act on the input, and
have a kernel (E, H) and no bias. The dense layers hi, hf, hg and ho act on the state h,
and have a kernel (H, H) and a bias (H,). NNX spells `if` as `if_`.

OptimizedLSTMCell of NNX has only two dense layers, whose columns belong to the gates i,
f, g, o, in this order: dense_i with a kernel (E, 4H), and dense_h with a kernel (H, 4H)
and a bias (4H,). All four cells are defined in flax/linen/recurrent.py and
flax/nnx/nn/recurrent.py (Flax 0.12).

The functions of this module accept a parameter tree as a nested dict or as a flat dict.
The keys of a flat dict are tuples such as ("hi", "kernel") or strings such as
"hi/kernel". A tree may have the form {"params": tree}, and the tree of an RNN has the
form {"cell": tree of the cell}. The state of a Flax cell is the tuple (c, h), while the
state in lstm_jax is LSTMState(h, c).
"""

from collections.abc import Mapping

import numpy as np

from lstm_jax.base.errors import check_class
from lstm_jax.base.types import Values
from lstm_jax.convert.arrays import (
    FLAX,
    LAYOUTS,
    Arrays,
    Layout,
    checked,
    exported_layer,
)

LINEN = {
    "kernel": [f"i{gate}/kernel" for gate in "ifgo"],
    "recurrent_kernel": [f"h{gate}/kernel" for gate in "ifgo"],
    "bias": [f"h{gate}/bias" for gate in "ifgo"],
}
NNX = LINEN | {"kernel": [path.replace("if/", "if_/") for path in LINEN["kernel"]]}
OPTIMIZED = {
    "kernel": ["dense_i/kernel"],
    "recurrent_kernel": ["dense_h/kernel"],
    "bias": ["dense_h/bias"],
}
"""Dicts from the name of an array of an LSTM in lstm_jax to the paths of its blocks of
columns in a Flax cell."""


def lstm_from_linen(tree: Mapping) -> Arrays:
    """Convert the parameters of a Linen LSTMCell or OptimizedLSTMCell to the LSTM
    weights of lstm_jax.

    Args:
        tree: the parameter tree of the cell, or of an nn.RNN that contains the cell.
    """
    return _joined(_leaves(tree), LINEN)


def lstm_to_linen(params, rnn: bool = False) -> Values:
    """Convert the LSTM weights of lstm_jax to the parameters of a Linen LSTMCell or
    OptimizedLSTMCell.

    The method `apply` of the Linen module expects the result as {"params": result}.

    Args:
        params: an `LSTM` layer, or its weights. The direction of a layer
            (`go_backwards`, `keep_order`) and its `dtype` are not checked.
        rnn: true for an nn.RNN that contains the cell: the result is then {"cell":
            parameters of the cell}. False for the cell itself.

    Raises:
        InputError: if the keys or shapes of `params` are not those of an LSTM, or if
            `params` is a layer with activations other than tanh and sigmoid, with
            zoneout or with a learned initial state.
    """
    return _split(params, LINEN, rnn)


def lstm_from_nnx(tree: Mapping) -> Arrays:
    """Convert the parameters of an nnx.LSTMCell or nnx.OptimizedLSTMCell to the LSTM
    weights of lstm_jax.

    Args:
        tree: `nnx.to_pure_dict(nnx.state(module))`, where `module` is the cell or an
            nnx.RNN that contains the cell. The state of random number generators
            (`rngs`) in the tree is ignored.
    """
    leaves = _leaves(tree)
    return _joined(leaves, OPTIMIZED if "dense_i/kernel" in leaves else NNX)


def lstm_to_nnx(params, optimized: bool = True, rnn: bool = False) -> Values:
    """Convert the LSTM weights of lstm_jax to the parameters of an NNX cell, as a pure
    dict for `nnx.replace_by_pure_dict`.

    The arguments `params` and `rnn` and the errors are those of `lstm_to_linen`. The
    result is for an nnx.OptimizedLSTMCell or, if `optimized` is false, for an
    nnx.LSTMCell.
    """
    return _split(params, OPTIMIZED if optimized else NNX, rnn)


def _leaves(tree, above: str = "") -> dict[str, object]:
    """Return a dict from the path of each array of a Flax LSTM cell, such as
    "hi/kernel", to the array.
    """
    remedy = "give the parameters of a cell, such as nnx.to_pure_dict(nnx.state(cell))"
    check_class("parameter tree", tree, Mapping, remedy)
    found = {}
    for key, value in tree.items():
        path = above + ("/".join(map(str, key)) if isinstance(key, tuple) else str(key))
        if isinstance(value, Mapping):
            found |= _leaves(value, f"{path}/")
        elif "rngs" not in path.split("/"):
            found[path.removeprefix("params/").removeprefix("cell/")] = value
    return found


def _joined(leaves: Mapping[str, object], names: Mapping[str, list[str]]) -> Arrays:
    # one gate has the shapes of a simple RNN
    shapes = LAYOUTS["lstm" if names is OPTIMIZED else "simple_rnn"].shapes
    found = checked(
        Layout(
            "a Flax LSTM cell",
            {path: shapes[name] for name, paths in names.items() for path in paths},
        ),
        leaves,
    )
    return {
        name: np.concatenate([found[path] for path in paths], axis=-1)
        for name, paths in names.items()
    }


def _split(params, names: Mapping[str, list[str]], rnn: bool) -> Values:
    arrays = exported_layer("lstm", params, FLAX)
    cell = {}
    for name, paths in names.items():
        for path, block in zip(
            paths, np.split(arrays[name], len(paths), axis=-1), strict=True
        ):
            layer, part = path.split("/")
            cell.setdefault(layer, {})[part] = np.ascontiguousarray(block)
    return {"cell": cell} if rnn else cell
