"""Conversion of weights between lstm_jax and the state dicts of PyTorch's recurrent
layers and of models that consist of them.

The docstring of the package `lstm_jax.convert` describes the layout of weights in
lstm_jax. H is the number of units, E the number of input features and G the number of
gates. Layer k of a PyTorch module has the transposed kernel weight_ih_l[k] (GH, E), the
transposed recurrent kernel weight_hh_l[k] (GH, H) and, unless it was created with
`bias=False`, two biases (GH,), bias_ih_l[k] and bias_hh_l[k]. With `proj_size=P` it
also has weight_hr_l[k] (P, H), the transposed array "projection"; weight_hh_l[k] is
then (4H, P), and the layer above reads P outputs of each direction. The names of the
backward direction end in _reverse, and those of a PyTorch cell have no _l[k]. See
torch/nn/modules/rnn.py.

The gates of an LSTM have the same order in both. Those of a GRU have the order r, u, n
in PyTorch. The two biases of a GRU are its bias and its recurrent_bias. The other cells
have one bias here, the sum of both; conversion to PyTorch stores it in bias_ih, and
zeros in bias_hh.

The head of a bidirectional sentiment model of lstm_jax reads the final state h of each
direction. A PyTorch model with the same result must compute its head from cat(h_n[-2],
h_n[-1]), not from output[:, -1].
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lstm_jax.base.errors import parsing, require
from lstm_jax.base.reading import open_input
from lstm_jax.base.types import AnyPath
from lstm_jax.convert.arrays import (
    CHARACTER,
    DIRECTIONS,
    LAYOUTS,
    PROJECTED,
    SENTIMENT,
    TORCH,
    Arrays,
    Kind,
    Layer,
    Layout,
    Params,
    check_cell,
    check_keys,
    check_stack,
    checked,
    exported,
    exported_layer,
    halves,
    join_model,
    reordered,
    split_model,
)

StateDict = Mapping[str, Any]
NAMES = {
    "kernel": "weight_ih",
    "recurrent_kernel": "weight_hh",
    "bias": "bias_ih",
    "recurrent_bias": "bias_hh",
    "projection": "weight_hr",
}
"""Dict from the name of each array in lstm_jax to the beginning of its name in a state
dict, in PyTorch's order."""
STATE_DICT = "give module.state_dict() of a PyTorch module"


def layers_from_torch(
    cell: str, state_dict: StateDict, prefix: str = ""
) -> list[Layer]:
    """Convert the weights of a PyTorch nn.LSTM, nn.GRU or nn.RNN to a list of weights
    of layers of lstm_jax, lowest layer first.

    Args:
        cell: "lstm" for an nn.LSTM, "gru" for an nn.GRU, "simple_rnn" for an nn.RNN
            (with tanh or with relu), or "lstm_projected" for an nn.LSTM with
            `proj_size`.
        state_dict: state dict of the module, or of a model that contains it. Its values
            are arrays or tensors. The state dict of an nn.LSTMCell, nn.GRUCell or
            nn.RNNCell becomes a list of one layer.
        prefix: prefix of the names of the module's arrays in the state dict, for
            example "rnn.". Names with another prefix are ignored.

    Returns:
        a list with the weights of each layer; see `lstm_jax.convert`. If the module has
        no biases, the biases are zeros.

    Raises:
        InputError: if `cell` is none of these names, if no name begins with `prefix`,
            or if an array is missing, has a wrong shape, or does not belong to such a
            module.
    """
    check_cell(cell, "PyTorch")
    check_keys("state dict", state_dict, remedy=STATE_DICT)
    left = {
        name.removeprefix(prefix): array
        for name, array in state_dict.items()
        if name.startswith(prefix)
    }
    layers = []
    for end in (
        [""] if "weight_hh" in left else [f"_l{number}" for number in range(len(left))]
    ):
        pair = {}
        for direction, suffix in zip(DIRECTIONS, (end, f"{end}_reverse"), strict=True):
            if given := {
                name: left.pop(name + suffix)
                for name in NAMES.values()
                if name + suffix in left
            }:
                pair[direction] = _from_direction(cell, given, f"{prefix}*{suffix}: ")
        if not pair:
            break
        layers.append(pair["forward"] if list(pair) == ["forward"] else pair)
    module = f"nn.{LAYOUTS[cell].module}"
    remedy = (
        f"give the arrays of all layers of one {module}, _l0, _l1, ..., and its "
        "prefix in a bigger model ('rnn.')"
    )
    require(
        not left,
        f"name in the state dict of an {module}",
        prefix + next(iter(left), ""),
        remedy,
    )
    require(layers, f"{module} in the state dict", f"none under {prefix!r}", remedy)
    return _uniform(cell, layers)


def layers_to_torch(cell: str, layers, prefix: str = "", bias: bool = True) -> Arrays:
    """Convert layers of lstm_jax to the state dict of a PyTorch nn.LSTM, nn.GRU or
    nn.RNN with the same number of layers.

    This function is the inverse of `layers_from_torch`. The values of the state dict
    are NumPy arrays. The bias of an LSTM or a simple RNN becomes bias_ih, and bias_hh
    becomes zeros. A simple RNN with relu needs an nn.RNN with `nonlinearity="relu"`.

    Args:
        cell: one of the names that `layers_from_torch` accepts.
        layers: a `RecurrentStack`, a `Recurrent` or `Bidirectional` layer, or a list of
            layers, lowest layer first. An entry of the list may also be the weights of
            a layer. Weights do not show the options of their layer, such as
            `activation` and `go_backwards`. These options are then not checked.
        prefix: prefix of the names in the state dict, for example "rnn.".
        bias: whether the PyTorch module has biases. If false, all biases of the layers
            must be zero.

    Raises:
        InputError: if the layers have another cell, a key or shape is wrong, the layers
            differ in their number of units, outputs or directions, or a bias is not
            zero and `bias` is false. Also if PyTorch cannot express an option of a
            layer or stack: other activations, `go_backwards`, zoneout, a learned
            initial state, a `merge_mode` other than "concat", or residual connections.
    """
    state = {}
    for number, layer in enumerate(_uniform(cell, exported(cell, layers, TORCH))):
        for direction, arrays in halves(layer).items():
            end = f"_l{number}_reverse" if direction == "backward" else f"_l{number}"
            state |= cell_to_torch(cell, arrays, prefix, end, bias)
    return state


def cell_from_torch(cell: str, state_dict: StateDict, prefix: str = "") -> Arrays:
    """Convert the weights of a PyTorch nn.LSTMCell, nn.GRUCell or nn.RNNCell to the
    dict of arrays that lstm_jax uses.

    An nn.LSTM, nn.GRU or nn.RNN with one layer and one direction counts as a cell. The
    arguments are those of `layers_from_torch`.

    Raises:
        InputError: if there is more than one layer or direction, or if
            `layers_from_torch` does not accept the arguments.
    """
    layers = layers_from_torch(cell, state_dict, prefix)
    directions = len(halves(layers[0]))
    shown = f"{len(layers)} layers, {directions} directions"
    require(
        len(layers) == directions == 1,
        "state dict",
        shown,
        "convert it with layers_from_torch",
    )
    return layers[0]


def cell_to_torch(
    cell: str, params, prefix: str = "", suffix: str = "_l0", bias: bool = True
) -> Arrays:
    """Convert the weights of a cell to the state dict of a PyTorch cell, or of an
    nn.LSTM, nn.GRU or nn.RNN with one layer and direction.

    This function is the inverse of `cell_from_torch`; see `layers_to_torch`.

    Args:
        cell: one of the names that `layers_from_torch` accepts.
        params: a `Recurrent` layer, or the weights of a cell.
        prefix: prefix of the names in the state dict, for example "cell.".
        suffix: end of the names: "_l0" for an nn.LSTM, nn.GRU or nn.RNN, and "" for an
            nn.LSTMCell, nn.GRUCell or nn.RNNCell.
        bias: whether the PyTorch module has biases. If false, the biases in `params`
            must be zero.
    """
    arrays = reordered("PyTorch", cell, exported_layer(cell, params, TORCH))
    arrays.setdefault("recurrent_bias", np.zeros_like(arrays["bias"]))
    filled = [NAMES[name] for name in ("bias", "recurrent_bias") if arrays[name].any()]
    remedy = "a PyTorch module without biases computes something else: use bias=True"
    require(bias or not filled, f"{' and '.join(filled)}{suffix}", "not zero", remedy)
    written = [
        name for name in NAMES if name in arrays and (bias or "bias" not in name)
    ]
    return {
        f"{prefix}{NAMES[name]}{suffix}": np.ascontiguousarray(arrays[name].T)
        for name in written
    }


def _from_direction(cell: str, given: Mapping[str, object], where: str) -> Arrays:
    own, remedy = LAYOUTS[cell], ""
    # PyTorch's cells have both biases, or none
    shapes = {**own.shapes, "recurrent_bias": own.shapes["bias"]}
    turned = {
        theirs: ", ".join(reversed(shapes[name].split(", ")))
        for name, theirs in NAMES.items()
        if name in shapes
    }
    layout = own._replace(shapes=turned)
    if cell == "lstm" and "weight_hr" in given:
        remedy = f"convert such an nn.LSTM by layers_from_torch({PROJECTED!r}, ...)"
    for name, array in given.items():
        require(array is not None, f"{where}{name}", None, "give an array")
    if not any("bias" in name for name in given):
        given = {**given, "bias_ih": None, "bias_hh": None}
    found = checked(layout, given, where, remedy=remedy)
    arrays = {
        name: np.ascontiguousarray(found[theirs].T)
        for name, theirs in NAMES.items()
        if theirs in found
    }
    if "recurrent_bias" not in own.shapes:
        arrays["bias"] = arrays["bias"] + arrays.pop("recurrent_bias")
    return reordered("PyTorch", cell, arrays)


def _uniform(cell: str, layers: list) -> list[Layer]:
    found = check_stack(layers, cell)
    shapes = {
        str([half["recurrent_kernel"].shape for half in halves(layer).values()])
        for layer in found
    }
    remedy = (
        f"an nn.{LAYOUTS[cell].module} has the same in all layers: give all "
        "arrays, or convert the layers one by one"
    )
    require(
        len(shapes) == 1,
        "shapes of the layers' recurrent kernels",
        ", ".join(sorted(shapes)),
        remedy,
    )
    return found


def lstm_from_torch(state_dict: StateDict, prefix: str = "") -> list[Layer]:
    """Convert the weights of a PyTorch nn.LSTM to those of LSTM layers of lstm_jax, as
    `layers_from_torch("lstm", ...)` does.
    """
    return layers_from_torch("lstm", state_dict, prefix)


def lstm_to_torch(layers, prefix: str = "") -> Arrays:
    """Convert LSTM layers of lstm_jax to the state dict of a PyTorch nn.LSTM, as
    `layers_to_torch("lstm", ...)` does.
    """
    return layers_to_torch("lstm", layers, prefix)


def sentiment_from_torch(
    state_dict: StateDict,
    embedding: str = "embedding",
    lstm: str = "lstm",
    head: str = "fc",
) -> Arrays:
    """Convert the weights of a PyTorch sentiment model to the flat dict of weights that
    `lstm_jax.convert` describes.

    The PyTorch model is a module with an nn.Embedding, an nn.LSTM and an nn.Linear(H,
    1), or nn.Linear(2H, 1) if the nn.LSTM is bidirectional. H is the number of units.
    If the nn.Linear has no bias, "head/bias" in the result is zeros.

    Args:
        state_dict: state dict of the module. Its values are arrays or tensors.
        embedding: name of the module's attribute that is the nn.Embedding.
        lstm: name of the attribute that is the nn.LSTM.
        head: name of the attribute that is the nn.Linear.

    Raises:
        InputError: if `state_dict` is not a dict with strings as its keys, or if an
            array is missing, has a wrong shape, or belongs to none of these three
            submodules.
    """
    return _from_state(state_dict, (embedding, lstm, head), SENTIMENT)


def sentiment_to_torch(
    params: Params, embedding: str = "embedding", lstm: str = "lstm", head: str = "fc"
) -> Arrays:
    """Convert a sentiment model of lstm_jax to the state dict of a PyTorch model, with
    NumPy arrays as its values.

    This function is the inverse of `sentiment_from_torch`, which describes the model
    and the arguments.
    """
    return _to_state(params, embedding, lstm, head, SENTIMENT)


def generation_from_torch(
    state_dict: StateDict,
    embedding: str = "embedding",
    lstm: str = "lstm",
    head: str = "fc",
) -> Arrays:
    """Convert the weights of a PyTorch character model to a flat dict of weights of
    lstm_jax.

    The PyTorch model is a module with an optional nn.Embedding, an nn.LSTM and an
    nn.Linear(H, V), where H is the number of units and V the number of characters.
    Without an embedding the input is one-hot, and the nn.LSTM must have V input
    features. The arguments are those of `sentiment_from_torch`. In PyTorch's example
    word_language_model, the attributes are "encoder", "rnn" and "decoder".

    If the embedding and the nn.Linear share their weights, a PyTorch state dict
    contains these weights under two names, and the result contains both
    "embedding/embedding" and "head/kernel". To tie the weights in lstm_jax too, remove
    "head/kernel" from the result.

    Raises:
        InputError: as `sentiment_from_torch` does, and if the nn.LSTM is bidirectional.
    """
    return _from_state(state_dict, (embedding, lstm, head), CHARACTER)


def generation_to_torch(
    params: Params, embedding: str = "embedding", lstm: str = "lstm", head: str = "fc"
) -> Arrays:
    """Convert a character model of lstm_jax to the state dict of a PyTorch model, with
    NumPy arrays as its values.

    This function is the inverse of `generation_from_torch`. If the weights are tied,
    the state dict contains them twice, for the nn.Embedding and for the nn.Linear.
    """
    return _to_state(params, embedding, lstm, head, CHARACTER)


def _from_state(
    state_dict: StateDict, attributes: tuple[str, str, str], kind: Kind
) -> Arrays:
    check_keys("state dict", state_dict, remedy=STATE_DICT)
    embedding, lstm, head = parts = tuple(f"{part}." for part in attributes)
    for name in state_dict:
        require(
            name.startswith(parts),
            "name in the state dict",
            name,
            f"expected only {'*, '.join(parts)}*; name the attributes",
        )
    embedded = kind == SENTIMENT or f"{embedding}weight" in state_dict
    dense = plain_from_torch("dense", state_dict, head)
    table = plain_from_torch("embedding", state_dict, embedding) if embedded else None
    return join_model(table, lstm_from_torch(state_dict, lstm), dense, kind)


PLAIN = {"dense": {"weight": "out, in", "bias": "out"}, "embedding": {"weight": "V, E"}}
"""Dict from a kind of layer to the shapes of its arrays in PyTorch."""


def plain_from_torch(kind: str, state_dict: StateDict, prefix: str) -> Arrays:
    """Convert the weights of an nn.Linear (`kind` "dense") or nn.Embedding
    ("embedding") in a state dict to those of lstm_jax.
    """
    layout = Layout(f"an nn.{LAYOUTS[kind].module}", PLAIN[kind])
    given = {
        name.removeprefix(prefix): array
        for name, array in state_dict.items()
        if name.startswith(prefix)
    }
    if kind == "dense" and "weight" in given:
        given.setdefault("bias", None)
    remedy = (
        f"name {layout.title} in the bigger model: a prefix ('fc.'), or "
        "embedding=, lstm=, head="
    )
    weight, *bias = checked(layout, given, prefix, remedy=remedy).values()
    return (
        {"kernel": np.ascontiguousarray(weight.T), "bias": bias[0]}
        if kind == "dense"
        else {"embedding": weight}
    )


def _to_state(
    params: Params, embedding: str, lstm: str, head: str, kind: Kind
) -> Arrays:
    table, layers, dense = split_model(params, kind)
    return {
        **({} if table is None else {f"{embedding}.weight": table["embedding"]}),
        **lstm_to_torch(layers, f"{lstm}."),
        f"{head}.weight": np.ascontiguousarray(dense["kernel"].T),
        f"{head}.bias": dense["bias"],
    }


def read_torch_file(path: AnyPath) -> Arrays:
    """Read a `.safetensors` file and return a dict from the name of each array to the
    array.

    A `.pt` file is not accepted, because it is a pickle, which can run code when it is
    loaded.

    Raises:
        InputError: if the name of the file does not end in .safetensors, or the file is
            missing or damaged.
    """
    import ml_dtypes  # noqa: F401 - defines the dtype bfloat16, with which safetensors reads arrays of it
    from safetensors.numpy import load_file

    remedy = (
        "save the weights with safetensors.torch.save_file(model.state_dict(), "
        "'model.safetensors')"
    )
    require(
        Path(path).suffix == ".safetensors", "PyTorch weights", os.fspath(path), remedy
    )
    subject = f"PyTorch weights {os.fspath(path)}"
    with (
        open_input(path, subject),
        parsing(subject, "the file is damaged or foreign; " + remedy),
    ):
        return load_file(path)
