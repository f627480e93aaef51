"""Weights as Keras' `get_weights()` lists them, to and from ours.

Source of the layout: keras/src/layers/rnn/lstm.py (`LSTMCell.build`), bidirectional.py and embedding.py of Keras 3.15. Keras has our
gate order (it calls g "c") and our shapes, so that nothing is transposed. A layer without bias (`use_bias=False`) gets zeros; the way
back always has biases.
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
    """Ours from an LSTM layer's [kernel (E, 4H), recurrent kernel (H, 4H), bias (4H,)], the bias being optional.

    Raises:
        InputError: another number of arrays, or a shape that no LSTM has; `where` prefixes the array's name.
    """
    require(len(weights) in (2, 3), f"{where}LSTM weights", f"{len(weights)} arrays", "give kernel, recurrent kernel and, if any, bias")
    return lstm_arrays(weights[0], weights[1], weights[2] if len(weights) == 3 else None, where)


def lstm_to_keras(params: Mapping[str, Any]) -> list[np.ndarray]:
    """[kernel (E, 4H), recurrent kernel (H, 4H), bias (4H,)] for `layer.set_weights`. Raises InputError on a wrong key or shape."""
    checked = check_lstm(params)
    return [checked[name] for name in LSTM_NAMES]


def bidirectional_from_keras(weights: Sequence[Any], where: str = "") -> Layer:
    """Ours, {"forward", "backward"}, from a Bidirectional(LSTM)'s arrays: all of forward, then all of backward, 2 or 3 each.

    Raises:
        InputError: another number of arrays, or a wrong shape.
    """
    count = len(weights)
    require(count in (4, 6), f"{where}Bidirectional weights", f"{count} arrays", "give the forward layer's 2 or 3, then the backward's")
    halves = zip(DIRECTIONS, (weights[: count // 2], weights[count // 2 :]), strict=True)
    return check_layer({direction: lstm_from_keras(half, f"{where}{direction}/") for direction, half in halves}, where)


def bidirectional_to_keras(params: Mapping[str, Any]) -> list[np.ndarray]:
    """Six arrays for `layer.set_weights`: the forward LSTM's three, then the backward's. Raises InputError on a wrong key or shape."""
    check_keys("bidirectional layer", params, DIRECTIONS)
    checked = check_layer(params)
    return [checked[direction][name] for direction in DIRECTIONS for name in LSTM_NAMES]


def embedding_from_keras(weights: Sequence[Any]) -> Arrays:
    """{"embedding": (V, E)} from an Embedding layer's [embeddings (V, E)]. Raises InputError on another count or shape."""
    require(len(weights) == 1, "Embedding weights", f"{len(weights)} arrays", "give one, (V, E)")
    return {"embedding": shaped("embedding", weights[0], "V", "E")}


def embedding_to_keras(params: Mapping[str, Any]) -> list[np.ndarray]:
    """[embeddings (V, E)] for `layer.set_weights`. Raises InputError on a wrong key or shape."""
    check_keys("embedding", params, ("embedding",))
    return [shaped("embedding", params["embedding"], "V", "E")]


def dense_from_keras(weights: Sequence[Any], where: str = "") -> Arrays:
    """{"kernel": (in, out), "bias": (out,)} from a Dense layer's [kernel, bias] or [kernel].

    Raises:
        InputError: another number of arrays, or a wrong shape; `where` prefixes the array's name.
    """
    require(len(weights) in (1, 2), f"{where}Dense weights", f"{len(weights)} arrays", "give kernel and, if any, bias")
    kernel = shaped(f"{where}kernel", weights[0], "in", "out")
    outputs = kernel.shape[1]
    bias = shaped(f"{where}bias", weights[1], outputs) if len(weights) == 2 else np.zeros(outputs, kernel.dtype)
    return {"kernel": kernel, "bias": bias}


def dense_to_keras(params: Mapping[str, Any]) -> list[np.ndarray]:
    """[kernel (in, out), bias (out,)] for `layer.set_weights`. Raises InputError on a wrong key or shape."""
    check_keys("dense layer", params, ("kernel", "bias"))
    kernel = shaped("kernel", params["kernel"], "in", "out")
    return [kernel, shaped("bias", params["bias"], kernel.shape[1])]


def sentiment_from_keras(weights: Sequence[Any]) -> Arrays:
    """A whole sentiment model in ours from `model.get_weights()` of Embedding -> LSTM or Bidirectional(LSTM), one or more -> Dense(1).

    The list has no names, so that shapes decide: two LSTMs of equal shape are one bidirectional layer when twice their units are taken
    by what follows. That is right for Bidirectional's default `merge_mode="concat"`, the only one that ours has; a list cannot show that
    a model sums or averages its directions, has other activations or runs backwards. `sentiment_from_keras_file` of a `.keras` file can.

    Raises:
        InputError: the arrays are not those of such a model.
    """
    remedy = "expected those of Embedding -> LSTM or Bidirectional(LSTM) layers -> Dense(1)"
    return _from_list(weights, SENTIMENT, remedy)


def sentiment_to_keras(params: Mapping[str, Any]) -> list[np.ndarray]:
    """The list for `model.set_weights` of the matching Keras model (every layer with bias). Raises InputError on a wrong key or shape."""
    return _to_list(params, SENTIMENT)


def generation_from_keras(weights: Sequence[Any]) -> Arrays:
    """A whole character model in ours from `model.get_weights()` of LSTM, one or more -> Dense(V), V characters, or Embedding before it.

    The list has no names. An LSTM has two matrices (and a bias or none), the Dense one and an Embedding one, so that an even number of
    matrices shows an embedding. Without one the input is one-hot: the first LSTM must take as many features as the Dense gives outputs;
    with one, the table must have as many rows. A list cannot show that a Bidirectional sums or averages its directions, nor other
    activations; `generation_from_keras_file` of a `.keras` file can.

    Raises:
        InputError: the arrays are not those of such a model.
    """
    remedy = "expected those of LSTM layers -> Dense(V), or with an Embedding before them"
    return _from_list(weights, CHARACTER, remedy)


def generation_to_keras(params: Mapping[str, Any]) -> list[np.ndarray]:
    """The list for `model.set_weights` of the matching Keras model (every layer with bias); a tied head gets its own kernel (H, V).

    Raises InputError on a wrong key or shape.
    """
    return _to_list(params, CHARACTER)


def _from_list(weights: Sequence[Any], kind: Kind, remedy: str) -> Arrays:
    """The model of a list of all its arrays; `remedy` says in errors which ones those are."""
    arrays = [to_numpy(f"weights[{place}]", array) for place, array in enumerate(weights)]
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
    """Cut the arrays from weights[first] to the head into LSTMs: two matrices, then a vector where there is a bias."""
    lstms, place = [], 0
    while place < len(arrays):
        size = 3 if [array.ndim for array in arrays[place : place + 3]] == [2, 2, 1] else 2
        try:
            lstms.append(lstm_from_keras(arrays[place : place + size], f"LSTM {len(lstms)} from weights[{place + first}]: "))
        except InputError as error:
            raise InputError(error.thing, error.value, f"{error.remedy}; {remedy}") from error
        place += size
    return lstms


def _to_list(params: Mapping[str, Any], kind: Kind) -> list[np.ndarray]:
    embedding, layers, head = split_model(params, kind)
    middle = [bidirectional_to_keras(layer) if is_bidirectional(layer) else lstm_to_keras(layer) for layer in layers]
    table = [] if embedding is None else embedding_to_keras(embedding)
    return [*table, *(array for layer in middle for array in layer), *dense_to_keras(head)]
