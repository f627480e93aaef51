"""Conversion of weights between lstm_jax and the state dicts of PyTorch models that consist of nn.Embedding, nn.LSTM and nn.Linear.

The docstring of the package `lstm_jax.convert` describes the layout of weights in lstm_jax, and the module `lstm_jax.convert.torch_layers`
converts the layers.

The head of a bidirectional sentiment model of lstm_jax reads the final state h of each direction. A PyTorch model with the same result must
compute its head from cat(h_n[-2], h_n[-1]), not from output[:, -1].
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lstm_jax.convert.arrays import CHARACTER, SENTIMENT, Arrays, Kind, Layer, join_model, shaped, split_model
from lstm_jax.convert.torch_layers import check_state_dict, layers_from_torch, layers_to_torch
from lstm_jax.errors import require
from lstm_jax.files.reading import open_input, parsing


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
