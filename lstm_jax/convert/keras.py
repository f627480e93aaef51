"""Conversion of weights between lstm_jax and Keras: the lists that `get_weights()`
returns, and Keras 3 weight files.

The docstring of the package `lstm_jax.convert` describes the layout of weights in
lstm_jax. Keras has the same order of gates and the same shapes. A GRU with
`reset_after=True` has both biases in one array (2, 3H); with `reset_after=False`, the
cell "gru_reset_before", it has one. A bias that a Keras layer does not have is zeros in
lstm_jax, and conversion to Keras always returns biases.

Files are read without Keras, whose loader can run code that a file contains. A weight
file is an HDF5 file with a group for each layer, named after its class and numbered,
whatever the user's names: `layers/<class>`, `layers/<class>_1`. The arrays of a layer
are numbered in the order in which it created them (Keras 3.0 to 3.15,
keras/src/saving/saving_lib.py):

    layers/embedding/vars/0
    layers/lstm/cell/vars/{0,1,2}
    layers/bidirectional/{forward,backward}_layer/cell/vars/{0,1,2}
    layers/rnn/cell/vars/{0,1,2}
    layers/rnn/cell/cells/lstm_cell[_1]/vars/{0,1,2}
    layers/dense/vars/{0,1}

A layer without arrays is an empty group. HDF5 sorts lstm_10 before lstm_2, so that the
names are sorted again here. The order of layers of different classes is in the
config.json of a `.keras` archive alone.
"""

import io
import json
import os
import re
import zipfile
from collections.abc import Sequence
from functools import cache
from itertools import chain, pairwise, zip_longest
from pathlib import Path
from typing import Any

import numpy as np
from numpy import ndarray

from lstm_jax.base.checks import as_tuple
from lstm_jax.base.errors import InputError, parsing, require
from lstm_jax.base.reading import open_input
from lstm_jax.base.types import AnyPath, Texts, Values
from lstm_jax.base.writing import write_atomically
from lstm_jax.convert.arrays import (
    CHARACTER,
    DIRECTIONS,
    KERAS,
    LAYOUTS,
    SENTIMENT,
    Arrays,
    Kind,
    Layer,
    Params,
    cell_shapes,
    check_cell,
    check_keys,
    check_stack,
    checked,
    exported,
    exported_layer,
    halves,
    join_model,
    split_model,
    to_numpy,
    widths,
)

Weights = list[ndarray]
"""Arrays in the order of Keras' `get_weights()` and `set_weights`."""
LAYER_BY_LAYER = (
    "convert another model layer by layer: convert.load(layer, keras_layer), or "
    "lstm_from_keras, cell_from_keras, dense_from_keras"
)
GET_WEIGHTS = "give the list that get_weights() returns"


def _from_list(
    kind: str, weights, where: str = "", sizes: dict[str, int] | None = None
) -> Arrays:
    layout = LAYOUTS[kind]
    if kind == "gru":
        layout = layout._replace(shapes=cell_shapes("3H", bias="2, 3H"))
    names, subject = layout.shapes, f"{where}weights of {layout.title}"
    weights = as_tuple(subject, weights, GET_WEIGHTS)
    fits = len(names) - ("bias" in names) <= len(weights) <= len(names)
    require(
        fits,
        subject,
        f"{len(weights)} arrays",
        f"give {', '.join(names)}" + " (or no bias)" * ("bias" in names),
    )
    arrays = checked(layout, dict(zip_longest(names, weights)), where, sizes)
    if kind == "gru":
        arrays["bias"], arrays["recurrent_bias"] = arrays["bias"]
    return arrays


def _list(arrays: Arrays) -> Weights:
    kernel, recurrent, *biases = arrays.values()
    return [kernel, recurrent, biases[0] if len(biases) == 1 else np.stack(biases)]


def cell_from_keras(cell: str, weights: Sequence, where: str = "") -> Arrays:
    """Convert the weights of a Keras LSTM, GRU or SimpleRNN layer to the dict of arrays
    that lstm_jax uses.

    Args:
        cell: "lstm", "gru" for a Keras GRU with `reset_after=True` (the default),
            "gru_reset_before" for a Keras GRU with `reset_after=False`, or "simple_rnn"
            for a Keras SimpleRNN.
        weights: the list that `get_weights()` of the layer returns: kernel, recurrent
            kernel and bias. If the bias is absent, it becomes zeros.
        where: text that stands before the names of the arrays in error messages.

    Raises:
        InputError: if `cell` is none of these names, `weights` is not a list of 2 or 3
            arrays, or an array has a wrong shape.
    """
    check_cell(cell, "Keras")
    return _from_list(cell, weights, where)


def cell_to_keras(cell: str, params) -> Weights:
    """Convert the weights of an LSTM, a GRU or a simple RNN to the list of arrays that
    `set_weights` of a Keras layer expects.

    This function is the inverse of `cell_from_keras`.

    Args:
        cell: one of the names that `cell_from_keras` accepts.
        params: a `Recurrent` layer, or its weights. The Keras layer must have the
            activations and the direction of the `Recurrent` layer. This function does
            not check them.

    Raises:
        InputError: if `cell` is none of these names, if `params` has wrong keys or
            shapes, or if `params` is a layer with another cell, with zoneout or with a
            learned initial state. Keras has neither zoneout nor a learned initial
            state.
    """
    return _list(exported_layer(cell, params, KERAS))


def lstm_from_keras(weights: Sequence, where: str = "") -> Arrays:
    """Convert the weights of a Keras LSTM layer to the LSTM weights of lstm_jax, as
    `cell_from_keras("lstm", ...)` does.
    """
    return cell_from_keras("lstm", weights, where)


def lstm_to_keras(params) -> Weights:
    """Convert an LSTM of lstm_jax to the arrays that `set_weights` of a Keras LSTM
    expects, as `cell_to_keras("lstm", ...)` does.
    """
    return cell_to_keras("lstm", params)


def bidirectional_from_keras(
    weights: Sequence, where: str = "", *, cell: str = "lstm"
) -> Layer:
    """Convert the weights of a Keras Bidirectional layer to {"forward": dict,
    "backward": dict}.

    Args:
        weights: `get_weights()` of the layer: the 2 or 3 arrays of the forward layer,
            then those of the backward layer.
        where: text that stands before the names of the arrays in error messages.
        cell: one of the names that `cell_from_keras` accepts.

    Raises:
        InputError: if `cell` is none of these names, `weights` is not a list of 4 or 6
            arrays, or the shapes are not those of such a layer.
    """
    check_cell(cell, "Keras")
    weights = as_tuple(f"{where}Bidirectional weights", weights, GET_WEIGHTS)
    found, remedy = (
        f"{len(weights)} arrays",
        "give the forward layer's 2 or 3, then the backward layer's",
    )
    require(len(weights) in (4, 6), f"{where}Bidirectional weights", found, remedy)
    middle, sizes = len(weights) // 2, {}
    both = zip(DIRECTIONS, (weights[:middle], weights[middle:]), strict=True)
    return {
        direction: _from_list(cell, half, f"{where}{direction}/", sizes)
        for direction, half in both
    }


def bidirectional_to_keras(params, *, cell: str = "lstm") -> Weights:
    """Convert the weights of a bidirectional layer to the list of arrays that
    `set_weights` of a Keras Bidirectional expects.

    The list contains the kernel, the recurrent kernel and the bias of the forward
    layer, then those of the backward layer.

    Args:
        params: a `Bidirectional` layer, or {"forward": dict, "backward": dict}. The
            Keras layer must have the activations and the `merge_mode` of the
            `Bidirectional` layer. This function does not check them.
        cell: one of the names that `cell_from_keras` accepts.

    Raises:
        InputError: as `cell_to_keras` does.
    """
    (arrays,) = exported(cell, [params], KERAS)
    check_keys("bidirectional layer", arrays, DIRECTIONS)
    (layer,) = check_stack([arrays], cell)
    return [array for half in halves(layer).values() for array in _list(half)]


def embedding_from_keras(weights: Sequence) -> Arrays:
    """Convert the weights of a Keras Embedding layer, a list of one array (V, E), to
    {"embedding": (V, E)}.
    """
    return _from_list("embedding", weights)


def embedding_to_keras(params: Params) -> Weights:
    """Convert {"embedding": (V, E)} to the list of one array that `set_weights` of a
    Keras Embedding expects.
    """
    return list(checked(LAYOUTS["embedding"], params).values())


def dense_from_keras(weights: Sequence, where: str = "") -> Arrays:
    """Convert the weights of a Keras Dense layer to the dense weights of lstm_jax,
    {"kernel": (in, out), "bias": (out,)}.

    Args:
        weights: `get_weights()` of the layer: kernel (in, out) and bias (out,). For a
            layer without a bias, the result has a bias of zeros.
        where: text that stands before the names of the arrays in error messages.
    """
    return _from_list("dense", weights, where)


def dense_to_keras(params: Params) -> Weights:
    """Convert {"kernel": (in, out), "bias": (out,)} to the list [kernel, bias] that
    `set_weights` of a Keras Dense layer expects.
    """
    return list(checked(LAYOUTS["dense"], params).values())


def sentiment_from_keras(weights: Sequence) -> Arrays:
    """Convert `get_weights()` of a Keras sentiment model to the flat dict of weights
    that `lstm_jax.convert` describes.

    The Keras model consists of an Embedding, one or more LSTM or Bidirectional(LSTM)
    layers, and a Dense(1). The list has no names: two LSTMs of H units with equal
    shapes are read as the directions of one bidirectional layer if the layer after them
    has 2H input features. It does not show the merge mode, which must be "concat", the
    activations or `go_backwards`. To have these checked, save the model as a `.keras`
    file and use `sentiment_from_keras_file`.
    """
    return _from_model(weights, SENTIMENT)


def sentiment_to_keras(params: Params) -> Weights:
    """Convert a sentiment model of lstm_jax to the list of arrays that `set_weights` of
    the corresponding Keras model expects.

    This function is the inverse of `sentiment_from_keras`. The LSTM and Dense layers of
    the Keras model must have biases.
    """
    return [*chain(*_groups(params, SENTIMENT).values())]


def generation_from_keras(weights: Sequence) -> Arrays:
    """Convert the weights of a Keras character model to a flat dict of weights of
    lstm_jax; see `sentiment_from_keras`.

    The Keras model consists of an optional Embedding, one or more LSTM layers, and a
    Dense(V), where V is the number of characters. Without an embedding the input is
    one-hot, and the first LSTM must have V input features. An embedding must have V
    rows.
    """
    return _from_model(weights, CHARACTER)


def generation_to_keras(params: Params) -> Weights:
    """Convert a character model of lstm_jax to the list of arrays that `set_weights` of
    the corresponding Keras model expects.

    This function is the inverse of `generation_from_keras`. The LSTM and Dense layers
    of the Keras model must have biases. If the weights are tied ("head/kernel" is
    absent), the kernel of the Dense layer becomes a copy of the transposed embedding
    table.
    """
    return [*chain(*_groups(params, CHARACTER).values())]


MODELS: dict[Kind, str] = {
    SENTIMENT: "Embedding -> LSTM or Bidirectional(LSTM) layers -> Dense(1)",
    CHARACTER: "LSTM layers -> Dense(V), or with an Embedding before them",
}
"""Layers of the Keras models whose list of weights is converted."""


def _from_model(weights: Sequence, kind: Kind) -> Arrays:
    weights = as_tuple("model weights", weights, GET_WEIGHTS)
    arrays = [
        to_numpy(f"weights[{index}]", array) for index, array in enumerate(weights)
    ]
    axes = "".join(str(array.ndim) for array in arrays)
    # A table (sentiment models always have one); for each LSTM two matrices and, if it
    # has a bias, a vector; a Dense. If the number of matrices is even, there is a
    # table.
    match = re.fullmatch(
        ("(2)" if kind == SENTIMENT else "(2?)") + "((?:221?)+)21?", axes
    )
    if match is None:
        raise InputError(
            "model weights",
            f"arrays with {', '.join(axes)} axes",
            f"expected those of {MODELS[kind]}; {LAYER_BY_LAYER}",
        )
    start, end = match.span(2)
    cells = []
    for found in re.compile("221?").finditer(axes, start, end):
        at = found.start()
        cells.append(
            lstm_from_keras(
                arrays[at : found.end()], f"LSTM {len(cells)} from weights[{at}]: "
            )
        )
    head = dense_from_keras(arrays[end:], f"Dense from weights[{end}]: ")
    layers = []
    while cells:
        above = cells[2] if len(cells) > 2 else head
        both = len(cells) > 1 and cells[0]["kernel"].shape == cells[1]["kernel"].shape
        both = both and len(above["kernel"]) == 2 * len(cells[0]["recurrent_kernel"])
        layers.append(dict(zip(DIRECTIONS, cells, strict=False)) if both else cells[0])
        cells = cells[1 + both :]
    return join_model(
        embedding_from_keras(arrays[:start]) if start else None, layers, head, kind
    )


def _groups(params: Params, kind: Kind) -> dict[str, Weights]:
    """Return a dict from the HDF5 group of each layer of a Keras model to its arrays,
    in the order of the layers.
    """
    embedding, layers, head = split_model(params, kind)
    found = {} if embedding is None else {"layers/embedding": list(embedding.values())}
    names = _names(
        ["bidirectional" if len(halves(layer)) > 1 else "lstm" for layer in layers]
    )
    for name, layer in zip(names, layers, strict=True):
        for direction, half in halves(layer).items():
            found[f"layers/{name}/{direction and direction + '_layer/'}cell"] = _list(
                half
            )
    return found | {"layers/dense": list(head.values())}


def _class(name: str) -> str:
    return re.sub(r"_\d+$", "", name)


def _names(kinds: list[str]) -> list[str]:
    counts = [kinds[:number].count(kind) for number, kind in enumerate(kinds)]
    return [
        f"{kind}_{count}" if count else kind
        for kind, count in zip(kinds, counts, strict=True)
    ]


def _read_hdf5(source: AnyPath | io.BytesIO, name: str) -> tuple[Arrays, list[str]]:
    """Read the arrays of an HDF5 file and the paths of its groups, in natural order.
    The state of the optimizer is left out.
    """
    import h5py

    subject = f"HDF5 file {name}"
    size = (
        len(source.getbuffer())
        if isinstance(source, io.BytesIO)
        else os.stat(source).st_size
    )
    with (
        parsing(
            subject, "it is truncated, damaged or no HDF5 file: save the weights again"
        ),
        h5py.File(source, "r") as file,
    ):
        links = {}
        objects = {}
        file.visititems_links(links.__setitem__)
        # visits each object once, and follows hard links alone
        file.visititems(objects.__setitem__)
        for path, link in links.items():
            hard = isinstance(link, h5py.HardLink)
            require(
                hard,
                subject,
                f"{path} is a {type(link).__name__}",
                "links are not followed: save the arrays themselves",
            )
            require(
                path in objects,
                subject,
                f"{path} is there under two names",
                "save the weights again",
            )
        arrays, groups = {}, []
        # lstm_2 before lstm_10
        for path in sorted(
            objects,
            key=lambda path: re.sub(r"\d+", lambda digits: digits[0].zfill(9), path),
        ):
            found = objects[path]
            if path.split("/")[0] == "optimizer":
                continue
            if isinstance(found, h5py.Group):
                groups.append(path)
                continue
            require(
                isinstance(found, h5py.Dataset),
                subject,
                f"{path} is a {type(found).__name__}",
                "expected groups and datasets alone",
            )
            # Keras stores a bfloat16 value as two opaque bytes and sets an attribute.
            half = (
                found.dtype == np.dtype("V2") and found.attrs.get("dtype") == "bfloat16"
            )
            require(
                half or found.dtype.kind in "fiub",
                subject,
                f"{path} has dtype {found.dtype}",
                "only numbers are read",
            )
            # A malicious file may declare any size, but a dataset of Keras takes
            # exactly its bytes. Without filters HDF5 loads no plugin.
            plain = not (found.is_virtual or found.external) and found.shape is not None
            plain = (
                plain
                and found.id.get_storage_size() == found.nbytes
                and found.id.get_create_plist().get_nfilters() == 0
            )
            message = (
                f"{path} is kept in another file, empty, compressed or was never "
                "written"
            )
            require(
                plain,
                subject,
                message,
                "save the arrays whole, in this file and without compression",
            )
            size -= found.nbytes
            require(
                size >= 0, subject, "arrays share their bytes", "save the weights again"
            )
            # conversion of bfloat16 to float32 keeps the values exactly
            values = np.asarray(found[()])
            arrays[path] = (
                (values.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
                if half
                else values
            )
        return arrays, groups


RECURRENT = ("lstm", "rnn", "bidirectional")
BY_HAND = (
    "load the model in Keras yourself and convert model.get_weights() with "
    "sentiment_from_keras or generation_from_keras"
)
SUPPORTED = (
    "expected Embedding -> LSTM, Bidirectional(LSTM) or RNN(LSTMCell) layers -> "
    f"one Dense; {LAYER_BY_LAYER}"
)
CHAIN = (
    "expected a chain of one Embedding or none, recurrent layers and one "
    "Dense, each of which reads the layer before it and nothing else; "
) + LAYER_BY_LAYER
MASK = "NotEqual"
"""Class of the layer that computes the mask of Embedding(mask_zero=True) in a
functional model."""
# layers that have no effect when a model predicts
INACTIVE = ("input_layer", "dropout", "spatial_dropout1d")

CLASSES = {
    MASK,
    "InputLayer",
    "Dropout",
    "SpatialDropout1D",
    "Embedding",
    "LSTM",
    "LSTMCell",
    "RNN",
    "StackedRNNCells",
    "Bidirectional",
    "Dense",
}
"""Supported classes of layers."""
OPTIONS: dict[str, tuple[object, ...]] = {
    "activation": ("tanh",),
    "recurrent_activation": ("sigmoid",),
    "merge_mode": ("concat",),
}
"""Options of a layer that change its function but not its arrays, with their supported
values. The first is the default of Keras."""
HEAD_ACTIVATIONS: dict[Kind, tuple[object, ...]] = {
    SENTIMENT: ("linear", "sigmoid"),
    CHARACTER: ("linear", "softmax"),
}


def _order_in_config(config, model: Kind, subject: str) -> list[str]:
    """Return the names of a Keras model's recurrent layers in the order of the model,
    after checking their options.
    """
    # The layers must be a chain in which each layer reads the layer before it.
    for layer in config["layers"]:
        _check_options(layer, model, subject)
    layers = [layer for layer in config["layers"] if layer["class_name"] != MASK]
    active = [
        layer
        for layer in layers
        if layer["class_name"].lower() in (*RECURRENT, "embedding", "dense")
    ]
    kinds = [layer["class_name"].lower() for layer in active]
    good = re.fullmatch(
        f"(embedding )?(({'|'.join(RECURRENT)}) )+dense", " ".join(kinds)
    )
    require(good, subject, f"layers {', '.join(kinds)}", CHAIN)
    # Only a character model may predict at every step, with the same Dense layer.
    # that of the layer in a Bidirectional
    top = active[-2]["config"].get("layer", active[-2])["config"]
    whole = model == SENTIMENT and top.get("return_sequences")
    require(
        not whole,
        subject,
        "the last recurrent layer returns sequences",
        "expected one that returns its last output",
    )
    if "input_layers" in config:  # a functional model
        masks = [
            [layer["name"], 0, 0]
            for layer in config["layers"]
            if layer["class_name"] == MASK and layer["inbound_nodes"][0]["args"][1] == 0
        ]
        for below, layer in pairwise(layers):
            calls = [
                (
                    node["args"],
                    {
                        name: value
                        for name, value in node["kwargs"].items()
                        if value and value not in masks
                    },
                )
                for node in layer["inbound_nodes"]
            ]
            good = calls == [([[below["name"], 0, 0]], {})]
            require(good, subject, f"layer {layer['name']}, called with {calls}", CHAIN)
        for name, layer in (("input_layers", layers[0]), ("output_layers", layers[-1])):
            output = [layer["name"], 0, 0]
            require(
                config[name] in (output, [output]),
                subject,
                f"{name} {config[name]}",
                CHAIN,
            )
    return _names([kind for kind in kinds if kind in RECURRENT])


def _check_options(layer, model: Kind, subject: str, backward: bool = False) -> None:
    kind, options = layer["class_name"], layer["config"]
    own = layer.get("module", "keras").split(".")[0] == "keras" and layer.get(
        "registered_name"
    ) in (None, kind)
    require(
        own,
        subject,
        f"a {kind} that is not Keras' own",
        f"expected layers of Keras; {BY_HAND}",
    )
    require(kind in CLASSES, subject, f"a layer of class {kind}", SUPPORTED)
    supported = (
        OPTIONS
        | {"go_backwards": (backward,)}
        | ({"activation": HEAD_ACTIVATIONS[model]} if kind == "Dense" else {})
    )
    for option, values in supported.items():
        value = options.get(option, values[0])
        require(
            value in values,
            subject,
            f"{kind} with {option}={value}",
            f"expected {' or '.join(map(str, values))}",
        )
    for part in [
        *(options[name] for name in ("layer", "cell") if name in options),
        *options.get("cells", ()),
    ]:
        _check_options(part, model, subject)
    if "backward_layer" in options:
        _check_options(options["backward_layer"], model, subject, backward=True)


def read_keras_weights(path: AnyPath) -> Arrays:
    """Read the weights in a Keras 3 `.weights.h5` file or `.keras` archive, and return
    a dict from the path of each array to the array.

    The paths are in natural order, in which lstm_2 comes before lstm_10. The state of
    the optimizer is left out. bfloat16 arrays are converted to float32, and other
    arrays keep their dtype.

    Raises:
        InputError: if the file does not exist, is damaged, is neither a `.weights.h5`
            file nor a `.keras` archive, or contains something other than arrays of
            numbers that are stored in the file itself, such as a link to another file.
    """
    return _read(path)[0]


def sentiment_from_keras_file(path: AnyPath) -> Arrays:
    """Read a sentiment model from a Keras 3 `.weights.h5` file or `.keras` archive, and
    return its weights; see `sentiment_from_keras`.

    Each recurrent layer is an LSTM, a Bidirectional(LSTM) with merge_mode "concat", or
    an RNN of one LSTMCell or of a list of LSTMCells. In a `.keras` archive, each layer
    must read the output of the layer before it and nothing else, and options that
    change the result, such as activations and `go_backwards`, must have the values that
    lstm_jax supports; only `mask_zero` of the Embedding is not checked. A `.weights.h5`
    file does not store these options, and the order of layers of different classes is
    inferred from the shapes of the arrays.

    Raises:
        InputError: if `read_keras_weights` rejects the file, if a layer or an option is
            not supported, if the shapes of the layers do not fit together, or if
            several orders of the layers are possible.
    """
    return _from_file(path, SENTIMENT)


def generation_from_keras_file(path: AnyPath) -> Arrays:
    """Read a character model from a Keras 3 `.weights.h5` file or `.keras` archive, and
    return its weights as a flat dict of lstm_jax.

    The Keras model is Sequential or functional and consists of an optional Embedding,
    recurrent layers, and a Dense(V), where V is the number of characters. Without an
    embedding the input is one-hot. Each recurrent layer is an LSTM, or an RNN of one
    LSTMCell or of a list of LSTMCells. The last recurrent layer may return its last
    output or all outputs.

    Options that change the result, such as activations and `go_backwards`, must have
    the values that lstm_jax supports. They are checked
    only in a `.keras` archive, because a `.weights.h5` file stores no options. The
    option `mask_zero` of an Embedding is never checked: a Keras model with
    `mask_zero=True` skips the character with the id 0, but the character model of
    lstm_jax reads it. `sentiment_from_keras_file` describes how the order of the layers
    is found, the result and the errors.
    """
    return _from_file(path, CHARACTER)


def _from_file(path: AnyPath, kind: Kind) -> Arrays:
    arrays, groups, config = _read(path)
    subject = f"Keras model {os.fspath(path)}"
    names = [
        group.removeprefix("layers/")
        for group in groups
        if re.fullmatch(r"layers/[^/]+", group)
    ]
    others = [name for name in names if _class(name) not in (*RECURRENT, *INACTIVE)]
    fits = others == ["dense", "embedding"] or (
        kind == CHARACTER and others == ["dense"]
    )
    require(fits, subject, f"layers {', '.join(names) or '(none)'}", SUPPORTED)
    order = None
    if config is not None:
        with parsing(
            f"{subject}: config.json", "expected what model.save('x.keras') writes"
        ):
            order = _order_in_config(config["config"], kind, subject)
    cells = {}
    for array, values in arrays.items():
        cells.setdefault(array.rpartition("/vars/")[0], []).append(values)

    def lstm(cell: str):
        return lstm_from_keras(cells.pop(cell, []), f"{cell}: ")

    embedding = (
        embedding_from_keras(cells.pop("layers/embedding", []))
        if "embedding" in names
        else None
    )
    head = dense_from_keras(cells.pop("layers/dense", []))
    stacks = {}
    for name in names:
        group = f"layers/{name}"
        if _class(name) == "bidirectional":
            stacks[name] = [
                {
                    direction: lstm(f"{group}/{direction}_layer/cell")
                    for direction in DIRECTIONS
                }
            ]
        elif _class(name) in RECURRENT:
            stacked = [
                cell for cell in cells if cell.startswith(f"{group}/cell/cells/")
            ]
            stacks[name] = [lstm(cell) for cell in stacked or [f"{group}/cell"]]
    require(not cells, subject, f"arrays of {', '.join(cells)}", SUPPORTED)
    if order is None:
        width = (
            head["kernel"].shape[1]
            if embedding is None
            else embedding["embedding"].shape[1]
        )
        order = _order_by_width(stacks, width, head["kernel"].shape[0], subject)
    require(
        set(order) == set(stacks),
        subject,
        f"config.json names {', '.join(order)}",
        f"the arrays are those of {', '.join(stacks)}",
    )
    return join_model(
        embedding, [layer for name in order for layer in stacks[name]], head, kind
    )


def write_keras_weights(path: AnyPath, params: Params) -> None:
    """Write a sentiment or character model of lstm_jax to a file that
    `model.load_weights` of the corresponding Keras model reads.

    The Keras model must be Sequential or functional. It must have one LSTM or
    Bidirectional(LSTM) layer for each recurrent layer in `params`, and one Embedding
    layer if `params` has an embedding. It must also have one Dense layer, even if
    `params` has no "head/kernel" because the weights are tied. All these layers except
    the Embedding must have biases.

    Missing folders above the file are created. If the file cannot be written, an
    existing file at this path is not changed.

    Args:
        path: path of the file, which must end in .weights.h5.
        params: the flat dict of the model; see `lstm_jax.convert`. A model whose head
            has one output is a sentiment model, and any other is a character model.

    Raises:
        InputError: if a key or shape in `params` is wrong, if the name of the file does
            not end in .weights.h5, if the path is a link or a folder, or if the file
            cannot be written.
    """
    import h5py

    check_keys(
        "params", params, remedy="give the flat dict of a model, see lstm_jax.convert"
    )
    one = to_numpy("head/bias", params.get("head/bias", [0.0])).shape == (1,)
    groups = _groups(params, SENTIMENT if one else CHARACTER)
    name = os.fspath(path)
    require(
        name.endswith(".weights.h5"),
        "Keras weights",
        name,
        "Keras wants a name that ends in .weights.h5",
    )
    # in memory first: a write of HDF5 that fails would leave half a file
    content = io.BytesIO()
    with h5py.File(content, "w") as file:
        for group, values in groups.items():
            for number, value in enumerate(values):
                dataset = file.create_dataset(f"{group}/vars/{number}", data=value)
                if value.dtype.name == "bfloat16":
                    dataset.attrs["dtype"] = "bfloat16"
    write_atomically(Path(name), content.getvalue())


def _tensor(value: Values) -> Any:
    """Return what a Keras tensor in a config stands for, [name of a layer, number of
    its call, number of its output], or another dict.
    """
    return (
        value["config"]["keras_history"]
        if value.get("class_name") == "__keras_tensor__"
        else value
    )


def _read(path: AnyPath) -> tuple[Arrays, list[str], Any]:
    """Read the arrays, the HDF5 groups and the config in a `.weights.h5` file or
    `.keras` archive.
    """
    name = os.fspath(path)
    with open_input(path, f"Keras weights {name}") as file:
        if not zipfile.is_zipfile(file):
            return *_read_hdf5(path, name), None
        with (
            parsing(f"archive {name}", "it is damaged: save the model again"),
            zipfile.ZipFile(file) as archive,
        ):
            for member in ("config.json", "model.weights.h5"):
                require(
                    member in archive.namelist(),
                    f"archive {name}",
                    f"no {member}",
                    "expected what model.save('x.keras') writes",
                )
                stored = archive.getinfo(member).compress_type == zipfile.ZIP_STORED
                require(
                    stored,
                    f"archive {name}",
                    f"{member} is compressed",
                    "unzip it and give its model.weights.h5",
                )
            config = json.loads(archive.read("config.json"), object_hook=_tensor)
            weights = io.BytesIO(archive.read("model.weights.h5"))
    return *_read_hdf5(weights, f"{name}/model.weights.h5"), config


def _order_by_width(
    stacks: dict[str, list[Layer]], features: int, outputs: int, subject: str
) -> list[str]:
    """Infer the order of the recurrent layers of a Keras model that maps `features` to
    `outputs`, and return their names in this order.
    """
    if len({_class(name) for name in stacks}) <= 1:
        return list(stacks)

    @cache
    def orders(rest: Texts, width: int):
        """Return at most two possible orders of the layers that have no position in the
        model yet.
        """
        if not rest:
            return [[]] if width == outputs else []
        return [
            [name, *later]
            # the first layer of each class
            for name in {_class(name): name for name in reversed(rest)}.values()
            if widths(stacks[name][0])[0] == width
            for later in orders(
                tuple(other for other in rest if other != name),
                widths(stacks[name][-1])[1],
            )
        ][:2]

    found = orders(tuple(stacks), features)
    remedy = (
        "their widths fit in several orders: save a .keras archive"
        if found
        else f"their widths fit in no order; {SUPPORTED}"
    )
    require(len(found) == 1, subject, f"layers {', '.join(stacks)}", remedy)
    return found[0]
