"""Loading of converted weights into layers and models of lstm_jax, and into dense and embedding layers of Flax."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lstm_jax.bounds import is_a
from lstm_jax.convert.arrays import DIRECTIONS, LAYOUTS, LSTM_NAMES, PROJECTED, check_keys, check_layer, is_bidirectional, shaped
from lstm_jax.convert.checks import check_named, has_state_dict, kind_of
from lstm_jax.convert.keras_layers import given_by_keras, is_keras
from lstm_jax.convert.loading_parts import is_dense, is_embedding, is_model, matched_dense, matched_embedding, split_flat
from lstm_jax.convert.matching import OWN, TORCH_CELLS, Given, matched
from lstm_jax.convert.torch_layers import find_torch_cell, layers_from_torch
from lstm_jax.errors import InputError, require

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
    if is_dense(layer):
        found = matched_dense(layer, weights, prefix)
    elif is_embedding(layer):
        found = matched_embedding(layer, weights, prefix)
    elif is_model(layer):
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
    """Infer which cell a layer's weights belong to, and return its name, such as "lstm".

    A cell is recognised by the names of its arrays and by its number of gates. The known cells are those in `LAYOUTS`.
    """
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
