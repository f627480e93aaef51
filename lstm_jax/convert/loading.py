"""Loading of converted weights into layers and models of lstm_jax, and into dense and
embedding layers of Flax.

Layers of lstm_jax and of other libraries are recognised by the names of their classes
and modules, without importing either.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy import ndarray

from lstm_jax.base.checks import is_a
from lstm_jax.base.errors import kind_of, require
from lstm_jax.convert.arrays import (
    CELLS,
    CHARACTER,
    DIRECTIONS,
    ENDS,
    LAYOUTS,
    OWN,
    SENTIMENT,
    SUCCESSORS,
    TORCH_CELLS,
    Arrays,
    base_cell,
    below,
    check_computes,
    check_keys,
    checked,
    halves,
    layers_of,
    split_paths,
    to_numpy,
)
from lstm_jax.convert.keras import cell_from_keras
from lstm_jax.convert.torch import layers_from_torch, plain_from_torch

Pairs = list[tuple[Any, ndarray]]
"""List of pairs: a parameter of a layer, and the array with its new values."""


def _paired(layer, arrays: Arrays, where: str = "") -> Pairs:
    found = []
    for name, array in arrays.items():
        parameter = getattr(layer, name, None)
        if parameter is None:
            remedy = (
                f"the {name} of the weights is not zero: give a layer with "
                "use_bias=True"
            )
            require(not array.any(), f"{where}use_bias", False, remedy)
        else:
            require(
                parameter.shape == array.shape,
                where + name,
                f"shape {array.shape}",
                f"the layer has {parameter.shape}",
            )
            found.append((parameter, array.astype(parameter.dtype)))
    return found


def _paired_layers(
    layer, weights: Sequence, where: str = "", allowed: Sequence[str] = ()
) -> Pairs:
    # `where` is the path of a layer's weights in error messages. `allowed` are the
    # cells, with their activations, that the weights fit; if it is empty, the
    # activations are not checked.
    layers = layers_of(layer)
    require(
        len(layers) == len(weights),
        "layers",
        len(layers),
        f"the weights have {len(weights)}: give a RecurrentStack of as many layers",
    )
    found = []
    for number, (part, given) in enumerate(zip(layers, weights, strict=True)):
        at, path = (
            f" of layer {number}" if len(layers) > 1 else "",
            where.format(number),
        )
        require(
            is_a(part, OWN, "Recurrent", "Bidirectional"),
            f"layer{at}",
            kind_of(part),
            "give Recurrent and Bidirectional layers",
        )
        node = is_a(given, OWN, "RecurrentNode")
        ours, theirs = halves(part), halves(given.weights if node else given, path)
        remedy = (
            f"the weights have {len(theirs)}: give a "
            f"{'Recurrent' if len(ours) > 1 else 'Bidirectional'} layer"
        )
        require(len(ours) == len(theirs), f"directions{at}", len(ours), remedy)
        if len(ours) > 1 and _is_keras(given):
            _check_option(part, "merge_mode", given.merge_mode, at)
        for direction, half in ours.items():
            arrays, cell = theirs[direction], base_cell(half)
            inner, place = below(path, direction), at + (direction and f", {direction}")
            if _is_keras(arrays):
                name = path.rstrip("/") or "weights"
                arrays = _from_keras(
                    arrays, half, name + (direction and f".{direction}_layer"), place
                )
            elif node:
                check_computes("the ONNX node", [given.cell.name], half.cell, place)
                reverse = given.direction == "reverse"
                remedy = (
                    f"the ONNX node reads {given.direction}: give a layer with "
                    f"go_backwards={reverse}, keep_order={reverse}"
                )
                require(
                    direction
                    or (half.go_backwards, half.keep_order) == (reverse, reverse),
                    f"go_backwards{at}",
                    half.go_backwards,
                    remedy,
                )
            else:
                check_computes(
                    "the other layer",
                    allowed or (*CELLS, *SUCCESSORS),
                    half.cell if allowed else cell,
                    place,
                )
            found += _paired(half, checked(LAYOUTS[cell], arrays, inner), inner)
    return found


KERAS_CELLS = {"LSTM": "lstm", "GRU": "gru", "SimpleRNN": "simple_rnn"}
"""Dict from the class of a recurrent Keras layer to the name of its cell in lstm_jax.

A GRU with `reset_after=False` has the cell "gru_reset_before" instead of "gru".
"""


def _is_keras(value) -> bool:
    return is_a(value, "keras", "Layer")


def _check_option(layer, name: str, wanted, at: str) -> None:
    value = getattr(layer, name)
    require(
        value == wanted,
        f"{name}{at}",
        value,
        f"the Keras layer has {wanted}: give a layer with {name}={wanted!r}",
    )


def _from_keras(layer, own, name: str, at: str) -> Arrays:
    cell = next(
        (cell for kind, cell in KERAS_CELLS.items() if is_a(layer, "keras", kind)), ""
    )
    remedy = (
        f"give one of {', '.join(KERAS_CELLS)} and Bidirectional of Keras, or "
        "arrays that a function of lstm_jax.convert has converted"
    )
    require(cell, name, type(layer).__name__, remedy)
    if cell == "gru" and not layer.reset_after:
        cell = "gru_reset_before"
    weights = layer.get_weights()
    require(weights, name, "no weights", "the layer is not built: call it once")
    defaults = {"activation": "tanh"} | (
        {} if cell == "simple_rnn" else {"recurrent_activation": "sigmoid"}
    )
    functions = {argument: _activation(layer, argument, name) for argument in defaults}
    computed = (
        cell if functions == defaults else f"{cell}({', '.join(functions.values())})"
    )
    check_computes("the Keras layer", [computed], own.cell, at)
    _check_option(own, "go_backwards", layer.go_backwards, at)
    # Keras' outputs are in the order in which the steps are read
    if layer.go_backwards:
        _check_option(own, "keep_order", False, at)
    return cell_from_keras(cell, weights, f"{name}: ")


def _activation(layer, argument: str, name: str) -> str:
    """Return the name that an activation of a Keras layer has in lstm_jax, such as
    "relu".
    """
    function = getattr(layer, argument)
    called = getattr(function, "__name__", type(function).__name__)
    module = (getattr(function, "__module__", None) or "").split(".")
    # keras.ops has other functions of the same names: its gelu approximates
    own = module[0] == "keras" and "activations" in module
    remedy = (
        "only the functions of keras.activations can be compared: give "
        "layer.get_weights(), converted by a function of convert"
    )
    require(
        own and hasattr(function, "__name__"), f"{argument} of {name}", called, remedy
    )
    return called


def _state_dict(value) -> Any:
    is_module = (
        not isinstance(value, type)
        and callable(getattr(value, "state_dict", None))
        and not _is_keras(value)
    )
    return value.state_dict() if is_module else value


def _plain(kind: str, weights, prefix: str) -> Arrays:
    if (
        isinstance(weights, Mapping)
        and not prefix
        and next(iter(LAYOUTS[kind].shapes)) in weights
    ):
        return checked(LAYOUTS[kind], weights)
    longest = getattr(weights, "max_norm", None)
    require(
        longest is None,
        "max_norm",
        longest,
        "the layer does not change its vectors: give the state dict, if that "
        "is intended",
    )
    state = _state_dict(weights)
    remedy = (
        f"give an nn.{LAYOUTS[kind].module}, its state dict, or arrays that a "
        "function of lstm_jax.convert has converted"
    )
    check_keys("weights", state, remedy=remedy)
    return plain_from_torch(kind, state, prefix)


def _paired_model(model, weights) -> Pairs:
    layers = split_paths(
        weights, SENTIMENT if is_a(model, OWN, "SentimentClassifier") else CHARACTER
    )
    found = []
    for path in ENDS:
        part, name = path.split("/")
        parameter, value = getattr(getattr(model, part), name, None), weights.get(path)
        if path == "head/kernel" and parameter is None and value is not None:
            alike = np.array_equal(
                to_numpy(path, value), to_numpy(ENDS[0], weights[ENDS[0]]).T
            )
            require(
                alike,
                path,
                "not the transposed embedding",
                "the model ties the two: make it with tied=False, or leave out the key",
            )
            continue
        remedy = (
            f"the model has {'none' if parameter is None else 'one'}: make "
            "another model, with embed or tied as in the weights"
        )
        require(
            (parameter is None) == (value is None),
            path,
            "missing" if value is None else "given",
            remedy,
        )
        if value is not None:
            found += _paired(
                getattr(model, part), {name: to_numpy(path, value)}, f"{part}/"
            )
    return found + _paired_layers(model.recurrent, layers, "recurrent/{}/")


def _paired_recurrent(layer, weights, prefix: str) -> Pairs:
    state = _state_dict(weights)
    if isinstance(state, Mapping) and (
        prefix or not {"kernel", "recurrent_kernel", "bias", *DIRECTIONS} & set(state)
    ):
        cell = base_cell(next(iter(halves(layers_of(layer)[0]).values())))
        allowed = TORCH_CELLS.get(cell, (cell,))
        if not prefix and hasattr(weights, "nonlinearity"):  # that of an nn.RNN
            allowed = [
                name
                for name in allowed
                if (weights.nonlinearity == "relu") == ("relu" in name)
            ]
        return _paired_layers(
            layer, layers_from_torch(cell, state, prefix), "layer {}/", allowed
        )
    require(
        not prefix,
        "prefix",
        repr(prefix),
        "only the state dict of a bigger model has one: leave it out",
    )
    listed = isinstance(weights, list | tuple)
    return _paired_layers(
        layer, weights if listed else [weights], "weights[{}]/" if listed else ""
    )


LOADABLE = (
    "give a Recurrent layer, a Bidirectional layer or a RecurrentStack, an "
    "nnx.Linear or an nnx.Embed, or a SentimentClassifier or a "
    "CharGenerator; load another model part by part, for example "
    "load(model.rnn, state_dict, prefix='rnn.')"
)


def load(layer, weights, prefix: str = "") -> None:
    """Set the parameters of a layer or a model to given weights, such as those of
    another library, after checking that the weights fit.

    If the weights do not fit, no parameter is changed. The arrays are converted to the
    dtype of the parameters: float64 weights, for example, are rounded if the layer has
    float32 parameters. A learned initial state and the state that a stateful layer
    carries are not changed. Options of the layer such as `residual`, zoneout and
    dropout are never compared with those of the other library. The options
    `go_backwards`, `keep_order` and `merge_mode` of the layer are compared only if
    `weights` are Keras layers.

    Args:
        layer: the layer or model whose parameters are set in place. It is a `Recurrent`
            layer (`LSTM`, `GRU`, `SimpleRNN`), a `Bidirectional` layer or a
            `RecurrentStack`; a dense layer (`nnx.Linear`, `ClassifierHead`); an
            embedding layer (`nnx.Embed`, `Embedding`); or a model
            (`SentimentClassifier`, `CharGenerator`).
        weights: for recurrent layers, one of these.

            - Weights in the layout of lstm_jax, which the functions of
              `lstm_jax.convert` return. For a `RecurrentStack`, a list of them, lowest
              layer first. The activations are not checked.
            - The state dict of a PyTorch nn.LSTM, nn.GRU, nn.RNN, nn.LSTMCell,
              nn.GRUCell or nn.RNNCell, or of a model that contains it. The layer must
              have the activations of PyTorch. A state dict does not show whether an
              nn.RNN uses tanh or relu. Both are therefore accepted.
            - The PyTorch module itself. An nn.RNN then shows whether it uses tanh or
              relu.
            - A Keras LSTM, GRU, SimpleRNN, or Bidirectional of one of them. For a
              `RecurrentStack`, a list of such Keras layers. The layer must have the
              same activations as the Keras layer and, if it is a GRU, the same
              `reset_after`. A `Recurrent` layer must have the same `go_backwards`. If
              `go_backwards` is true, it must also have `keep_order=False`, since Keras
              returns the outputs in the order in which the steps are read. A
              `Bidirectional` layer must have the same `merge_mode`.
            - A recurrent node of an ONNX model (see `from_onnx`) or, for a
              `RecurrentStack`, a list of them. The layer must have the same cell and
              activations. If the node reads in reverse, the layer must have
              `go_backwards=True` and `keep_order=True`.

            For a dense layer: {"kernel": (in, out), "bias": (out,)}, or an nn.Linear of
            PyTorch, or the state dict of an nn.Linear or of a model that contains it.

            For an embedding layer: {"embedding": (V, E)}, or an nn.Embedding of
            PyTorch, or the state dict of an nn.Embedding or of a model that contains
            it.

            For a model: a dict from the paths of its arrays, such as
            "recurrent/0/kernel", to the arrays. `sentiment_from_keras_file` and
            `generation_from_torch`, for example, return such a dict. To copy the
            weights of another model object `model` of lstm_jax, give
            `lstm_jax.training.parts.functional(model).params`. If `layer` is a model, its cell
            must be one that converts, see docs/concepts/cells.md.
        prefix: prefix of the names of the PyTorch module's arrays in the state dict of
            a bigger model, for example "rnn.".

    Raises:
        InputError: if `layer` or `weights` is none of these, or `prefix` is given for
            weights without names of PyTorch. Also if the layer and the weights differ
            in the number of layers or directions, in the cell, in a parameter's name or
            shape, or in an option that is known of both; if the layer has no bias and
            the bias in the weights is not zero; or if layers share a parameter and the
            weights have different values for it.
    """
    if is_a(layer, "flax.nnx", "Linear") or is_a(layer, OWN, "ClassifierHead"):
        found = _paired(layer, _plain("dense", weights, prefix))
    elif is_a(layer, "flax.nnx", "Embed") or is_a(layer, OWN, "Embedding"):
        found = _paired(layer, _plain("embedding", weights, prefix))
    elif is_a(layer, OWN, "SentimentClassifier", "CharGenerator"):
        require(
            not prefix,
            "prefix",
            repr(prefix),
            "the flat dict of a model has none: leave it out",
        )
        found = _paired_model(layer, weights)
    else:
        recurrent = is_a(layer, OWN, "Recurrent", "Bidirectional", "RecurrentStack")
        require(recurrent, "layer", kind_of(layer), LOADABLE)
        found = _paired_recurrent(layer, weights, prefix)
    first = {}
    for variable, array in found:
        same = np.array_equal(
            first.setdefault(id(variable), array), array, equal_nan=True
        )
        require(
            same,
            "layer",
            "two layers that share a parameter",
            "the weights differ there: give layers with parameters of their own",
        )
        # as `nnx.eval_shape` makes it
        shape_alone = is_a(variable.get_raw_value(), "jax", "ShapeDtypeStruct")
        require(
            not shape_alone,
            "layer",
            "ShapeDtypeStruct",
            "give one whose parameters are arrays",
        )
    for variable, array in found:
        variable[...] = array
