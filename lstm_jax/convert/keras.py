"""Conversion between our layout, which `lstm_jax.convert` describes, and the lists of arrays that Keras' `get_weights()` returns.

The lists have the layout of keras/src/layers/rnn/lstm.py (`LSTMCell.build`), bidirectional.py and embedding.py in Keras 3.15. Keras has our
gate order (it calls g "c") and our shapes, so that nothing is transposed. The bias of a Keras layer with `use_bias=False` becomes zeros;
conversion to Keras always gives biases. V is the size of the vocabulary, E the number of features, H the number of units.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lstm_jax.convert.arrays import (
    CHARACTER,
    DIRECTIONS,
    LSTM_NAMES,
    SENTIMENT,
    Arrays,
    Kind,
    Layer,
    check_keys,
    check_layer,
    check_lstm,
    is_bidirectional,
    join_model,
    lstm_arrays,
    shaped,
    split_model,
    to_numpy,
)
from lstm_jax.errors import InputError, require


def lstm_from_keras(weights: Sequence[Any], where: str = "") -> Arrays:
    """Return the weights of a Keras LSTM layer in our layout.

    Args:
        weights: `get_weights()` of the layer: kernel (E, 4H), recurrent kernel (H, 4H) and, if the layer has one, bias (4H,).
        where: prefix of the names of the arrays in error messages.

    Raises:
        InputError: if the number of arrays is not 2 or 3, or the shapes are not those of an LSTM.
    """
    require(len(weights) in (2, 3), f"{where}LSTM weights", f"{len(weights)} arrays", "give kernel, recurrent kernel and, if any, bias")
    return lstm_arrays(weights[0], weights[1], weights[2] if len(weights) == 3 else None, where)


def lstm_to_keras(params: Mapping[str, Any]) -> list[np.ndarray]:
    """Return the list [kernel (E, 4H), recurrent kernel (H, 4H), bias (4H,)], which `layer.set_weights` of a Keras LSTM takes.

    Raises:
        InputError: if the keys or shapes are not those of an LSTM in our layout.
    """
    checked = check_lstm(params)
    return [checked[name] for name in LSTM_NAMES]


def bidirectional_from_keras(weights: Sequence[Any], where: str = "") -> Layer:
    """Return the weights of a Keras Bidirectional(LSTM) layer in our layout, {"forward": LSTM, "backward": LSTM}.

    Args:
        weights: `get_weights()` of the layer: the 2 or 3 arrays of the forward LSTM, then those of the backward LSTM.
        where: prefix of the names of the arrays in error messages.

    Raises:
        InputError: if the number of arrays is not 4 or 6, or the shapes are not those of such a layer.
    """
    count = len(weights)
    require(count in (4, 6), f"{where}Bidirectional weights", f"{count} arrays", "give the forward layer's 2 or 3, then the backward's")
    halves = zip(DIRECTIONS, (weights[: count // 2], weights[count // 2 :]), strict=True)
    return check_layer({direction: lstm_from_keras(half, f"{where}{direction}/") for direction, half in halves}, where)


def bidirectional_to_keras(params: Mapping[str, Any]) -> list[np.ndarray]:
    """Return the list that `layer.set_weights` of a Keras Bidirectional(LSTM) takes.

    It holds the three arrays of the forward LSTM, then those of the backward LSTM: kernel, recurrent kernel and bias.

    Raises:
        InputError: if the keys or shapes are not those of a bidirectional layer in our layout.
    """
    check_keys("bidirectional layer", params, DIRECTIONS)
    checked = check_layer(params)
    return [checked[direction][name] for direction in DIRECTIONS for name in LSTM_NAMES]


def embedding_from_keras(weights: Sequence[Any]) -> Arrays:
    """Return the weights of a Keras Embedding layer, [embeddings (V, E)], in our layout, {"embedding": (V, E)}.

    Raises:
        InputError: if there is not exactly one array, or it does not have two axes.
    """
    require(len(weights) == 1, "Embedding weights", f"{len(weights)} arrays", "give one, (V, E)")
    return {"embedding": shaped("embedding", weights[0], "V", "E")}


def embedding_to_keras(params: Mapping[str, Any]) -> list[np.ndarray]:
    """Return the list [embeddings (V, E)], which `layer.set_weights` of a Keras Embedding takes.

    Raises:
        InputError: if the key or shape is not that of an embedding in our layout.
    """
    check_keys("embedding", params, ("embedding",))
    return [shaped("embedding", params["embedding"], "V", "E")]


def dense_from_keras(weights: Sequence[Any], where: str = "") -> Arrays:
    """Return the weights of a Keras Dense layer in our layout, {"kernel": (in, out), "bias": (out,)}.

    Args:
        weights: `get_weights()` of the layer: kernel (in, out) and, if the layer has one, bias (out,).
        where: prefix of the names of the arrays in error messages.

    Raises:
        InputError: if the number of arrays is not 1 or 2, or the shapes are not those of a dense layer.
    """
    require(len(weights) in (1, 2), f"{where}Dense weights", f"{len(weights)} arrays", "give kernel and, if any, bias")
    kernel = shaped(f"{where}kernel", weights[0], "in", "out")
    outputs = kernel.shape[1]
    bias = shaped(f"{where}bias", weights[1], outputs) if len(weights) == 2 else np.zeros(outputs, kernel.dtype)
    return {"kernel": kernel, "bias": bias}


def dense_to_keras(params: Mapping[str, Any]) -> list[np.ndarray]:
    """Return the list [kernel (in, out), bias (out,)], which `layer.set_weights` of a Keras Dense takes.

    Raises:
        InputError: if the keys or shapes are not those of a dense layer in our layout.
    """
    check_keys("dense layer", params, ("kernel", "bias"))
    kernel = shaped("kernel", params["kernel"], "in", "out")
    return [kernel, shaped("bias", params["bias"], kernel.shape[1])]


def sentiment_from_keras(weights: Sequence[Any]) -> Arrays:
    """Return the weights of a Keras sentiment model in our layout.

    The model has the layers Embedding, LSTM or Bidirectional(LSTM), and Dense(1), where the middle one may be a stack. The list of weights
    has no names, so the shapes decide what an array is: two LSTMs of equal shape are one bidirectional layer if the next layer takes twice
    as many features as they have units. That is right for the default `merge_mode="concat"` of Bidirectional, the only one that we support.
    The list does not show whether a model sums or averages its directions, has other activations, or reads backwards;
    `sentiment_from_keras_file` reads these options from a `.keras` file.

    Args:
        weights: `get_weights()` of the model.

    Raises:
        InputError: if the arrays are not those of such a model.
    """
    remedy = "expected those of Embedding -> LSTM or Bidirectional(LSTM) layers -> Dense(1)"
    return _from_list(weights, SENTIMENT, remedy)


def sentiment_to_keras(params: Mapping[str, Any]) -> list[np.ndarray]:
    """Return the list that `model.set_weights` of the matching Keras sentiment model takes.

    Every LSTM and Dense layer of the Keras model must have a bias.

    Raises:
        InputError: if the keys or shapes are not those of a sentiment model in our layout.
    """
    return _to_list(params, SENTIMENT)


def generation_from_keras(weights: Sequence[Any]) -> Arrays:
    """Return the weights of a Keras character model in our layout.

    The model has LSTM layers, then Dense(V), and may have an Embedding as its first layer. The list of weights has no names, but an LSTM
    has two matrices, and Dense and Embedding have one each, so that an even number of matrices shows an embedding. Without an embedding the
    input is one-hot, and the first LSTM must take V features; with an embedding, its table must have V rows. The list does not show
    activations; `generation_from_keras_file` reads them from a `.keras` file.

    Args:
        weights: `get_weights()` of the model.

    Raises:
        InputError: if the arrays are not those of such a model.
    """
    remedy = "expected those of LSTM layers -> Dense(V), or with an Embedding before them"
    return _from_list(weights, CHARACTER, remedy)


def generation_to_keras(params: Mapping[str, Any]) -> list[np.ndarray]:
    """Return the list that `model.set_weights` of the matching Keras character model takes.

    Every LSTM and Dense layer of the Keras model must have a bias. If the weights are tied, the Dense layer gets a copy of the transposed
    embedding table as its kernel (H, V).

    Raises:
        InputError: if the keys or shapes are not those of a character model in our layout.
    """
    return _to_list(params, CHARACTER)


def _from_list(weights: Sequence[Any], kind: Kind, remedy: str) -> Arrays:
    """Return a model in our layout from the list of all its arrays.

    Args:
        weights: `get_weights()` of the Keras model.
        kind: whether the model is a sentiment model or a character model.
        remedy: description of the expected list, the last phrase of error messages.
    """
    arrays = [to_numpy(f"weights[{index}]", array) for index, array in enumerate(weights)]
    matrices = sum(array.ndim == 2 for array in arrays)  # two of each LSTM and one of Dense: if even, one is an embedding table
    first = 1 if kind == SENTIMENT or matrices % 2 == 0 else 0
    require(len(arrays) >= first + 3, "model weights", f"{len(arrays)} arrays", remedy)
    head_at = len(arrays) - (2 if arrays[-1].ndim == 1 else 1)
    head = dense_from_keras(arrays[head_at:], f"Dense from weights[{head_at}]: ")
    lstms = _lstms_in(arrays[first:head_at], first, remedy)
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


def _lstms_in(arrays: Sequence[np.ndarray], first: int, remedy: str) -> list[Arrays]:
    """Return the LSTMs in a list of arrays: each has two matrices and, if it has a bias, a vector.

    Args:
        arrays: the arrays of the model between the embedding and the head.
        first: index of the first of them in the model's list, for error messages.
        remedy: description of the expected list, the last phrase of error messages.
    """
    lstms, at = [], 0
    while at < len(arrays):
        size = 3 if [array.ndim for array in arrays[at : at + 3]] == [2, 2, 1] else 2
        try:
            lstms.append(lstm_from_keras(arrays[at : at + size], f"LSTM {len(lstms)} from weights[{at + first}]: "))
        except InputError as error:
            raise InputError(error.subject, error.value, f"{error.remedy}; {remedy}") from error
        at += size
    return lstms


def _to_list(params: Mapping[str, Any], kind: Kind) -> list[np.ndarray]:
    embedding, layers, head = split_model(params, kind)
    middle = [bidirectional_to_keras(layer) if is_bidirectional(layer) else lstm_to_keras(layer) for layer in layers]
    table = [] if embedding is None else embedding_to_keras(embedding)
    return [*table, *(array for layer in middle for array in layer), *dense_to_keras(head)]
