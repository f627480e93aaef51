"""Loading of converted weights into layers and models of lstm_jax, and into dense and embedding layers of Flax.

Layers of lstm_jax and of other libraries are recognised by the names of their classes and modules, without importing either.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from lstm_jax.bounds import is_a
from lstm_jax.convert.arrays import (
    CHARACTER,
    DIRECTIONS,
    ENDS,
    LAYOUTS,
    LSTM_NAMES,
    PROJECTED,
    SENTIMENT,
    Arrays,
    Layer,
    check_keys,
    check_layer,
    check_named,
    has_state_dict,
    is_bidirectional,
    kind_of,
    shaped,
    split_paths,
)
from lstm_jax.convert.exporting import OWN, TORCH_CELLS, base_cell, check_activations
from lstm_jax.convert.keras import cell_from_keras, dense_from_keras, dense_to_keras, embedding_from_keras, embedding_to_keras
from lstm_jax.convert.torch import find_torch_cell, layers_from_torch
from lstm_jax.errors import InputError, require


class Given(NamedTuple):
    """Weights that are to be loaded into one layer.

    Attributes:
        arrays: the weights in the layout of lstm_jax.
        cell: name of the cell that the weights belong to, without its activations.
        allowed: cells that the layer may have, each with its activations, for example ("simple_rnn(relu)",). If None, the layer may have
            any activations, because those of the weights are not known.
        source: origin of the weights as error messages name it, for example "PyTorch module".
        options: dict from the name of an attribute of the layer, such as "go_backwards", to the value that the attribute must have.
    """

    arrays: Layer
    cell: str
    allowed: tuple[str, ...] | None = None
    source: str = "PyTorch module"
    options: Mapping[str, Any] = {}


def matched(layer: Any, given: Given, at: str) -> list[tuple[Any, Any]]:
    """Check that weights fit a layer, and return a list of pairs: a parameter of the layer, and the array with its new values."""
    pair = is_a(layer, OWN, "Bidirectional")
    recurrent = pair or is_a(layer, OWN, "Recurrent")
    require(recurrent, f"layer{at}", type(layer).__name__, "give Recurrent and Bidirectional layers")
    if pair != is_bidirectional(given.arrays):
        remedy = "the weights have one direction: give a Recurrent layer" if pair else "the weights have both: give a Bidirectional layer"
        raise InputError(f"directions{at}", 2 if pair else 1, remedy)
    for name, wanted in given.options.items():
        own = getattr(layer, name)
        require(own == wanted, f"{name}{at}", own, f"the {given.source} has {wanted}: give a layer with {name}={wanted!r}")
    if not pair:
        return _matched_cell(layer, given, given.arrays, at)
    halves = ((name, getattr(layer, name), given.arrays[name]) for name in DIRECTIONS)
    return [found for name, part, arrays in halves for found in _matched_cell(part, given, arrays, f"{at}, {name}")]


def _matched_cell(layer: Any, given: Given, arrays: Arrays, at: str) -> list[tuple[Any, Any]]:
    """Check that weights fit a `Recurrent` layer, and return a list of pairs: a parameter, and the array with its new values."""
    cell = base_cell(layer)
    outputs, columns = arrays["recurrent_kernel"].shape
    remedy = f"projection={outputs}" if given.cell == PROJECTED else "this cell"
    require(cell == given.cell, f"cell{at}", layer.cell, f"the weights are those of the cell {given.cell}: give a layer with {remedy}")
    check_activations(layer, given.allowed or (layer.cell,), at, given.source)
    sizes = {"features": len(arrays["kernel"]), "units": columns // LAYOUTS[cell].gates, "output_features": outputs}
    for name, wanted in sizes.items():
        own = getattr(layer, name)
        require(own == wanted, f"{name}{at}", own, f"the weights have {wanted} {name}: give a layer with as many")
    return paired(layer, arrays, at=at)


def paired(layer: Any, arrays: Arrays, where: str = "", at: str = "") -> list[tuple[Any, Any]]:
    """Check that a layer has a parameter of the same name and shape for each array, and return pairs (parameter, array)."""
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


CELLS = {"LSTM": "lstm", "GRU": "gru", "SimpleRNN": "simple_rnn"}
"""Dict from the class of a recurrent Keras layer to the name of its cell in lstm_jax.

A GRU with `reset_after=False` has the cell "gru_reset_before" instead of "gru".
"""
KINDS = (*CELLS, "Bidirectional")
NAMES = {"exponential": "exp", "softsign": "soft_sign"}
"""Dict from the name of an activation in Keras to its name in the attribute `cell` of a layer of lstm_jax, if the two names differ."""


def is_keras(value: Any) -> bool:
    """Return whether a value is a layer or a model of Keras."""
    return is_a(value, "keras", "Layer")


def given_by_keras(layer: Any, name: str) -> Given:
    """Return the weights of a recurrent Keras layer, and the cell and the options that a layer of lstm_jax must have for these weights."""
    if not is_a(layer, "keras", "Bidirectional"):
        given = _given_by_one(layer, name)
        order = {"keep_order": False} if layer.go_backwards else {}  # Keras' outputs are in the order in which the steps are read
        return given._replace(options={"go_backwards": layer.go_backwards} | order)
    pair = {"forward": layer.forward_layer, "backward": layer.backward_layer}
    halves = {direction: _given_by_one(half, f"{name}.{direction}_layer") for direction, half in pair.items()}
    cells = [(halves[direction].allowed or ("",))[0] for direction in DIRECTIONS]
    remedy = "load its forward_layer and its backward_layer one by one"
    require(cells[0] == cells[1], name, f"directions {' and '.join(cells)}", remedy)
    backwards = [pair[direction].go_backwards for direction in DIRECTIONS]
    require(backwards == [False, True], name, f"go_backwards {backwards[0]} and {backwards[1]}", remedy)
    arrays = {direction: halves[direction].arrays for direction in DIRECTIONS}
    return halves["forward"]._replace(arrays=arrays, options={"merge_mode": layer.merge_mode})


def _given_by_one(layer: Any, name: str) -> Given:
    found = [kind for kind in CELLS if is_a(layer, "keras", kind)]
    remedy = f"give a {', '.join(KINDS)} of Keras, or arrays that cell_from_keras or another function of lstm_jax.convert has converted"
    require(bool(found), name, type(layer).__name__, remedy)
    cell = CELLS[found[0]]
    if cell == "gru" and not layer.reset_after:
        cell = "gru_reset_before"
    weights = layer.get_weights()
    require(bool(weights), name, "no weights", "the layer is not built: call it once")
    functions = [_activation(layer, "activation", name)]
    if cell != "simple_rnn":
        functions.append(_activation(layer, "recurrent_activation", name))
    default = functions == ["tanh", "sigmoid"][: len(functions)]
    allowed = cell if default else f"{cell}({', '.join(functions)})"
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


Pairs = list[tuple[Any, Any]]


def matched_dense(layer: Any, weights: Any, prefix: str) -> Pairs:
    """Check that weights fit a dense layer, and return pairs: a parameter of the layer, and the array with its new values."""
    if isinstance(weights, Mapping) and not prefix and "kernel" in weights:
        return paired(layer, dense_from_keras(dense_to_keras(weights)))
    state = _torch_arrays(weights, prefix, "nn.Linear", ("weight", "bias"))
    kernel = np.ascontiguousarray(shaped(f"{prefix}weight", state["weight"], "out", "in").T)
    bias = [shaped(f"{prefix}bias", state["bias"], kernel.shape[1])] if "bias" in state else []
    return paired(layer, dense_from_keras([kernel, *bias]))


def matched_embedding(layer: Any, weights: Any, prefix: str) -> Pairs:
    """Check that weights fit an embedding layer, and return a list of one pair: the parameter, and the array with its new values."""
    if isinstance(weights, Mapping) and not prefix and "embedding" in weights:
        return paired(layer, embedding_from_keras(embedding_to_keras(weights)))
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


KEYS = frozenset((*LSTM_NAMES, *DIRECTIONS))
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

    E is the number of input features, H the number of units, P the number of outputs of a projection, G the number of gates and V the size
    of the vocabulary.

    Args:
        layer: the layer or model whose parameters are set in place. It is a `Recurrent` layer (`LSTM`, `GRU`, `SimpleRNN`), a
            `Bidirectional` layer or a `RecurrentStack`; a dense layer (`nnx.Linear`, `ClassifierHead`); an embedding layer (`nnx.Embed`,
            `Embedding`); or a model (`SentimentClassifier`, `CharGenerator`).
        weights: for recurrent layers, one of these.

            - Weights in the layout of lstm_jax: for a `Recurrent` layer a dict of arrays such as {"kernel": (E, GH), "recurrent_kernel":
              (H, GH), "bias": (GH,)}, for a `Bidirectional` layer {"forward": dict, "backward": dict}, and for a `RecurrentStack` a list of
              such dicts, lowest layer first. The functions of `lstm_jax.convert` that convert layers return such weights. The dict of a
              layer with a projection also has "projection": (H, P), and its recurrent kernel is (P, 4H). The activations are not checked.
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
        InputError: in one of these cases.

            - `layer` is something else, or its parameters are no arrays.
            - Layers share a parameter, and the weights have different values for it.
            - `weights` has none of these forms.
            - `prefix` is given for weights other than a PyTorch module or a state dict.
            - The layer and the weights differ in the number of layers, directions, features or units, or in the cell.
            - The layer and the weights differ in the name or the shape of a parameter.
            - The layer and the weights differ in the activations. Those of the weights are known only for PyTorch and Keras layers.
            - The layer and a Keras layer differ in `go_backwards`, `keep_order` or `merge_mode`.
            - Only one of the layer and the weights has a projection.
            - The layer has no bias, and the bias in the weights is not zero.
    """
    if is_a(layer, "flax.nnx", "Linear") or is_a(layer, OWN, "ClassifierHead"):
        found = matched_dense(layer, weights, prefix)
    elif is_a(layer, "flax.nnx", "Embed") or is_a(layer, OWN, "Embedding"):
        found = matched_embedding(layer, weights, prefix)
    elif is_a(layer, OWN, "SentimentClassifier", "CharGenerator"):
        require(not prefix, "prefix", repr(prefix), "the flat dict of a model has none: leave it out")
        layers, found = split_flat(layer, weights)
        found = found + _matched_layers(layer.recurrent, _converted(layers, "recurrent/{}/"))
    else:
        recurrent = is_a(layer, OWN, "Recurrent", "Bidirectional", "RecurrentStack")
        require(recurrent, "layer", kind_of(layer), LOADABLE)
        found = _matched_layers(layer, _given(weights, prefix))
    first: dict[int, Any] = {}
    for variable, array in found:
        same = np.array_equal(first.setdefault(id(variable), array), array, equal_nan=True)
        require(same, "layer", "two layers that share a parameter", "the weights differ there: give layers with parameters of their own")
        shape_alone = is_a(variable.get_raw_value(), "jax", "ShapeDtypeStruct")  # as `nnx.eval_shape` makes it
        require(not shape_alone, "layer", "ShapeDtypeStruct", "give one whose parameters are arrays")
    for variable, array in found:
        variable[...] = array


def _matched_layers(layer: Any, given: list[Given]) -> list[tuple[Any, Any]]:
    """Check that weights fit recurrent layers, and return a list of pairs: a parameter, and the array with its new values."""
    layers = list(layer.layers) if is_a(layer, OWN, "RecurrentStack") else [layer]
    require(len(layers) == len(given), "layers", len(layers), f"the weights have {len(given)}: give a RecurrentStack of as many layers")
    many = len(layers) > 1
    return [
        pair
        for number, (part, own) in enumerate(zip(layers, given, strict=True))
        for pair in matched(part, own, f" of layer {number}" if many else "")
    ]


def _given(weights: Any, prefix: str) -> list[Given]:
    """Return a list of the weights of each recurrent layer, in which the lowest layer comes first."""
    if isinstance(weights, Mapping):
        check_named("weights", weights, "give the state dict of a PyTorch module, or converted weights")
        inside = bool(prefix) and any(name.startswith(prefix) for name in weights)
        if inside or not KEYS & set(weights):
            return _from_torch(weights, prefix, None)
    elif has_state_dict(weights) and not is_keras(weights):
        return _from_torch(weights.state_dict(), prefix, None if prefix else getattr(weights, "nonlinearity", None))
    require(not prefix, "prefix", repr(prefix), "only the state dict of a bigger model has one: leave it out")
    if is_keras(weights):
        return [given_by_keras(weights, "weights")]
    require(isinstance(weights, Mapping | list | tuple), "weights", kind_of(weights), REMEDY)
    return _converted([weights], "") if isinstance(weights, Mapping) else _converted(weights, "weights[{}]/")


def _converted(weights: Sequence[Any], where: str) -> list[Given]:
    """Return the weights of each recurrent layer, after checking their layout."""
    found = []
    for number, arrays in enumerate(weights):
        if is_keras(arrays):
            found.append(given_by_keras(arrays, f"weights[{number}]"))
            continue
        require(isinstance(arrays, Mapping), f"weights[{number}]", kind_of(arrays), REMEDY)
        path = where.format(number)
        cell = _find_cell(arrays, path)
        found.append(Given(check_layer(arrays, path, cell), cell))
    return found


def _from_torch(state: Mapping[str, Any], prefix: str, nonlinearity: Any) -> list[Given]:
    """Return the weights of each layer in a PyTorch state dict, lowest layer first."""
    cell = find_torch_cell(state, prefix)
    allowed = TORCH_CELLS[cell]
    if cell == "simple_rnn" and nonlinearity in ("tanh", "relu"):
        allowed = allowed[:1] if nonlinearity == "tanh" else allowed[1:]
    return [Given(arrays, cell, allowed) for arrays in layers_from_torch(cell, state, prefix)]


def _find_cell(layer: Mapping[str, Any], where: str) -> str:
    """Infer which cell a layer's weights belong to, and return its name, such as "lstm"."""
    arrays = layer
    if is_bidirectional(layer):
        check_keys(f"{where}bidirectional layer", layer, DIRECTIONS)
        arrays, where = layer["forward"], f"{where}forward/"
    check_named(f"{where}weights", arrays, REMEDY)
    named = [cell for cell, layout in LAYOUTS.items() if set(layout.names) == set(arrays)]
    remedy = "expected kernel, recurrent_kernel, bias and, for a GRU, recurrent_bias or, for an LSTM with a projection, projection"
    require(bool(named), f"{where}weights", f"keys {', '.join(sorted(map(str, arrays))) or '(none)'}", remedy)
    if named == [PROJECTED]:
        return PROJECTED
    units, columns = shaped(f"{where}recurrent_kernel", arrays["recurrent_kernel"], "H", "GH").shape
    for cell in named:
        if columns == LAYOUTS[cell].gates * units:
            return cell
    remedy = f"expected {' or '.join(f'(H, {LAYOUTS[cell].columns}) of {LAYOUTS[cell].phrase}' for cell in named)}"
    raise InputError(f"{where}recurrent_kernel", f"shape ({units}, {columns})", remedy)
