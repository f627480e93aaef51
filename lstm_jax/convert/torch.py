"""Conversion of weights between lstm_jax and the state dicts of PyTorch's recurrent layers and of models that consist of them.

The docstring of the package `lstm_jax.convert` describes the layout of weights in lstm_jax. H is the number of units, E the number of input
features and G the number of gates. Layer k of a PyTorch module has the transposed kernel weight_ih_l[k] (GH, E), the transposed recurrent
kernel weight_hh_l[k] (GH, H) and, unless it was created with `bias=False`, two biases (GH,), bias_ih_l[k] and bias_hh_l[k]. With
`proj_size=P` it also has weight_hr_l[k] (P, H), the transposed array "projection"; weight_hh_l[k] is then (4H, P), and the layer above
reads P outputs of each direction. The names of the backward direction end in _reverse, and those of a PyTorch cell have no _l[k]. See
torch/nn/modules/rnn.py.

The gates of an LSTM have the same order in both. Those of a GRU have the order r, u, n in PyTorch. The two biases of a GRU are its bias and
its recurrent_bias. The other cells have one bias here, the sum of both; conversion to PyTorch stores it in bias_ih, and zeros in bias_hh.

The head of a bidirectional sentiment model of lstm_jax reads the final state h of each direction. A PyTorch model with the same result must
compute its head from cat(h_n[-2], h_n[-1]), not from output[:, -1].
"""

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lstm_jax.convert.arrays import (
    CHARACTER,
    DIRECTIONS,
    LAYOUTS,
    PROJECTED,
    PROJECTION,
    SENTIMENT,
    Arrays,
    Kind,
    Layer,
    cell_arrays,
    check_cell,
    check_keys,
    check_named,
    check_stack,
    is_bidirectional,
    join_model,
    reordered,
    shaped,
    split_model,
)
from lstm_jax.convert.exporting import TORCH, exported, exported_layer
from lstm_jax.errors import InputError, require
from lstm_jax.files.reading import open_input, parsing

PARAMETER = re.compile(r"(weight_ih|weight_hh|weight_hr|bias_ih|bias_hh)(?:_l(0|[1-9]\d*)(_reverse)?)?")
MATRICES = {"weight_ih": "kernel", "weight_hh": "recurrent_kernel", "weight_hr": PROJECTION}
SUFFIXES: dict[str, str] = {"forward": "", "backward": "_reverse"}


class Peer(NamedTuple):
    """PyTorch module that corresponds to a cell of lstm_jax.

    Attributes:
        module: name of the module, such as "nn.LSTM".
        order: for each gate in the order of lstm_jax, the position of the gate in PyTorch's order. Every order here is its own inverse, so
            the same tuple also serves the conversion to PyTorch.
    """

    module: str
    order: tuple[int, ...]


PEERS = {
    "lstm": Peer("nn.LSTM", (0, 1, 2, 3)),
    "gru": Peer("nn.GRU", (1, 0, 2)),
    "simple_rnn": Peer("nn.RNN", (0,)),
    PROJECTED: Peer("nn.LSTM", (0, 1, 2, 3)),
}


def check_state_dict(state_dict: Any) -> None:
    """Check that a value is a state dict."""
    check_named("state dict", state_dict, "give module.state_dict() of a PyTorch module")


def find_torch_cell(state_dict: Mapping[str, Any], prefix: str = "") -> str:
    """Infer the cell of a PyTorch module from the names and shapes of its arrays, and return the name of the cell, a key of `PEERS`."""
    if any(name.startswith(f"{prefix}weight_hr_l") for name in state_dict):
        return PROJECTED
    found = [name for name in state_dict if name.startswith(f"{prefix}weight_hh")]
    remedy = "give the state dict of an LSTM, a GRU, an RNN or a cell, and its prefix if it is part of a bigger model ('rnn.')"
    require(bool(found), f"{prefix}weight_hh in the state dict", "missing", remedy)
    shape = np.shape(state_dict[found[0]])
    for cell in ("lstm", "gru", "simple_rnn"):
        if len(shape) == 2 and shape[0] == LAYOUTS[cell].gates * shape[1] > 0:
            return cell
    raise InputError(found[0], f"shape {tuple(shape)}", "expected (4H, H) of an LSTM, (3H, H) of a GRU or (H, H) of an RNN")


def layers_from_torch(cell: str, state_dict: Mapping[str, Any], prefix: str = "") -> list[Layer]:
    """Convert the weights of a PyTorch nn.LSTM, nn.GRU or nn.RNN to a list of weights of layers of lstm_jax, lowest layer first.

    E is the number of input features, H the number of units, G the number of gates, and P the number of outputs of a recurrent projection.

    Args:
        cell: "lstm" for an nn.LSTM, "gru" for an nn.GRU, "simple_rnn" for an nn.RNN (with tanh or with relu), or "lstm_projected" for an
            nn.LSTM with `proj_size`.
        state_dict: state dict of the module, or of a model that contains it. Its values are arrays or tensors. The state dict of an
            nn.LSTMCell, nn.GRUCell or nn.RNNCell becomes a list of one layer.
        prefix: prefix of the names of the module's arrays in the state dict, for example "rnn.". Names with another prefix are ignored.

    Returns:
        a list with a dict for each layer: {"kernel": (E, GH), "recurrent_kernel": (H, GH), "bias": (GH,)}. For "gru" the dict also has
        "recurrent_bias" (3H,). For "lstm_projected" it also has "projection" (H, P), and the recurrent kernel is (P, 4H). If the module is
        bidirectional, the entry of a layer is {"forward": dict, "backward": dict}. If the module has no biases, the biases are zeros.

    Raises:
        InputError: in one of these cases.

            - `cell` is none of the four names above.
            - `state_dict` is not a dict with strings as its keys.
            - An array is missing, or a shape is wrong.
            - No name in the state dict begins with `prefix`.
            - A name that begins with `prefix` does not belong to an array of such a module.
            - The module has a projection, and `cell` is not "lstm_projected".
    """
    module = _peer(cell).module
    check_state_dict(state_dict)
    found = _grouped(state_dict, prefix, module)
    require(bool(found), f"{module} in the state dict", f"none under {prefix!r}", f"give the prefix of the {module} ('rnn.')")
    numbers = sorted({number for number, _ in found if number is not None})
    if numbers:
        fits = numbers == list(range(len(numbers))) and (None, "forward") not in found
        require(fits, f"{module} layers", numbers, "give the arrays of all layers, _l0, _l1, ...")
    layers: list[Layer] = []
    for number in numbers or [None]:
        pair = {
            direction: _from_direction(cell, found[number, direction], f"{prefix}*{_end(number, direction)}: ")
            for direction in DIRECTIONS
            if (number, direction) in found
        }
        layers.append(pair["forward"] if list(pair) == ["forward"] else pair)
    checked = check_stack(layers, prefix, cell)
    _check_uniform(checked, cell)
    return checked


def layers_to_torch(cell: str, layers: Any, prefix: str = "", bias: bool = True) -> dict[str, np.ndarray]:
    """Convert layers of lstm_jax to the state dict of a PyTorch nn.LSTM, nn.GRU or nn.RNN with the same number of layers.

    This function is the inverse of `layers_from_torch`. The values of the state dict are NumPy arrays. The bias of an LSTM or a simple RNN
    becomes bias_ih, and bias_hh becomes zeros. A simple RNN with relu needs an nn.RNN with `nonlinearity="relu"`.

    Args:
        cell: "lstm", "gru" or "simple_rnn", for an nn.LSTM, nn.GRU or nn.RNN, or "lstm_projected" for an nn.LSTM with `proj_size`.
        layers: a `RecurrentStack`, a `Recurrent` or `Bidirectional` layer, or a list of layers, lowest layer first. An entry of the list
            may also be the weights of a layer, in the form that `layers_from_torch` returns. Weights do not show the options of their
            layer, such as `activation` and `go_backwards`. These options are then not checked.
        prefix: prefix of the names in the state dict, for example "rnn.".
        bias: whether the PyTorch module has biases. If false, all biases of the layers must be zero.

    Raises:
        InputError: in one of these cases.

            - `cell` is none of the four names above.
            - A layer has another cell than `cell`.
            - A key or a shape is wrong.
            - The layers differ in the number of units, outputs or directions.
            - A bias is not zero, and `bias` is false.
            - A layer has an option that PyTorch cannot express: other activations, `go_backwards`, zoneout, a learned initial state, or a
              `merge_mode` other than "concat".
            - The stack has residual connections.
    """
    _peer(cell)
    checked = check_stack(exported(cell, layers, TORCH), cell=cell)
    _check_uniform(checked, cell)
    state: dict[str, np.ndarray] = {}
    for number, layer in enumerate(checked):
        directions = layer if is_bidirectional(layer) else {"forward": layer}
        for direction, arrays in directions.items():
            state |= cell_to_torch(cell, arrays, prefix, _end(number, direction), bias)
    return state


def cell_from_torch(cell: str, state_dict: Mapping[str, Any], prefix: str = "") -> Arrays:
    """Convert the weights of a PyTorch nn.LSTMCell, nn.GRUCell or nn.RNNCell to the dict of arrays that lstm_jax uses.

    Args:
        cell: "lstm", "gru" or "simple_rnn", or "lstm_projected" for an nn.LSTM with `proj_size`.
        state_dict: state dict of the cell, or of a model that contains the cell. An nn.LSTM, nn.GRU or nn.RNN with one layer and one
            direction counts as a cell. The values are arrays or tensors.
        prefix: prefix of the names of the cell's arrays in the state dict, for example "cell.".

    Returns:
        a dict with the keys "kernel", "recurrent_kernel" and "bias". If `cell` is "gru", it also has the key "recurrent_bias", and if
        `cell` is "lstm_projected", the key "projection".

    Raises:
        InputError: if there is more than one layer or direction, or if `layers_from_torch` does not accept the arguments.
    """
    layers = layers_from_torch(cell, state_dict, prefix)
    found = f"{len(layers)} layers, {2 if is_bidirectional(layers[0]) else 1} directions"
    require(len(layers) == 1 and not is_bidirectional(layers[0]), "state dict", found, "convert it with layers_from_torch")
    return layers[0]


def cell_to_torch(cell: str, params: Any, prefix: str = "", suffix: str = "_l0", bias: bool = True) -> dict[str, np.ndarray]:
    """Convert the weights of a cell to a state dict of PyTorch.

    The state dict is that of a PyTorch cell, or of an nn.LSTM, nn.GRU or nn.RNN with one layer and one direction. This function is the
    inverse of `cell_from_torch`. The values of the state dict are NumPy arrays. The bias of an LSTM or a simple RNN becomes bias_ih, and
    bias_hh becomes zeros.

    Args:
        cell: "lstm", "gru" or "simple_rnn", or "lstm_projected" for an nn.LSTM with `proj_size`.
        params: a `Recurrent` layer, or a dict with the keys that `cell_from_torch` returns. The options of the layer to which a dict
            belongs are not known, and are therefore not checked.
        prefix: prefix of the names in the state dict, for example "cell.".
        suffix: end of the names: "_l0" for an nn.LSTM, nn.GRU or nn.RNN, and "" for an nn.LSTMCell, nn.GRUCell or nn.RNNCell.
        bias: whether the PyTorch module has biases. If false, the biases in `params` must be zero.

    Raises:
        InputError: in one of these cases.

            - `cell` is none of the four names above.
            - `params` is a layer whose cell is not `cell`, or that has an option that PyTorch cannot express (see `layers_to_torch`).
            - `params` is a dict with wrong keys or shapes.
            - A bias is not zero, and `bias` is false.
    """
    order = _peer(cell).order
    arrays = reordered(order, check_cell(cell, exported_layer(cell, params, TORCH)))
    state = {theirs: np.ascontiguousarray(arrays[ours].T) for theirs, ours in MATRICES.items() if ours in arrays}
    biases = {"bias_ih": arrays["bias"], "bias_hh": arrays.get("recurrent_bias", np.zeros_like(arrays["bias"]))}
    if bias:
        state |= biases
    else:
        filled = [name for name, array in biases.items() if np.any(array)]
        remedy = "a PyTorch module without biases computes something else: use bias=True"
        require(not filled, f"{' and '.join(filled)}{suffix}", "not zero", remedy)
    return {f"{prefix}{name}{suffix}": array for name, array in state.items()}


def _peer(cell: str) -> Peer:
    require(isinstance(cell, str) and cell in PEERS, "cell", cell, f"PyTorch has {', '.join(PEERS)}")
    return PEERS[cell]


def _end(number: int | None, direction: str) -> str:
    return "" if number is None else f"_l{number}{SUFFIXES[direction]}"


def _grouped(state_dict: Mapping[str, Any], prefix: str, module: str) -> dict[tuple[int | None, str], dict[str, object]]:
    """Group the arrays of a PyTorch module by layer and direction."""
    found: dict[tuple[int | None, str], dict[str, object]] = {}
    for name, value in state_dict.items():
        if not name.startswith(prefix):
            continue
        match = PARAMETER.fullmatch(name, len(prefix))
        if match is None:
            remedy = f"give the prefix of the {module} in the bigger model ('rnn.')"
            raise InputError(f"name in the state dict of an {module}", name, remedy)
        kind, number, reverse = match.groups()
        found.setdefault((None if number is None else int(number), DIRECTIONS[bool(reverse)]), {})[kind] = value
    return found


def _from_direction(cell: str, arrays: Mapping[str, object], where: str) -> Arrays:
    layout, order = LAYOUTS[cell], PEERS[cell].order
    unprojected = "weight_hr" not in arrays or cell == PROJECTED
    require(unprojected, f"{where}weight_hr", "a projection", f"convert such an nn.LSTM by layers_from_torch({PROJECTED!r}, ...)")
    has_bias = any(name.startswith("bias") for name in arrays)
    matrices = [theirs for theirs, ours in MATRICES.items() if ours in layout.names]
    check_keys(f"{where}arrays", arrays, (*matrices, *(("bias_ih", "bias_hh") if has_bias else ())))
    kernel = shaped(f"{where}weight_ih", arrays["weight_ih"], layout.columns, "E").T
    recurrent = shaped(f"{where}weight_hh", arrays["weight_hh"], layout.columns, layout.rows).T
    projection = {PROJECTION: shaped(f"{where}weight_hr", arrays["weight_hr"], "P", "H").T} if "weight_hr" in matrices else {}
    columns = recurrent.shape[1]
    first, second = (shaped(f"{where}{name}", arrays[name], columns) if has_bias else None for name in ("bias_ih", "bias_hh"))
    if "recurrent_bias" in layout.names:
        biases = {"bias": first, "recurrent_bias": second}
    else:
        biases = {"bias": None if first is None or second is None else first + second}
    ours = cell_arrays(cell, {"kernel": kernel, "recurrent_kernel": recurrent} | biases | projection, f"{where}transposed ")
    return reordered(order, ours)


def _check_uniform(layers: Sequence[Layer], cell: str) -> None:
    """Check that the layers agree in their numbers of units, outputs and directions. One PyTorch module can only hold such layers."""
    kinds = [(2, layer["forward"]) if is_bidirectional(layer) else (1, layer) for layer in layers]
    sizes = [arrays[PROJECTION].shape if cell == PROJECTED else arrays["recurrent_kernel"].shape[:1] for _, arrays in kinds]
    found = {" x ".join(map(str, (directions, *size))) for (directions, _), size in zip(kinds, sizes, strict=True)}
    remedy = f"an {PEERS[cell].module} has one of each in all layers: give all arrays, or convert the layers one by one"
    name = "layers' directions x units" + " x outputs" * (cell == PROJECTED)
    require(len(found) == 1, name, ", ".join(sorted(found)), remedy)


def lstm_from_torch(state_dict: Mapping[str, Any], prefix: str = "") -> list[Layer]:
    """Convert the weights of a PyTorch nn.LSTM to the weights of LSTM layers of lstm_jax, as `layers_from_torch("lstm", ...)` does.

    The result is a list with the weights of each layer, lowest layer first. The weights of a layer are a dict of arrays or, if the nn.LSTM
    is bidirectional, {"forward": dict, "backward": dict}.

    Args:
        state_dict: state dict of the nn.LSTM, or of a model that contains it.
        prefix: prefix of the names of the nn.LSTM's arrays in the state dict, for example "lstm.".

    Raises:
        InputError: if `layers_from_torch` does not accept the state dict.
    """
    return layers_from_torch("lstm", state_dict, prefix)


def lstm_to_torch(layers: Any, prefix: str = "") -> dict[str, np.ndarray]:
    """Convert LSTM layers of lstm_jax to the state dict of a PyTorch nn.LSTM, as `layers_to_torch("lstm", ...)` does.

    Args:
        layers: layers, a stack or weights, as `layers_to_torch` accepts them.
        prefix: prefix of the names in the state dict, for example "lstm.".

    Raises:
        InputError: if `layers_to_torch` does not accept the layers.
    """
    return layers_to_torch("lstm", layers, prefix)


def sentiment_from_torch(state_dict: Mapping[str, Any], embedding: str = "embedding", lstm: str = "lstm", head: str = "fc") -> Arrays:
    """Convert the weights of a PyTorch sentiment model to a flat dict of weights of lstm_jax.

    The PyTorch model is a module with an nn.Embedding, an nn.LSTM and an nn.Linear(H, 1), or nn.Linear(2H, 1) if the nn.LSTM is
    bidirectional. H is the number of units. If the nn.Linear has no bias, "head/bias" in the result is zeros.

    Args:
        state_dict: state dict of the module. Its values are arrays or tensors.
        embedding: name of the module's attribute that is the nn.Embedding.
        lstm: name of the attribute that is the nn.LSTM.
        head: name of the attribute that is the nn.Linear.

    Returns:
        a dict with keys such as "embedding/embedding", "recurrent/0/kernel" and "head/bias"; see `lstm_jax.convert`.

    Raises:
        InputError: if `state_dict` is not a dict with strings as its keys, or if an array is missing, has a wrong shape, or belongs to none
            of these three submodules.
    """
    return _from_state(state_dict, embedding, lstm, head, SENTIMENT)


def sentiment_to_torch(
    params: Mapping[str, Any], embedding: str = "embedding", lstm: str = "lstm", head: str = "fc"
) -> dict[str, np.ndarray]:
    """Convert a sentiment model of lstm_jax to the state dict of a PyTorch model. This function is the inverse of `sentiment_from_torch`.

    The values of the state dict are NumPy arrays.

    Args:
        params: a dict with keys such as "embedding/embedding", "recurrent/0/kernel" and "head/bias"; see `lstm_jax.convert`.
        embedding: name of the PyTorch module's attribute that is the nn.Embedding.
        lstm: name of the attribute that is the nn.LSTM.
        head: name of the attribute that is the nn.Linear.

    Raises:
        InputError: if a key or shape is wrong, or if not all layers have the same number of units and directions.
    """
    return _to_state(params, embedding, lstm, head, SENTIMENT)


def generation_from_torch(state_dict: Mapping[str, Any], embedding: str = "embedding", lstm: str = "lstm", head: str = "fc") -> Arrays:
    """Convert the weights of a PyTorch character model to a flat dict of weights of lstm_jax.

    The PyTorch model is a module with an optional nn.Embedding, an nn.LSTM and an nn.Linear(H, V), where H is the number of units and V the
    number of characters. Without an embedding the input is one-hot, and the nn.LSTM must have V input features. If the nn.Linear has no
    bias, "head/bias" in the result is zeros.

    If the embedding and the nn.Linear share their weights, a PyTorch state dict contains these weights under two names, and the result
    contains both "embedding/embedding" and "head/kernel". To tie the weights in lstm_jax too, remove "head/kernel" from the result.

    Args:
        state_dict: state dict of the module. Its values are arrays or tensors.
        embedding: name of the module's attribute that is the nn.Embedding ("encoder" in PyTorch's example word_language_model).
        lstm: name of the attribute that is the nn.LSTM ("rnn" in that example).
        head: name of the attribute that is the nn.Linear ("decoder" in that example).

    Returns:
        a dict with keys such as "recurrent/0/kernel" and "head/bias"; see `lstm_jax.convert`.

    Raises:
        InputError: if `state_dict` is not a dict with strings as its keys, if an array is missing, has a wrong shape, or belongs to none of
            these submodules, or if the nn.LSTM is bidirectional.
    """
    return _from_state(state_dict, embedding, lstm, head, CHARACTER)


def generation_to_torch(
    params: Mapping[str, Any], embedding: str = "embedding", lstm: str = "lstm", head: str = "fc"
) -> dict[str, np.ndarray]:
    """Convert a character model of lstm_jax to the state dict of a PyTorch model. This function is the inverse of `generation_from_torch`.

    The values of the state dict are NumPy arrays. If the weights are tied, the state dict contains them twice, for the nn.Embedding and for
    the nn.Linear.

    Args:
        params: a dict with keys such as "recurrent/0/kernel" and "head/bias"; see `lstm_jax.convert`.
        embedding: name of the PyTorch module's attribute that is the nn.Embedding.
        lstm: name of the attribute that is the nn.LSTM.
        head: name of the attribute that is the nn.Linear.

    Raises:
        InputError: if a key or shape is wrong, or if not all layers have the same number of units.
    """
    return _to_state(params, embedding, lstm, head, CHARACTER)


def _from_state(state_dict: Mapping[str, Any], embedding: str, lstm: str, head: str, kind: Kind) -> Arrays:
    check_state_dict(state_dict)
    table_name, kernel_name, bias_name = f"{embedding}.weight", f"{head}.weight", f"{head}.bias"
    for name in state_dict:
        known = name in (table_name, kernel_name, bias_name) or name.startswith(f"{lstm}.")
        remedy = f"expected only {table_name}, {kernel_name}, {bias_name} and {lstm}.*; name the attributes"
        require(known, "name in the state dict", name, remedy)
    for name in (table_name, kernel_name) if kind == SENTIMENT else (kernel_name,):
        require(name in state_dict, name, "missing", "name the attributes: embedding=, lstm=, head=")
    rows, columns = (1, "H or 2H") if kind == SENTIMENT else ("V", "H")
    kernel = shaped(kernel_name, state_dict[kernel_name], rows, columns).T
    bias = state_dict.get(bias_name, np.zeros(kernel.shape[1], kernel.dtype))
    table = {"embedding": shaped(table_name, state_dict[table_name], "V", "E")} if table_name in state_dict else None
    return join_model(table, lstm_from_torch(state_dict, f"{lstm}."), {"kernel": kernel, "bias": bias}, kind)


def _to_state(params: Mapping[str, Any], embedding: str, lstm: str, head: str, kind: Kind) -> dict[str, np.ndarray]:
    table, layers, dense = split_model(params, kind)
    return {
        **({} if table is None else {f"{embedding}.weight": table["embedding"]}),
        **lstm_to_torch(layers, f"{lstm}."),
        f"{head}.weight": np.ascontiguousarray(dense["kernel"].T),
        f"{head}.bias": dense["bias"],
    }


def read_torch_file(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Read a `.safetensors` file and return a dict from the name of each array to the array.

    A `.pt` file is not accepted, because it is a pickle, which can run code when it is loaded.

    Raises:
        InputError: if the name of the file does not end in .safetensors, or the file is missing or damaged.
    """
    import ml_dtypes  # noqa: F401 - defines the dtype bfloat16, with which safetensors reads arrays of it
    from safetensors.numpy import load_file

    remedy = "save the weights with safetensors.torch.save_file(model.state_dict(), 'model.safetensors')"
    require(Path(path).suffix == ".safetensors", "PyTorch weights", os.fspath(path), remedy)
    require(os.path.isfile(path), "PyTorch weights", os.fspath(path), "there is no such file")
    subject, damaged = f"PyTorch weights {os.fspath(path)}", "the file is damaged or foreign; " + remedy
    with parsing(subject, damaged), open_input(path, subject, damaged):
        return load_file(path)
