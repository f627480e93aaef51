"""Conversion of weights between lstm_jax and the lists of arrays that `get_weights()` of a Keras layer or model returns.

The docstring of the package `lstm_jax.convert` describes the layout of weights in lstm_jax. Keras has the same gate order i, f, g, o (Keras
writes c for g) and the same shapes, so no array is transposed. The gates of a GRU have the same order, too (Keras writes z for u). With
`reset_after=True` it has both biases in one array (2, 3H), and with `reset_after=False`, which is the cell "gru_reset_before", one bias
(3H,). If a Keras layer has no bias (`use_bias=False`), its bias in lstm_jax is zeros. Conversion to Keras always returns biases. Keras'
arrays are defined by the methods `build` in keras/src/layers/rnn/ and keras/src/layers/core/embedding.py (Keras 3.15). V is the size of the
vocabulary, E the number of input features and H the number of units.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from lstm_jax.convert.arrays import (
    CHARACTER,
    DIRECTIONS,
    LAYOUTS,
    SENTIMENT,
    Arrays,
    Kind,
    Layer,
    cell_arrays,
    check_cell,
    check_keys,
    check_layer,
    is_bidirectional,
    is_list,
    join_model,
    kind_of,
    shaped,
    split_model,
    to_numpy,
)
from lstm_jax.convert.exporting import KERAS, exported_layer
from lstm_jax.errors import InputError, require

LAYER_BY_LAYER = (
    "convert another model layer by layer: convert.load(layer, keras_layer), or lstm_from_keras, cell_from_keras, dense_from_keras"
)
CELLS = ("lstm", "gru", "gru_reset_before", "simple_rnn")


def _check_cell(cell: str) -> None:
    require(cell in CELLS, "cell", cell, f"Keras has {', '.join(CELLS)}")


def listed(subject: str, weights: Any) -> list[Any]:
    """Return the weights of a Keras layer or model as a list, after checking that they are a list or a similar collection."""
    weights = list(weights) if isinstance(weights, Iterator) else weights
    require(is_list(weights), subject, kind_of(weights), "give the list that get_weights() returns")
    return list(weights)


def cell_from_keras(cell: str, weights: Sequence[Any], where: str = "") -> Arrays:
    """Convert the weights of a Keras LSTM, GRU or SimpleRNN layer to the dict of arrays that lstm_jax uses.

    Args:
        cell: "lstm", "gru" for a Keras GRU with `reset_after=True` (the default), "gru_reset_before" for a Keras GRU with
            `reset_after=False`, or "simple_rnn" for a Keras SimpleRNN.
        weights: the list that `get_weights()` of the layer returns: kernel, recurrent kernel and bias. For E input features and H units
            their shapes are (E, 4H), (H, 4H) and (4H,) for "lstm"; (E, 3H), (H, 3H) and (2, 3H) for "gru"; (E, 3H), (H, 3H) and (3H,) for
            "gru_reset_before"; and (E, H), (H, H) and (H,) for "simple_rnn". If the bias is absent, it becomes zeros.
        where: text that stands before the names of the arrays in error messages.

    Returns:
        a dict with the keys "kernel", "recurrent_kernel" and "bias". If `cell` is "gru", it also has the key "recurrent_bias".

    Raises:
        InputError: if `cell` is none of these names, `weights` is not a list of 2 or 3 arrays, or an array has a wrong shape.
    """
    _check_cell(cell)
    title = "LSTM" if cell == "lstm" else cell
    weights = listed(f"{where}{title} weights", weights)
    require(len(weights) in (2, 3), f"{where}{title} weights", f"{len(weights)} arrays", "give kernel, recurrent kernel and, if any, bias")
    arrays = {"kernel": weights[0], "recurrent_kernel": weights[1], "bias": weights[2] if len(weights) == 3 else None}
    if cell == "gru":
        columns = shaped(f"{where}kernel", weights[0], "E", LAYOUTS[cell].columns).shape[1]
        rows = (None, None) if arrays["bias"] is None else shaped(f"{where}bias", arrays["bias"], 2, columns)
        arrays["bias"], arrays["recurrent_bias"] = rows
    return cell_arrays(cell, arrays, where)


def cell_to_keras(cell: str, params: Any) -> list[np.ndarray]:
    """Convert the weights of an LSTM, a GRU or a simple RNN to the list of arrays that `set_weights` of a Keras layer expects.

    This function is the inverse of `cell_from_keras`.

    Args:
        cell: one of the names that `cell_from_keras` accepts.
        params: a `Recurrent` layer, or a dict with the keys "kernel", "recurrent_kernel" and "bias". If `cell` is "gru", the dict also has
            the key "recurrent_bias". The Keras layer must have the activations and the direction of the `Recurrent` layer. This function
            does not check them.

    Raises:
        InputError: if `cell` is none of these names, if `params` has wrong keys or shapes, or if `params` is a layer with another cell,
            with zoneout or with a learned initial state. Keras has neither zoneout nor a learned initial state.
    """
    _check_cell(cell)
    arrays = check_cell(cell, exported_layer(cell, params, KERAS))
    bias = np.stack([arrays["bias"], arrays["recurrent_bias"]]) if cell == "gru" else arrays["bias"]
    return [arrays["kernel"], arrays["recurrent_kernel"], bias]


def lstm_from_keras(weights: Sequence[Any], where: str = "") -> Arrays:
    """Convert the weights of a Keras LSTM layer to the LSTM weights of lstm_jax, as `cell_from_keras("lstm", ...)` does."""
    return cell_from_keras("lstm", weights, where)


def lstm_to_keras(params: Any) -> list[np.ndarray]:
    """Convert an LSTM of lstm_jax to the arrays that `set_weights` of a Keras LSTM expects, as `cell_to_keras("lstm", ...)` does."""
    return cell_to_keras("lstm", params)


def bidirectional_from_keras(weights: Sequence[Any], where: str = "", *, cell: str = "lstm") -> Layer:
    """Convert the weights of a Keras Bidirectional layer to the weights of a bidirectional layer in lstm_jax.

    Args:
        weights: `get_weights()` of the layer: the 2 or 3 arrays of the forward layer, then those of the backward layer.
        where: text that stands before the names of the arrays in error messages.
        cell: one of the names that `cell_from_keras` accepts.

    Returns:
        {"forward": dict, "backward": dict}, where each dict has the keys "kernel", "recurrent_kernel", "bias" and, if `cell` is "gru",
        "recurrent_bias".

    Raises:
        InputError: if `cell` is none of these names, `weights` is not a list of 4 or 6 arrays, or the shapes are not those of such a layer.
    """
    _check_cell(cell)
    weights = listed(f"{where}Bidirectional weights", weights)
    count = len(weights)
    require(count in (4, 6), f"{where}Bidirectional weights", f"{count} arrays", "give the forward layer's 2 or 3, then the backward's")
    halves = zip(DIRECTIONS, (weights[: count // 2], weights[count // 2 :]), strict=True)
    return check_layer({direction: cell_from_keras(cell, half, f"{where}{direction}/") for direction, half in halves}, where, cell)


def bidirectional_to_keras(params: Any, *, cell: str = "lstm") -> list[np.ndarray]:
    """Convert the weights of a bidirectional layer in lstm_jax to the list of arrays that `set_weights` of a Keras Bidirectional expects.

    The list contains the kernel, the recurrent kernel and the bias of the forward layer, then those of the backward layer.

    Args:
        params: a `Bidirectional` layer, or {"forward": dict, "backward": dict}, where each dict has the arrays of the cell. The Keras layer
            must have the activations and the `merge_mode` of the `Bidirectional` layer. This function does not check them.
        cell: "lstm", "gru", "gru_reset_before" or "simple_rnn".

    Raises:
        InputError: if `cell` is none of these names, or if the keys or shapes of `params` are not those of a bidirectional layer with this
            cell. Also if `params` is a layer with zoneout or a learned initial state. Keras has neither.
    """
    _check_cell(cell)
    arrays = exported_layer(cell, params, KERAS)
    check_keys("bidirectional layer", arrays, DIRECTIONS)
    checked = check_layer(arrays, cell=cell)
    return [array for direction in DIRECTIONS for array in cell_to_keras(cell, checked[direction])]


def embedding_from_keras(weights: Sequence[Any]) -> Arrays:
    """Convert the weights of a Keras Embedding layer to the embedding weights of lstm_jax, {"embedding": (V, E)}.

    Args:
        weights: `get_weights()` of the layer, a list of one array (V, E) for V words and E features.

    Raises:
        InputError: if `weights` is not a list of exactly one array, or the array does not have two axes.
    """
    weights = listed("Embedding weights", weights)
    require(len(weights) == 1, "Embedding weights", f"{len(weights)} arrays", "give one, (V, E)")
    return {"embedding": shaped("embedding", weights[0], "V", "E")}


def embedding_to_keras(params: Mapping[str, Any]) -> list[np.ndarray]:
    """Convert the embedding weights of lstm_jax to the list of one array (V, E) that `set_weights` of a Keras Embedding expects.

    Args:
        params: {"embedding": (V, E)} for V words and E features.

    Raises:
        InputError: if `params` does not have "embedding" as its only key, or the array does not have two axes.
    """
    check_keys("embedding", params, ("embedding",))
    return [shaped("embedding", params["embedding"], "V", "E")]


def dense_from_keras(weights: Sequence[Any], where: str = "") -> Arrays:
    """Convert the weights of a Keras Dense layer to the dense weights of lstm_jax, {"kernel": (in, out), "bias": (out,)}.

    Args:
        weights: `get_weights()` of the layer: kernel (in, out) and bias (out,). For a layer without a bias, the result has a bias of zeros.
        where: text that stands before the names of the arrays in error messages.

    Raises:
        InputError: if `weights` is not a list of 1 or 2 arrays, or the shapes are not those of a dense layer.
    """
    weights = listed(f"{where}Dense weights", weights)
    require(len(weights) in (1, 2), f"{where}Dense weights", f"{len(weights)} arrays", "give kernel and, if any, bias")
    kernel = shaped(f"{where}kernel", weights[0], "in", "out")
    outputs = kernel.shape[1]
    bias = shaped(f"{where}bias", weights[1], outputs) if len(weights) == 2 else np.zeros(outputs, kernel.dtype)
    return {"kernel": kernel, "bias": bias}


def dense_to_keras(params: Mapping[str, Any]) -> list[np.ndarray]:
    """Convert the dense weights of lstm_jax to the list [kernel, bias] that `set_weights` of a Keras Dense layer expects.

    Args:
        params: {"kernel": (in, out), "bias": (out,)}.

    Raises:
        InputError: if the keys or shapes of `params` are not those of a dense layer.
    """
    check_keys("dense layer", params, ("kernel", "bias"))
    kernel = shaped("kernel", params["kernel"], "in", "out")
    return [kernel, shaped("bias", params["bias"], kernel.shape[1])]


def sentiment_from_keras(weights: Sequence[Any]) -> Arrays:
    """Convert the weights of a Keras sentiment model to a flat dict of weights of lstm_jax.

    The Keras model consists of an Embedding, one or more LSTM or Bidirectional(LSTM) layers, and a Dense(1). Bidirectional layers must have
    the default `merge_mode="concat"`.

    The list of weights has no names, so this function infers from the shapes which layer an array belongs to. Two consecutive LSTMs of
    equal shapes with H units each may be the two directions of one bidirectional layer, or two separate layers. They are read as one
    bidirectional layer if the layer after them has 2H input features.

    The list does not show the merge mode, the activations or `go_backwards`. This function therefore cannot check these options. To have
    them checked, save the model as a `.keras` file and use `sentiment_from_keras_file`.

    Args:
        weights: `get_weights()` of the model.

    Returns:
        a dict with keys such as "embedding/embedding", "recurrent/0/kernel" and "head/bias"; see `lstm_jax.convert`.

    Raises:
        InputError: if the arrays are not those of such a model.
    """
    remedy = f"expected those of Embedding -> LSTM or Bidirectional(LSTM) layers -> Dense(1); {LAYER_BY_LAYER}"
    return _from_list(weights, SENTIMENT, remedy)


def sentiment_to_keras(params: Mapping[str, Any]) -> list[np.ndarray]:
    """Convert a sentiment model of lstm_jax to the list of arrays that `set_weights` of the corresponding Keras model expects.

    The LSTM and Dense layers of the Keras model must have biases.

    Args:
        params: a dict with keys such as "embedding/embedding", "recurrent/0/kernel" and "head/bias"; see `lstm_jax.convert`.

    Raises:
        InputError: if the keys or shapes of `params` are not those of a sentiment model.
    """
    return _to_list(params, SENTIMENT)


def generation_from_keras(weights: Sequence[Any]) -> Arrays:
    """Convert the weights of a Keras character model to a flat dict of weights of lstm_jax.

    The Keras model consists of an optional Embedding, one or more LSTM layers, and a Dense(V), where V is the number of characters. Without
    an embedding the input is one-hot, and the first LSTM must have V input features. An embedding must have V rows.

    The list of weights has no names, so this function counts the matrices to find out whether there is an embedding. An LSTM has two
    matrices, a Dense has one, and an Embedding has one. An even count therefore means that there is an embedding. The list does not show
    the activations. To have them checked, save the model as a `.keras` file and use `generation_from_keras_file`.

    Args:
        weights: `get_weights()` of the model.

    Returns:
        a dict with keys such as "recurrent/0/kernel" and "head/bias"; see `lstm_jax.convert`.

    Raises:
        InputError: if the arrays are not those of such a model.
    """
    remedy = f"expected those of LSTM layers -> Dense(V), or with an Embedding before them; {LAYER_BY_LAYER}"
    return _from_list(weights, CHARACTER, remedy)


def generation_to_keras(params: Mapping[str, Any]) -> list[np.ndarray]:
    """Convert a character model of lstm_jax to the list of arrays that `set_weights` of the corresponding Keras model expects.

    The LSTM and Dense layers of the Keras model must have biases. If the weights are tied ("head/kernel" is absent), the kernel of the
    Dense layer becomes a copy of the transposed embedding table.

    Args:
        params: a dict with keys such as "recurrent/0/kernel" and "head/bias"; see `lstm_jax.convert`.

    Raises:
        InputError: if the keys or shapes of `params` are not those of a character model.
    """
    return _to_list(params, CHARACTER)


def _from_list(weights: Sequence[Any], kind: Kind, remedy: str) -> Arrays:
    """Convert the weights of a Keras sentiment or character model to a flat dict of weights of lstm_jax."""
    arrays = [to_numpy(f"weights[{index}]", array) for index, array in enumerate(listed("model weights", weights))]
    matrices = sum(array.ndim == 2 for array in arrays)  # two of each LSTM and one of Dense: if even, one is an embedding table
    first = 1 if kind == SENTIMENT or matrices % 2 == 0 else 0
    require(len(arrays) >= first + 3, "model weights", f"{len(arrays)} arrays", remedy)
    head_at = len(arrays) - (2 if arrays[-1].ndim == 1 else 1)
    head = dense_from_keras(arrays[head_at:], f"Dense from weights[{head_at}]: ")
    lstms, at = [], first
    while at < head_at:  # an LSTM has two matrices and, if it has a bias, a vector
        end = min(head_at, at + (3 if [array.ndim for array in arrays[at : at + 3]] == [2, 2, 1] else 2))
        lstms.append(lstm_in_model(arrays[at:end], f"LSTM {len(lstms)} from weights[{at}]: ", remedy))
        at = end
    layers: list[Layer] = []
    while lstms:
        pair = lstms[:2]
        taken_next = lstms[2]["kernel"].shape[0] if len(lstms) > 2 else head["kernel"].shape[0]
        alike = len(pair) == 2 and pair[0]["kernel"].shape == pair[1]["kernel"].shape
        if alike and taken_next == 2 * pair[0]["recurrent_kernel"].shape[0]:
            layers.append(dict(zip(DIRECTIONS, pair, strict=True)))
        else:
            layers.append(pair[0])
        lstms = lstms[2:] if is_bidirectional(layers[-1]) else lstms[1:]
    return join_model(embedding_from_keras(arrays[:1]) if first else None, layers, head, kind)


def lstm_in_model(weights: Sequence[Any], where: str, remedy: str) -> Arrays:
    """Convert the weights of an LSTM layer in a Keras model, as `lstm_from_keras` does, but add `remedy` to error messages."""
    try:
        return lstm_from_keras(weights, where)
    except InputError as error:
        raise InputError(error.subject, error.value, f"{error.remedy}; {remedy}") from error


def _to_list(params: Mapping[str, Any], kind: Kind) -> list[np.ndarray]:
    embedding, layers, head = split_model(params, kind)
    middle = [bidirectional_to_keras(layer) if is_bidirectional(layer) else lstm_to_keras(layer) for layer in layers]
    table = [] if embedding is None else embedding_to_keras(embedding)
    return [*table, *(array for layer in middle for array in layer), *dense_to_keras(head)]
