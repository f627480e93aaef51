"""Comparison of weights with layers of lstm_jax, and recognition of the classes of layers.

This module imports neither the layers of lstm_jax nor those of other libraries. It recognises a layer by the name of its class and of the
module that defines the class.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from lstm_jax.bounds import is_a
from lstm_jax.convert.arrays import DIRECTIONS, LAYOUTS, PROJECTED, Arrays, Layer, is_bidirectional
from lstm_jax.errors import InputError, require

OWN = "lstm_jax"
"""Name of this package, which the function `is_a` takes as its argument `package`."""
TORCH_CELLS = {"lstm": ("lstm",), "gru": ("gru",), "simple_rnn": ("simple_rnn", "simple_rnn(relu)"), PROJECTED: (PROJECTED,)}
"""Dict from the name of each cell that PyTorch has to a tuple of names: the variants of this cell that PyTorch can compute.

The name of a variant is a value of the attribute `cell` of a layer: the name of the cell, followed by its activations in parentheses if
they are not the default. For example, nn.RNN computes "simple_rnn" (with tanh, the default) or "simple_rnn(relu)".
"""


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


def check_activations(layer: Any, allowed: tuple[str, ...], at: str, source: str) -> None:
    """Check that a `Recurrent` layer has the activations of a layer of another library."""
    require(layer.cell in allowed, f"activations{at}", layer.cell, f"the {source} computes {' or '.join(allowed)}: give such a layer")


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


def base_cell(layer: Any) -> str:
    """Return the name of a `Recurrent` layer's cell without its activations: "lstm" for "lstm(relu, sigmoid)"."""
    return layer.cell.partition("(")[0]


def paired(layer: Any, arrays: Arrays, where: str = "", at: str = "") -> list[tuple[Any, Any]]:
    """Check that a layer has a parameter of the same name and shape for each array, and return pairs (parameter, array).

    A layer without a bias fits if the bias in `arrays` is zero. No pair is returned for this bias. The arrays in the pairs have the dtypes
    of the parameters.
    """
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
