"""Loading of converted weights into layers and models of lstm_jax, and into dense and embedding layers of Flax.

Layers of lstm_jax and of other libraries are recognised by the names of their classes and modules, without importing either.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from lstm_jax.bounds import is_a
from lstm_jax.convert.arrays import (
    CELLS,
    CHARACTER,
    DIRECTIONS,
    ENDS,
    LAYOUTS,
    OWN,
    PROJECTED,
    SENTIMENT,
    TORCH_CELLS,
    Arrays,
    Layer,
    base_cell,
    check_activations,
    check_keys,
    check_layer,
    check_named,
    checked,
    find_cell,
    is_bidirectional,
    kind_of,
    split_paths,
    to_numpy,
)
from lstm_jax.convert.keras import cell_from_keras
from lstm_jax.convert.torch import find_torch_cell, layers_from_torch
from lstm_jax.errors import require

Pairs = list[tuple[Any, np.ndarray]]
"""List of pairs: a parameter of a layer, and the array with its new values."""


class Given(NamedTuple):
    """Weights that are to be loaded into one recurrent layer.

    Attributes:
        arrays: the weights in the layout of lstm_jax.
        cell: name of the cell that the weights belong to, without its activations.
        allowed: cells that the layer may have, each with its activations, for example ("simple_rnn(relu)",). If None, the layer may have
            any activations, because those of the weights are not known.
        source: origin of the weights as error messages name it.
        options: dict from the name of an attribute of the layer, such as "go_backwards", to the value that the attribute must have.
    """

    arrays: Layer
    cell: str
    allowed: tuple[str, ...] | None = None
    source: str = "PyTorch module"
    options: Mapping[str, Any] = {}


def _paired(layer: Any, arrays: Arrays, where: str = "", at: str = "") -> Pairs:
    """Pair each array with the parameter of the same name, after checking that their shapes are equal."""
    found = []
    for name, array in arrays.items():
        parameter = getattr(layer, name, None)
        if parameter is None:
            remedy = f"the {name} of the weights is not zero: give a layer with use_bias=True"
            require(not array.any(), f"{where}use_bias{at}", False, remedy)
        else:
            require(parameter.shape == array.shape, f"{where}{name}{at}", f"shape {parameter.shape}", f"the weights have {array.shape}")
            found.append((parameter, array.astype(parameter.dtype)))
    return found


def _paired_layers(layer: Any, given: list[Given]) -> Pairs:
    """Pair the parameters of recurrent layers with weights, after checking that the weights fit the layers."""
    layers = list(layer.layers) if is_a(layer, OWN, "RecurrentStack") else [layer]
    require(len(layers) == len(given), "layers", len(layers), f"the weights have {len(given)}: give a RecurrentStack of as many layers")
    found: Pairs = []
    for number, (part, own) in enumerate(zip(layers, given, strict=True)):
        at = f" of layer {number}" if len(layers) > 1 else ""
        both = is_a(part, OWN, "Bidirectional")
        require(both or is_a(part, OWN, "Recurrent"), f"layer{at}", type(part).__name__, "give Recurrent and Bidirectional layers")
        remedy = "the weights have one direction: give a Recurrent layer" if both else "the weights have both: give a Bidirectional layer"
        require(both == is_bidirectional(own.arrays), f"directions{at}", 2 if both else 1, remedy)
        for name, wanted in own.options.items():
            value = getattr(part, name)
            require(value == wanted, f"{name}{at}", value, f"the {own.source} has {wanted}: give a layer with {name}={wanted!r}")
        halves = [(getattr(part, name), own.arrays[name], f"{at}, {name}") for name in DIRECTIONS] if both else [(part, own.arrays, at)]
        found += [pair for half, arrays, at in halves for pair in _paired_cell(half, own, arrays, at)]
    return found


def _paired_cell(layer: Any, given: Given, arrays: Arrays, at: str) -> Pairs:
    """Pair the parameters of a `Recurrent` layer with weights, after checking that the weights fit the layer."""
    outputs, columns = arrays["recurrent_kernel"].shape
    remedy = f"projection={outputs}" if given.cell == PROJECTED else "this cell"
    fits = base_cell(layer) == given.cell
    require(fits, f"cell{at}", layer.cell, f"the weights are those of the cell {given.cell}: give a layer with {remedy}")
    check_activations(layer, given.allowed or (layer.cell,), at, given.source)
    sizes = {"features": len(arrays["kernel"]), "units": columns // LAYOUTS[given.cell].gates, "output_features": outputs}
    for name, wanted in sizes.items():
        own = getattr(layer, name)
        require(own == wanted, f"{name}{at}", own, f"the weights have {wanted} {name}: give a layer with as many")
    return _paired(layer, arrays, at=at)


KERAS_CELLS = {"LSTM": "lstm", "GRU": "gru", "SimpleRNN": "simple_rnn"}
"""Dict from the class of a recurrent Keras layer to the name of its cell in lstm_jax.

A GRU with `reset_after=False` has the cell "gru_reset_before" instead of "gru".
"""
NAMES = {"exponential": "exp", "softsign": "soft_sign"}
"""Dict from the name of an activation in Keras to its name in the attribute `cell` of a layer of lstm_jax, if the two names differ."""


def _is_keras(value: Any) -> bool:
    return is_a(value, "keras", "Layer")


def _given_by_keras(layer: Any, name: str) -> Given:
    """Return the weights of a recurrent Keras layer, and the cell and the options that a layer of lstm_jax must have for these weights."""
    if not is_a(layer, "keras", "Bidirectional"):
        given = _given_by_one(layer, name)
        order = {"keep_order": False} if layer.go_backwards else {}  # Keras' outputs are in the order in which the steps are read
        return given._replace(options={"go_backwards": layer.go_backwards} | order)
    pair = {"forward": layer.forward_layer, "backward": layer.backward_layer}
    halves = {direction: _given_by_one(half, f"{name}.{direction}_layer") for direction, half in pair.items()}
    cells = [*(halves["forward"].allowed or ()), *(halves["backward"].allowed or ())]
    remedy = "load its forward_layer and its backward_layer one by one"
    require(cells[0] == cells[1], name, f"directions {' and '.join(cells)}", remedy)
    backwards = [half.go_backwards for half in pair.values()]
    require(backwards == [False, True], name, f"go_backwards {backwards[0]} and {backwards[1]}", remedy)
    arrays = {direction: half.arrays for direction, half in halves.items()}
    return halves["forward"]._replace(arrays=arrays, options={"merge_mode": layer.merge_mode})


def _given_by_one(layer: Any, name: str) -> Given:
    found = [cell for kind, cell in KERAS_CELLS.items() if is_a(layer, "keras", kind)]
    kinds = ", ".join((*KERAS_CELLS, "Bidirectional"))
    remedy = f"give a {kinds} of Keras, or arrays that cell_from_keras or another function of lstm_jax.convert has converted"
    require(bool(found), name, type(layer).__name__, remedy)
    cell = "gru_reset_before" if found == ["gru"] and not layer.reset_after else found[0]
    weights = layer.get_weights()
    require(bool(weights), name, "no weights", "the layer is not built: call it once")
    defaults = {"activation": "tanh"} | ({} if cell == "simple_rnn" else {"recurrent_activation": "sigmoid"})
    functions = {argument: _activation(layer, argument, name) for argument in defaults}
    allowed = cell if functions == defaults else f"{cell}({', '.join(functions.values())})"
    return Given(cell_from_keras(cell, weights, f"{name}: "), cell, (allowed,), "Keras layer")


def _activation(layer: Any, argument: str, name: str) -> str:
    """Return the name that an activation of a Keras layer has in lstm_jax, such as "relu"."""
    function = getattr(layer, argument)
    called = getattr(function, "__name__", type(function).__name__)
    module = (getattr(function, "__module__", None) or "").split(".")
    own = module[0] == "keras" and "activations" in module  # keras.ops has other functions of the same names: its gelu approximates
    remedy = "only the functions of keras.activations can be compared: give layer.get_weights(), converted by a function of convert"
    require(own and hasattr(function, "__name__"), f"{argument} of {name}", called, remedy)
    return NAMES.get(called, called)


def _state_dict(value: Any) -> Any:
    """Return the state dict of a PyTorch module. Any other value is returned unchanged."""
    is_module = not isinstance(value, type) and callable(getattr(value, "state_dict", None))
    return value.state_dict() if is_module else value


def _paired_plain(kind: str, layer: Any, weights: Any, prefix: str) -> Pairs:
    """Pair the parameters of a dense layer or an embedding with weights, after checking that the weights fit the layer."""
    first, *others = LAYOUTS[kind].shapes
    if isinstance(weights, Mapping) and not prefix and first in weights:
        return _paired(layer, checked(kind, weights))
    longest, module = getattr(weights, "max_norm", None), f"nn.{LAYOUTS[kind].module}"
    require(longest is None, "max_norm", longest, "the layer does not change its vectors: give the state dict, if that is intended")
    state = _state_dict(weights)
    remedy = f"give an {module}, its state dict, or arrays that a function of lstm_jax.convert has converted"
    require(isinstance(state, Mapping), "weights", kind_of(weights), remedy)
    found = {name.removeprefix(prefix): value for name, value in state.items() if isinstance(name, str) and name.startswith(prefix)}
    remedy = f"give the state dict of an {module}, and its prefix if it is part of a bigger model ('fc.')"
    require("weight" in found, f"{prefix}weight in the state dict", "missing", remedy)
    unknown = sorted(set(found) - {"weight", *others})
    require(not unknown, f"name in the state dict of an {module}", f"{prefix}{''.join(unknown[:1])}", remedy)
    table = to_numpy(f"{prefix}weight", found["weight"])
    arrays = {first: table.T if kind == "dense" else table} | {name: found.get(name) for name in others}
    return _paired(layer, checked(kind, arrays, prefix, names={first: "transposed weight" if kind == "dense" else "weight"}))


def _paired_model(model: Any, weights: Any) -> Pairs:
    """Pair the parameters of a model with a flat dict of weights, after checking that the weights fit the model."""
    layers = split_paths(weights, SENTIMENT if is_a(model, OWN, "SentimentClassifier") else CHARACTER)
    found: Pairs = []
    tied = not hasattr(model.head, "kernel")
    for path in ENDS:
        part, name = path.split("/")
        parameter, value = getattr(getattr(model, part), name, None), weights.get(path)
        if tied and path == "head/kernel":
            alike = value is None or np.array_equal(to_numpy(path, value), to_numpy(ENDS[0], weights[ENDS[0]]).T)
            require(alike, path, "not the transposed embedding", "the model ties the two: make it with tied=False, or leave out the key")
            continue
        remedy = f"the model has {'none' if parameter is None else 'one'}: make another model, with embed or tied as in the weights"
        require((parameter is None) == (value is None), path, "missing" if value is None else "given", remedy)
        if value is not None:
            found += _paired(getattr(model, part), {name: to_numpy(path, value)}, f"{part}/")
    return found + _paired_layers(model.recurrent, _converted(layers, "recurrent/{}/"))


REMEDY = "give weights that lstm_jax.convert has converted, or the state dict of a PyTorch module"
LOADABLE = (
    "give a Recurrent layer, a Bidirectional layer or a RecurrentStack, an nnx.Linear or an nnx.Embed, or a SentimentClassifier or a "
    "CharGenerator; load another model part by part, for example load(model.rnn, state_dict, prefix='rnn.')"
)


def load(layer: Any, weights: Any, prefix: str = "") -> None:
    """Set the parameters of a layer or a model to given weights, such as those of another library, after checking that the weights fit.

    If the weights do not fit, no parameter is changed. The arrays are converted to the dtype of the parameters: float64 weights, for
    example, are rounded if the layer has float32 parameters. A learned initial state and the state that a stateful layer carries are not
    changed. Options of the layer such as `residual`, zoneout and dropout are never compared with those of the other library. The options
    `go_backwards`, `keep_order` and `merge_mode` of the layer are compared only if `weights` are Keras layers.

    Args:
        layer: the layer or model whose parameters are set in place. It is a `Recurrent` layer (`LSTM`, `GRU`, `SimpleRNN`), a
            `Bidirectional` layer or a `RecurrentStack`; a dense layer (`nnx.Linear`, `ClassifierHead`); an embedding layer (`nnx.Embed`,
            `Embedding`); or a model (`SentimentClassifier`, `CharGenerator`).
        weights: for recurrent layers, one of these.

            - Weights in the layout of lstm_jax, which the functions of `lstm_jax.convert` return. For a `RecurrentStack`, a list of them,
              lowest layer first. The activations are not checked.
            - The state dict of a PyTorch nn.LSTM, nn.GRU, nn.RNN, nn.LSTMCell, nn.GRUCell or nn.RNNCell, or of a model that contains it.
              The layer must have the activations of PyTorch. A state dict does not show whether an nn.RNN uses tanh or relu. Both are
              therefore accepted.
            - The PyTorch module itself. An nn.RNN then shows whether it uses tanh or relu.
            - A Keras LSTM, GRU, SimpleRNN, or Bidirectional of one of them. For a `RecurrentStack`, a list of such Keras layers. The layer
              must have the same activations as the Keras layer and, if it is a GRU, the same `reset_after`. A `Recurrent` layer must have
              the same `go_backwards`. If `go_backwards` is true, it must also have `keep_order=False`, since Keras returns the outputs in
              the order in which the steps are read. A `Bidirectional` layer must have the same `merge_mode`.

            For a dense layer: {"kernel": (in, out), "bias": (out,)}, or an nn.Linear of PyTorch, or the state dict of an nn.Linear or of a
            model that contains it.

            For an embedding layer: {"embedding": (V, E)}, or an nn.Embedding of PyTorch, or the state dict of an nn.Embedding or of a model
            that contains it.

            For a model: a dict from the paths of its arrays, such as "recurrent/0/kernel", to the arrays. `sentiment_from_keras_file` and
            `generation_from_torch`, for example, return such a dict. To copy the weights of another model object `model` of lstm_jax, give
            `lstm_jax.models.functional(model).params`. If `layer` is a model, its cell must be lstm, gru, gru_reset_before or simple_rnn.
        prefix: prefix of the names of the PyTorch module's arrays in the state dict of a bigger model, for example "rnn.".

    Raises:
        InputError: if `layer` or `weights` is none of these, or `prefix` is given for weights without names of PyTorch. Also if the layer
            and the weights differ in the number of layers, directions, features or units, in the cell, in a parameter's name or shape, or
            in an option that is known of both; if the layer has no bias and the bias in the weights is not zero; or if layers share a
            parameter and the weights have different values for it.
    """
    if is_a(layer, "flax.nnx", "Linear") or is_a(layer, OWN, "ClassifierHead"):
        found = _paired_plain("dense", layer, weights, prefix)
    elif is_a(layer, "flax.nnx", "Embed") or is_a(layer, OWN, "Embedding"):
        found = _paired_plain("embedding", layer, weights, prefix)
    elif is_a(layer, OWN, "SentimentClassifier", "CharGenerator"):
        require(not prefix, "prefix", repr(prefix), "the flat dict of a model has none: leave it out")
        found = _paired_model(layer, weights)
    else:
        recurrent = is_a(layer, OWN, "Recurrent", "Bidirectional", "RecurrentStack")
        require(recurrent, "layer", kind_of(layer), LOADABLE)
        found = _paired_layers(layer, _given(weights, prefix))
    first: dict[int, Any] = {}
    for variable, array in found:
        same = np.array_equal(first.setdefault(id(variable), array), array, equal_nan=True)
        require(same, "layer", "two layers that share a parameter", "the weights differ there: give layers with parameters of their own")
        shape_alone = is_a(variable.get_raw_value(), "jax", "ShapeDtypeStruct")  # as `nnx.eval_shape` makes it
        require(not shape_alone, "layer", "ShapeDtypeStruct", "give one whose parameters are arrays")
    for variable, array in found:
        variable[...] = array


def _given(weights: Any, prefix: str) -> list[Given]:
    """Return a list of the weights of each recurrent layer, in which the lowest layer comes first."""
    state = weights if _is_keras(weights) else _state_dict(weights)
    of_module = state is not weights
    if isinstance(weights, Mapping):
        check_named("weights", weights, "give the state dict of a PyTorch module, or converted weights")
        inside = bool(prefix) and any(name.startswith(prefix) for name in weights)
        of_module = inside or not {"kernel", "recurrent_kernel", "bias", *DIRECTIONS} & set(weights)
    if of_module:
        cell = find_torch_cell(state, prefix)
        nonlinearity = None if prefix else getattr(weights, "nonlinearity", None)
        only = {"tanh": "simple_rnn", "relu": "simple_rnn(relu)"}.get(nonlinearity or "")
        allowed = (only,) if only and cell == "simple_rnn" else TORCH_CELLS[cell]
        return [Given(arrays, cell, allowed) for arrays in layers_from_torch(cell, state, prefix)]
    require(not prefix, "prefix", repr(prefix), "only the state dict of a bigger model has one: leave it out")
    if _is_keras(weights):
        return [_given_by_keras(weights, "weights")]
    require(isinstance(weights, Mapping | list | tuple), "weights", kind_of(weights), REMEDY)
    return _converted([weights], "") if isinstance(weights, Mapping) else _converted(weights, "weights[{}]/")


def _converted(weights: Sequence[Any], where: str) -> list[Given]:
    """Return the weights of each recurrent layer, after checking their layout."""
    found = []
    for number, arrays in enumerate(weights):
        if _is_keras(arrays):
            found.append(_given_by_keras(arrays, f"weights[{number}]"))
            continue
        require(isinstance(arrays, Mapping), f"weights[{number}]", kind_of(arrays), REMEDY)
        path = where.format(number)
        cell = _find_cell(arrays, path)
        found.append(Given(check_layer(arrays, path, cell), cell))
    return found


def _find_cell(layer: Mapping[str, Any], where: str) -> str:
    """Infer which cell a layer's weights belong to, and return its name, such as "lstm"."""
    arrays = layer
    if is_bidirectional(layer):
        check_keys(f"{where}bidirectional layer", layer, DIRECTIONS)
        arrays, where = layer["forward"], f"{where}forward/"
    check_named(f"{where}weights", arrays, REMEDY)
    named = [cell for cell in CELLS if set(LAYOUTS[cell].shapes) == set(arrays)]
    remedy = "expected kernel, recurrent_kernel, bias and, for a GRU, recurrent_bias or, for an LSTM with a projection, projection"
    require(bool(named), f"{where}weights", f"keys {', '.join(sorted(arrays)) or '(none)'}", remedy)
    if len(named) == 1:
        return named[0]
    return find_cell(f"{where}recurrent_kernel", to_numpy(f"{where}recurrent_kernel", arrays["recurrent_kernel"]).shape, named)
