"""Weights and options of Keras layers, which are recognised without importing Keras."""

from typing import Any

from lstm_jax.bounds import is_a
from lstm_jax.convert.arrays import DIRECTIONS
from lstm_jax.convert.cells import from_list
from lstm_jax.convert.matching import Given
from lstm_jax.errors import require

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
    return Given(from_list(cell, weights, f"{name}: "), cell, (allowed,), "Keras layer")


def _activation(layer: Any, argument: str, name: str) -> str:
    """Return the name that an activation of a Keras layer has in lstm_jax, such as "relu".

    It is the same name as in Keras, except for the activations in `NAMES`. In lstm_jax, such names are part of the name of a cell whose
    activations are not the default ones, as in "lstm(relu, sigmoid)".
    """
    function = getattr(layer, argument)
    called = getattr(function, "__name__", type(function).__name__)
    module = (getattr(function, "__module__", None) or "").split(".")
    own = module[0] == "keras" and "activations" in module  # keras.ops has other functions of the same names: its gelu approximates
    remedy = "only the functions of keras.activations can be compared: give layer.get_weights(), converted by a function of convert"
    require(own and hasattr(function, "__name__"), f"{argument} of {name}", called, remedy)
    return NAMES.get(called, called)
