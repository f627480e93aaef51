"""Checks of the classes, the options and the order of a Keras model's layers, as the config.json in a `.keras` archive describes them."""

from collections.abc import Mapping
from typing import Any

from lstm_jax.convert.arrays import CHARACTER, SENTIMENT, Kind
from lstm_jax.errors import InputError, require

RECURRENT = ("lstm", "rnn", "bidirectional")
BY_HAND = "load the model in Keras yourself and convert model.get_weights() with sentiment_from_keras or generation_from_keras"
LAYER_BY_LAYER = (
    "convert another model layer by layer: convert.load(layer, keras_layer), or lstm_from_keras, cell_from_keras, dense_from_keras"
)
SUPPORTED = f"expected Embedding -> LSTM, Bidirectional(LSTM) or RNN(LSTMCell) layers -> one Dense; {LAYER_BY_LAYER}"
CHAIN = (
    "expected a chain of one Embedding or none, recurrent layers and one Dense, each of which reads the layer before it and nothing else; "
    + LAYER_BY_LAYER
)
MASK = "NotEqual"
"""Class of the layer that computes the mask of Embedding(mask_zero=True) in a functional model."""

# Options of each class of layer that change its function but not its arrays. Each option has the values that are supported, with the
# default of Keras first. The options of Dense depend on the model, see HEAD_ACTIVATIONS.
OPTIONS: dict[str, dict[str, tuple[object, ...]]] = {
    "InputLayer": {},
    MASK: {},
    "Dropout": {},
    "SpatialDropout1D": {},
    "Embedding": {},
    "LSTM": {"activation": ("tanh",), "recurrent_activation": ("sigmoid",), "go_backwards": (False,)},
    "LSTMCell": {"activation": ("tanh",), "recurrent_activation": ("sigmoid",)},
    "RNN": {"go_backwards": (False,)},
    "StackedRNNCells": {},
    "Bidirectional": {"merge_mode": ("concat",)},
}
HEAD_ACTIVATIONS: dict[Kind, tuple[object, ...]] = {SENTIMENT: ("linear", "sigmoid"), CHARACTER: ("linear", "softmax")}


def order_in_config(config: Any, model: Kind, subject: str) -> list[str]:
    """Return the names of a Keras model's recurrent layers in the order of the model, after checking the options of all layers.

    The names are those of the layers' groups in a weight file, such as "lstm", "lstm_1" and "bidirectional".
    """
    options = OPTIONS | {"Dense": {"activation": HEAD_ACTIVATIONS[model]}}
    counts: dict[str, int] = {}
    order: list[str] = []
    top: Any = None
    try:
        for layer in config["config"]["layers"]:
            _check_options(layer, options, subject, backward=False)
            kind = layer["class_name"].lower()
            counts[kind] = counts.get(kind, -1) + 1
            if kind in RECURRENT:
                order.append(f"{kind}_{counts[kind]}" if counts[kind] else kind)
                top = layer["config"]["layer"]["config"] if kind == "bidirectional" else layer["config"]
        _check_chain(config["config"], subject)
        sequences = top is not None and top.get("return_sequences")
    except (LookupError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(subject, f"config.json: {error}", "expected what model.save('x.keras') writes") from error
    # Only a character model may predict at every step, with the same Dense layer.
    require(
        model == CHARACTER or not sequences,
        subject,
        "the last recurrent layer returns sequences",
        "expected one that returns its last output",
    )
    return order


def _check_options(layer: Any, ours: Mapping[str, Mapping[str, tuple[object, ...]]], subject: str, backward: bool) -> None:
    kind, options = layer["class_name"], layer["config"]
    own = layer.get("module", "keras").split(".")[0] == "keras" and layer.get("registered_name") in (None, kind)
    require(own, subject, f"a {kind} that is not Keras' own", f"expected layers of Keras; {BY_HAND}")
    require(kind in ours, subject, f"a layer of class {kind}", SUPPORTED)
    for option, values in ours[kind].items():
        allowed = (backward,) if option == "go_backwards" else values
        value = options.get(option, allowed[0])
        require(value in allowed, subject, f"{kind} with {option}={value}", f"expected {' or '.join(map(str, allowed))}")
    for inner in ("layer", "backward_layer", "cell"):
        if inner in options:
            _check_options(options[inner], ours, subject, inner == "backward_layer")
    for cell in options.get("cells", ()):
        _check_options(cell, ours, subject, backward)


def _check_chain(config: Any, subject: str) -> None:
    """Check that the layers of a Sequential or functional Keras model form a chain in which each layer reads the layer before it."""
    layers = [layer for layer in config["layers"] if layer["class_name"] != MASK]
    kinds = [kind for layer in layers if (kind := layer["class_name"].lower()) in (*RECURRENT, "embedding", "dense")]
    inner = (kinds[1:] if kinds[:1] == ["embedding"] else kinds)[:-1]
    good = kinds[-1:] == ["dense"] and all(kind in RECURRENT for kind in inner)
    require(good, subject, f"layers {', '.join(kinds)}", CHAIN)
    if "input_layers" not in config:  # a Sequential model
        return
    masks = {layer["name"] for layer in config["layers"] if layer["class_name"] == MASK and layer["inbound_nodes"][0]["args"][1] == 0}
    before = layers[0]["name"]
    for layer in layers[1:]:
        nodes = layer["inbound_nodes"]
        require(len(nodes) == 1, subject, f"layer {layer['name']}, called {len(nodes)} times", CHAIN)
        read = [_history(value) for value in nodes[0]["args"]]
        require(read == [[before, 0, 0]], subject, f"layer {layer['name']}, which reads {read}", CHAIN)
        for name, value in nodes[0]["kwargs"].items():
            of_mask = name == "mask" and (_history(value) or [None])[0] in masks
            require(of_mask or value in (None, False), subject, f"layer {layer['name']}, called with {name}", CHAIN)
        before = layer["name"]
    for ends, end in ((config["input_layers"], layers[0]["name"]), (config["output_layers"], before)):
        require(ends in ([end, 0, 0], [[end, 0, 0]]), subject, f"inputs or outputs {ends}", CHAIN)


def _history(value: Any) -> list[Any] | None:
    """Return the origin of a tensor in a functional model: [name of the layer, number of the call, number of the output].

    `value` is decoded JSON. If it does not describe a tensor, return None.
    """
    return value["config"]["keras_history"] if isinstance(value, dict) and value.get("class_name") == "__keras_tensor__" else None
