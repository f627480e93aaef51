"""Comparison of converted weights with dense layers, embedding layers and whole models."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from lstm_jax.bounds import is_a
from lstm_jax.convert.arrays import CHARACTER, ENDS, SENTIMENT, Arrays, Layer, shaped, split_paths
from lstm_jax.convert.checks import check_named, has_state_dict, kind_of
from lstm_jax.convert.keras import dense_from_keras, dense_to_keras, embedding_from_keras, embedding_to_keras
from lstm_jax.convert.matching import OWN, paired
from lstm_jax.errors import require

Pairs = list[tuple[Any, Any]]


def is_dense(layer: Any) -> bool:
    """Return whether a value is an `nnx.Linear` or a dense layer of lstm_jax."""
    return is_a(layer, "flax.nnx", "Linear") or is_a(layer, OWN, "ClassifierHead")


def is_embedding(layer: Any) -> bool:
    """Return whether a value is an `nnx.Embed` or an `Embedding` of lstm_jax."""
    return is_a(layer, "flax.nnx", "Embed") or is_a(layer, OWN, "Embedding")


def is_model(layer: Any) -> bool:
    """Return whether a value is a `SentimentClassifier` or a `CharGenerator` of lstm_jax."""
    return is_a(layer, OWN, "SentimentClassifier", "CharGenerator")


def matched_dense(layer: Any, weights: Any, prefix: str) -> Pairs:
    """Check that weights fit a dense layer, and return pairs: a parameter of the layer, and the array with its new values."""
    if isinstance(weights, Mapping) and not prefix and "kernel" in weights:
        kernel, bias = dense_to_keras(weights)
        return paired(layer, {"kernel": kernel, "bias": bias})
    state = _torch_arrays(weights, prefix, "nn.Linear", ("weight", "bias"))
    kernel = np.ascontiguousarray(shaped(f"{prefix}weight", state["weight"], "out", "in").T)
    bias = [shaped(f"{prefix}bias", state["bias"], kernel.shape[1])] if "bias" in state else []
    return paired(layer, dense_from_keras([kernel, *bias]))


def matched_embedding(layer: Any, weights: Any, prefix: str) -> Pairs:
    """Check that weights fit an embedding layer, and return a list of one pair: the parameter, and the array with its new values."""
    if isinstance(weights, Mapping) and not prefix and "embedding" in weights:
        (table,) = embedding_to_keras(weights)
        return paired(layer, {"embedding": table})
    longest = getattr(weights, "max_norm", None)
    require(longest is None, "max_norm", longest, "the layer does not change its vectors: give the state dict, if that is intended")
    state = _torch_arrays(weights, prefix, "nn.Embedding", ("weight",))
    return paired(layer, embedding_from_keras([shaped(f"{prefix}weight", state["weight"], "V", "E")]))


def _torch_arrays(weights: Any, prefix: str, module: str, names: tuple[str, ...]) -> dict[str, Any]:
    """Return the arrays of a PyTorch module as a dict from their names in the module, such as "weight"."""
    state = weights.state_dict() if has_state_dict(weights) else weights
    remedy = f"give an {module}, its state dict, or arrays that a function of lstm_jax.convert has converted"
    require(isinstance(state, Mapping), "weights", kind_of(weights), remedy)
    found = {name.removeprefix(prefix): value for name, value in state.items() if isinstance(name, str) and name.startswith(prefix)}
    remedy = f"give the state dict of an {module}, and its prefix if it is part of a bigger model ('fc.')"
    require(names[0] in found, f"{prefix}{names[0]} in the state dict", "missing", remedy)
    others = sorted(set(found) - set(names))
    require(not others, f"name in the state dict of an {module}", f"{prefix}{others[0] if others else ''}", remedy)
    return found


def split_flat(model: Any, weights: Any) -> tuple[list[Layer], Pairs]:
    """Split a flat dict of weights, after checking that its arrays for the embedding and the head fit a model."""
    kind = SENTIMENT if is_a(model, OWN, "SentimentClassifier") else CHARACTER
    remedy = "give a flat dict such as that of sentiment_from_keras_file, or load the parts of the model one by one"
    check_named(f"weights of a {kind}", weights, remedy)
    layers = split_paths(weights, kind)
    arrays: dict[str, Arrays] = {"embedding": {}, "head": {}}
    for path in (path for path in ENDS if path in weights):
        part, name = path.split("/")
        arrays[part][name] = shaped(path, weights[path], *(("rows", "columns") if name != "bias" else ("outputs",)))
    tied, embedded = not hasattr(model.head, "kernel"), model.embedding is not None
    remedy = "the model has an embedding" if embedded else "the model has none: its input is one-hot"
    require(embedded == bool(arrays["embedding"]), ENDS[0], "missing" if embedded else "given", remedy)
    if tied and "kernel" in arrays["head"]:
        alike = np.array_equal(arrays["head"].pop("kernel"), arrays["embedding"]["embedding"].T)
        require(alike, ENDS[1], "not the transposed embedding", "the model ties the two: make it with tied=False, or leave out the key")
    require(tied or "kernel" in arrays["head"], ENDS[1], "missing", "the model has a head of its own: make it with tied=True")
    parts = ((name, getattr(model, name)) for name in arrays)
    return layers, [pair for name, part in parts if part is not None for pair in paired(part, arrays[name], f"{name}/")]
