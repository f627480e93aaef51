"""Loading of converted weights into recurrent layers of lstm_jax.

This module does not import `lstm_jax.layers`. It recognises a layer by its attributes, such as `forward` and `backward`.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from lstm_jax.convert.arrays import (
    DIRECTIONS,
    LAYOUTS,
    LSTM_NAMES,
    PROJECTED,
    Arrays,
    Layer,
    check_keys,
    check_layer,
    is_bidirectional,
    shaped,
)
from lstm_jax.convert.torch_layers import find_torch_cell, layers_from_torch
from lstm_jax.errors import InputError, require

KEYS = frozenset((*LSTM_NAMES, *DIRECTIONS))
TORCH_CELLS = {"lstm": ("lstm",), "gru": ("gru",), "simple_rnn": ("simple_rnn", "simple_rnn(relu)"), PROJECTED: (PROJECTED,)}
"""Dict from the name of a cell to the values of a layer's attribute `cell` for which PyTorch has a module with equal results.

For example, nn.RNN computes "simple_rnn" (with tanh) or "simple_rnn(relu)".
"""


class Given(NamedTuple):
    """Weights that are to be loaded into one layer.

    Attributes:
        arrays: the weights in the layout of lstm_jax.
        cell: name of the cell.
        allowed: cells that the layer may have, each with its activations, for example ("simple_rnn(relu)",). If None, the layer may have
            any activations, because those of the weights are not known.
    """

    arrays: Layer
    cell: str
    allowed: tuple[str, ...] | None = None


def load(layer: Any, weights: Any, prefix: str = "") -> None:
    """Set the parameters of recurrent layers to weights of another library, after checking that they fit.

    If the weights do not fit, no parameter is changed. The arrays are converted to the dtype of the parameters: float64 weights, for
    example, are rounded if the layer has float32 parameters. A learned initial state and the state that a stateful layer carries are not
    changed. Options of the layer that are not weights, such as `merge_mode`, `residual` and dropout, are not compared.

    E is the number of input features, H the number of units, P the number of outputs of a projection and G the number of gates.

    Args:
        layer: a `Recurrent` layer (`LSTM`, `GRU`, `SimpleRNN`), a `Bidirectional` layer or a `RecurrentStack`. It is changed in place.
        weights: one of these.

            - Weights in the layout of lstm_jax: for a `Recurrent` layer a dict of arrays such as {"kernel": (E, GH), "recurrent_kernel":
              (H, GH), "bias": (GH,)}, for a `Bidirectional` layer {"forward": dict, "backward": dict}, and for a `RecurrentStack` a list of
              such dicts, lowest layer first. The functions of `lstm_jax.convert` that convert layers return such weights. The dict of a
              layer with a projection also has "projection": (H, P), and its recurrent kernel is (P, 4H). The activations are not checked.
            - The state dict of a PyTorch nn.LSTM, nn.GRU, nn.RNN, nn.LSTMCell, nn.GRUCell or nn.RNNCell, or of a model that contains it.
              The layer must have the activations of PyTorch. A state dict does not show whether an nn.RNN uses tanh or relu, so that both
              are accepted.
            - The PyTorch module itself. An nn.RNN then shows whether it uses tanh or relu.
        prefix: prefix of the names of the recurrent module's arrays in the state dict of a bigger model, for example "rnn.".

    Raises:
        InputError: if `layer` is not a recurrent layer, or `weights` has none of these forms. Also if the layer and the weights differ in
            the number of layers, directions, features or units, in the cell, or in the activations, if the weights show them. Also if only
            one of the two has a projection, or if the layer has no bias and the bias in the weights is not zero.
    """
    layers = list(layer.layers) if hasattr(layer, "layers") else [layer]
    given = _given(weights, prefix)
    require(len(layers) == len(given), "layers", len(layers), f"the weights have {len(given)}: give a RecurrentStack of as many layers")
    many = len(layers) > 1
    matched = [
        pair
        for number, (part, own) in enumerate(zip(layers, given, strict=True))
        for pair in _matched(part, own, f" of layer {number}" if many else "")
    ]
    for variable, array in matched:
        variable[...] = array


def _given(weights: Any, prefix: str) -> list[Given]:
    """Return the weights of each layer as a list, lowest layer first.

    Args:
        weights: weights in the layout of lstm_jax, the state dict of a PyTorch module, or the module itself; see `load`.
        prefix: prefix of the names of the recurrent module's arrays in the state dict of a bigger model, for example "rnn.".

    Raises:
        InputError: if `weights` has none of these forms, or if the layout or the shapes are wrong.
    """
    if isinstance(weights, Mapping):
        named = all(isinstance(name, str) for name in weights)
        require(named, "weights", "names that are no text", "give the state dict of a PyTorch module, or converted weights")
        inside = bool(prefix) and any(name.startswith(prefix) for name in weights)
        if inside or not KEYS & set(weights):
            return _from_torch(weights, prefix, None)
    elif callable(getattr(weights, "state_dict", None)):
        return _from_torch(weights.state_dict(), prefix, None if prefix else getattr(weights, "nonlinearity", None))
    require(not prefix, "prefix", repr(prefix), "only the state dict of a bigger model has one: leave it out")
    remedy = "give weights that lstm_jax.convert has converted, or the state dict of a PyTorch module"
    require(isinstance(weights, Mapping | list | tuple), "weights", type(weights).__name__, remedy)
    found = []
    for number, arrays in enumerate([weights] if isinstance(weights, Mapping) else weights):
        require(isinstance(arrays, Mapping), f"weights[{number}]", type(arrays).__name__, remedy)
        where = "" if arrays is weights else f"weights[{number}]/"
        cell = _find_cell(arrays, where)
        found.append(Given(check_layer(arrays, where, cell), cell))
    return found


def _from_torch(state: Mapping[str, Any], prefix: str, nonlinearity: Any) -> list[Given]:
    """Return the weights of each layer in a PyTorch state dict, lowest layer first.

    Args:
        state: state dict of a recurrent PyTorch module, or of a model that contains it.
        prefix: prefix of the names of the recurrent module's arrays in the state dict, for example "rnn.".
        nonlinearity: activation of an nn.RNN or nn.RNNCell, "tanh" or "relu", or None if it is not known.
    """
    cell = find_torch_cell(state, prefix)
    allowed = TORCH_CELLS[cell]
    if cell == "simple_rnn" and nonlinearity in ("tanh", "relu"):
        allowed = allowed[:1] if nonlinearity == "tanh" else allowed[1:]
    return [Given(arrays, cell, allowed) for arrays in layers_from_torch(cell, state, prefix)]


def _find_cell(layer: Mapping[str, Any], where: str) -> str:
    """Infer which cell a layer's weights belong to, and return its name, such as "lstm".

    A cell is recognised by the names of its arrays and by its number of gates. The known cells are those in `LAYOUTS`.

    Args:
        layer: dict from the names of a cell's arrays to the arrays, or {"forward": such a dict, "backward": such a dict}.
        where: prefix of the names of the arrays in error messages.

    Raises:
        InputError: if no cell in `LAYOUTS` has such weights.
    """
    arrays = layer
    if is_bidirectional(layer):
        check_keys(f"{where}bidirectional layer", layer, DIRECTIONS)
        arrays, where = layer["forward"], f"{where}forward/"
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


def _matched(layer: Any, given: Given, at: str) -> list[tuple[Any, Any]]:
    """Check that weights fit a layer, and return a list of pairs: a parameter of the layer, and the array with its new values.

    Args:
        layer: a `Recurrent` or `Bidirectional` layer.
        given: the weights.
        at: words that follow the name of the layer's attribute in error messages, such as " of layer 1".
    """
    pair = hasattr(layer, "forward") and hasattr(layer, "backward")
    recurrent = pair or all(hasattr(layer, name) for name in ("row", "features", "units"))
    require(recurrent, f"layer{at}", type(layer).__name__, "give a Recurrent layer, a Bidirectional layer or a RecurrentStack")
    if pair != is_bidirectional(given.arrays):
        remedy = "the weights have one direction: give a Recurrent layer" if pair else "the weights have both: give a Bidirectional layer"
        raise InputError(f"directions{at}", 2 if pair else 1, remedy)
    if not pair:
        return _matched_cell(layer, given, given.arrays, at)
    halves = ((name, getattr(layer, name), given.arrays[name]) for name in DIRECTIONS)
    return [found for name, part, arrays in halves for found in _matched_cell(part, given, arrays, f"{at}, {name}")]


def _matched_cell(layer: Any, given: Given, arrays: Arrays, at: str) -> list[tuple[Any, Any]]:
    """Check that weights fit a `Recurrent` layer, and return a list of pairs: a parameter, and the array with its new values.

    Args:
        layer: the `Recurrent` layer, which may be one direction of a `Bidirectional` layer.
        given: the weights of the whole layer.
        arrays: `given.arrays` or, if the layer is one direction of a `Bidirectional` layer, the arrays of this direction.
        at: words that follow the name of the layer's attribute in error messages, such as " of layer 1, forward".
    """
    cell = layer.cell.partition("(")[0]  # "lstm(relu, sigmoid)" is an LSTM with these activations
    outputs, columns = arrays["recurrent_kernel"].shape
    remedy = f"projection={outputs}" if given.cell == PROJECTED else "this cell"
    require(cell == given.cell, f"cell{at}", layer.cell, f"the weights are those of the cell {given.cell}: give a layer with {remedy}")
    allowed = given.allowed or (layer.cell,)
    require(layer.cell in allowed, f"activations{at}", layer.cell, f"the PyTorch module computes {' or '.join(allowed)}: give such a layer")
    sizes = {"features": len(arrays["kernel"]), "units": columns // LAYOUTS[cell].gates, "output_features": outputs}
    for name, wanted in sizes.items():
        own = getattr(layer, name)
        require(own == wanted, f"{name}{at}", own, f"the weights have {wanted} {name}: give a layer with as many")
    found = []
    for name, array in arrays.items():
        parameter = getattr(layer, name, None)
        if parameter is None:
            require(not array.any(), f"use_bias{at}", False, f"the {name} of the weights is not zero: give a layer with use_bias=True")
        else:
            require(parameter.shape == array.shape, f"{name}{at}", f"shape {parameter.shape}", f"the weights have {array.shape}")
            found.append((parameter, array.astype(parameter.dtype)))
    return found
