"""Conversion from and to the lists of arrays that Keras' `get_weights()` returns.

The layout is that of keras/src/layers/rnn/lstm.py (`LSTMCell.build`), bidirectional.py and embedding.py of Keras 3.15. Keras has our gate
order (it calls g "c") and our shapes, so that nothing is transposed. A layer without bias (`use_bias=False`) gets zeros; conversion to
Keras always gives biases.
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
    """Return an LSTM in our layout from Keras' [kernel (E, 4H), recurrent kernel (H, 4H), bias (4H,)], the bias optional.

    Args:
        weights: the layer's `get_weights()`.
        where: prefix of the arrays' names in errors.

    Raises:
        InputError: for another number of arrays, or a shape that no LSTM has.
    """
    require(len(weights) in (2, 3), f"{where}LSTM weights", f"{len(weights)} arrays", "give kernel, recurrent kernel and, if any, bias")
    return lstm_arrays(weights[0], weights[1], weights[2] if len(weights) == 3 else None, where)


def lstm_to_keras(params: Mapping[str, Any]) -> list[np.ndarray]:
    """Return [kernel (E, 4H), recurrent kernel (H, 4H), bias (4H,)] for `layer.set_weights`.

    Raises:
        InputError: for a wrong key or shape.
    """
    checked = check_lstm(params)
    return [checked[name] for name in LSTM_NAMES]


def bidirectional_from_keras(weights: Sequence[Any], where: str = "") -> Layer:
    """Return our pair {"forward", "backward"} from a Bidirectional(LSTM)'s arrays: all of forward, then all of backward, 2 or 3 each.

    Args:
        weights: the layer's `get_weights()`.
        where: prefix of the arrays' names in errors.

    Raises:
        InputError: for another number of arrays, or a wrong shape.
    """
    count = len(weights)
    require(count in (4, 6), f"{where}Bidirectional weights", f"{count} arrays", "give the forward layer's 2 or 3, then the backward's")
    halves = zip(DIRECTIONS, (weights[: count // 2], weights[count // 2 :]), strict=True)
    return check_layer({direction: lstm_from_keras(half, f"{where}{direction}/") for direction, half in halves}, where)


def bidirectional_to_keras(params: Mapping[str, Any]) -> list[np.ndarray]:
    """Return six arrays for `layer.set_weights`: the forward LSTM's three, then the backward LSTM's.

    Raises:
        InputError: for a wrong key or shape.
    """
    check_keys("bidirectional layer", params, DIRECTIONS)
    checked = check_layer(params)
    return [checked[direction][name] for direction in DIRECTIONS for name in LSTM_NAMES]


def embedding_from_keras(weights: Sequence[Any]) -> Arrays:
    """Return {"embedding": (V, E)} from an Embedding layer's [embeddings (V, E)].

    Raises:
        InputError: for another number of arrays, or a wrong shape.
    """
    require(len(weights) == 1, "Embedding weights", f"{len(weights)} arrays", "give one, (V, E)")
    return {"embedding": shaped("embedding", weights[0], "V", "E")}


def embedding_to_keras(params: Mapping[str, Any]) -> list[np.ndarray]:
    """Return [embeddings (V, E)] for `layer.set_weights`.

    Raises:
        InputError: for a wrong key or shape.
    """
    check_keys("embedding", params, ("embedding",))
    return [shaped("embedding", params["embedding"], "V", "E")]


def dense_from_keras(weights: Sequence[Any], where: str = "") -> Arrays:
    """Return {"kernel": (in, out), "bias": (out,)} from a Dense layer's [kernel, bias] or [kernel].

    Args:
        weights: the layer's `get_weights()`.
        where: prefix of the arrays' names in errors.

    Raises:
        InputError: for another number of arrays, or a wrong shape.
    """
    require(len(weights) in (1, 2), f"{where}Dense weights", f"{len(weights)} arrays", "give kernel and, if any, bias")
    kernel = shaped(f"{where}kernel", weights[0], "in", "out")
    outputs = kernel.shape[1]
    bias = shaped(f"{where}bias", weights[1], outputs) if len(weights) == 2 else np.zeros(outputs, kernel.dtype)
    return {"kernel": kernel, "bias": bias}


def dense_to_keras(params: Mapping[str, Any]) -> list[np.ndarray]:
    """Return [kernel (in, out), bias (out,)] for `layer.set_weights`.

    Raises:
        InputError: for a wrong key or shape.
    """
    check_keys("dense layer", params, ("kernel", "bias"))
    kernel = shaped("kernel", params["kernel"], "in", "out")
    return [kernel, shaped("bias", params["bias"], kernel.shape[1])]


def sentiment_from_keras(weights: Sequence[Any]) -> Arrays:
    """Return a sentiment model in our layout from `model.get_weights()` of Embedding -> LSTM or Bidirectional(LSTM) layers -> Dense(1).

    The list has no names, so that shapes decide: two LSTMs of equal shape are one bidirectional layer if the next layer takes twice their
    units. That is right for Bidirectional's default `merge_mode="concat"`, our only mode; a list does not show whether a model sums or
    averages its directions, has other activations or runs backwards. `sentiment_from_keras_file` reads this from a `.keras` file.

    Raises:
        InputError: if the arrays are not those of such a model.
    """
    remedy = "expected those of Embedding -> LSTM or Bidirectional(LSTM) layers -> Dense(1)"
    return _from_list(weights, SENTIMENT, remedy)


def sentiment_to_keras(params: Mapping[str, Any]) -> list[np.ndarray]:
    """Return the list for `model.set_weights` of the matching Keras model, in which every layer has a bias.

    Raises:
        InputError: for a wrong key or shape.
    """
    return _to_list(params, SENTIMENT)


def generation_from_keras(weights: Sequence[Any]) -> Arrays:
    """Return a character model in our layout from `model.get_weights()` of LSTM layers -> Dense(V), with or without an Embedding.

    The list has no names. An LSTM has two matrices (and a bias or none), Dense and Embedding have one each, so that an even number of
    matrices shows an embedding. Without an embedding the input is one-hot, and the first LSTM must take V features; with an embedding, its
    table must have V rows. A list does not show other activations; `generation_from_keras_file` reads them from a `.keras` file.

    Raises:
        InputError: if the arrays are not those of such a model.
    """
    remedy = "expected those of LSTM layers -> Dense(V), or with an Embedding before them"
    return _from_list(weights, CHARACTER, remedy)


def generation_to_keras(params: Mapping[str, Any]) -> list[np.ndarray]:
    """Return the list for `model.set_weights` of the matching Keras model, in which every layer has a bias.

    A tied head gets its own kernel (H, V).

    Raises:
        InputError: for a wrong key or shape.
    """
    return _to_list(params, CHARACTER)


def _from_list(weights: Sequence[Any], kind: Kind, remedy: str) -> Arrays:
    """Return the model from the list of all its arrays; `remedy` describes the expected list in errors."""
    arrays = [to_numpy(f"weights[{index}]", array) for index, array in enumerate(weights)]
    matrices = sum(array.ndim == 2 for array in arrays)  # two an LSTM, one the Dense: an even number has a table besides
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
    """Cut the arrays from weights[first] to the head into LSTMs: two matrices, then a vector if there is a bias."""
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
