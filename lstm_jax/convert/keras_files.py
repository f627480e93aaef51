"""Reading and writing of Keras 3 weight files without Keras, because the loader of Keras can run code that a file contains.

A weight file is an HDF5 file. Each layer of a Sequential or functional model is a group, which is named after the class of the layer: the
first layer of a class is `layers/<class>`, the second is `layers/<class>_1` and so on. The names that the user gave to the layers do not
matter. The arrays of a layer are named `vars/0`, `vars/1` and so on, in the order in which the layer created them. They are in the group of
the layer or, for a recurrent layer, in the group of its cell:

    layers/embedding/vars/0                              layers/dense/vars/{0,1}
    layers/lstm/cell/vars/{0,1,2}                        layers/bidirectional/{forward,backward}_layer/cell/vars/{0,1,2}
    layers/rnn/cell/vars/{0,1,2}                         layers/rnn/cell/cells/lstm_cell[_1]/vars/{0,1,2}

A layer without arrays is an empty group. HDF5 sorts the names as strings (lstm_10 before lstm_2), so the functions of this module sort them
again. The names show the order of layers of one class, but not the order of layers of different classes. Only the config.json of a `.keras`
archive has the order of all layers. The paths above are the same from Keras 3.0 to 3.15, and are defined in keras/src/saving/saving_lib.py
(`_save_state`, `_save_container_state`, `H5IOStore`).
"""

import io
import json
import os
import re
import zipfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from lstm_jax.convert.arrays import (
    CHARACTER,
    SENTIMENT,
    Arrays,
    Kind,
    Layer,
    check_named,
    check_stack,
    is_bidirectional,
    join_model,
    split_model,
    to_numpy,
    widths,
)
from lstm_jax.convert.keras import (
    LAYER_BY_LAYER,
    bidirectional_to_keras,
    dense_from_keras,
    dense_to_keras,
    embedding_from_keras,
    embedding_to_keras,
    lstm_in_model,
    lstm_to_keras,
)
from lstm_jax.errors import InputError, require
from lstm_jax.files.reading import open_input, parsing
from lstm_jax.files.writing import write_atomically


def natural(path: str) -> list[tuple[str, int]]:
    """Return a sort key for the natural order of paths, in which lstm_2 comes before lstm_10."""
    parts = []
    for part in path.split("/"):
        name = part.rstrip("0123456789")
        digits = part[len(name) :]
        parts.append((name.removesuffix("_"), int(digits) if digits.isascii() and digits and len(digits) < 10 else -1))
    return parts


def read_hdf5(source: str | os.PathLike[str] | io.BytesIO, name: str, skip: frozenset[str]) -> tuple[dict[str, np.ndarray], list[str]]:
    """Read the arrays of an HDF5 file and the paths of its groups."""
    import h5py

    subject = f"HDF5 file {name}"
    arrays: dict[str, np.ndarray] = {}
    groups: list[str] = []
    seen: set[Any] = set()  # h5py's ids of the same object are equal
    room = len(source.getbuffer()) if isinstance(source, io.BytesIO) else os.stat(source).st_size
    with parsing(subject, "it is truncated, damaged or no HDF5 file: save the weights again"), h5py.File(source, "r") as file:
        pending: list[tuple[str, Any]] = [("", file)]
        while pending:
            path, found = pending.pop()
            require(found.id not in seen, subject, f"{path} is there under two names", "save the weights again")
            seen.add(found.id)
            if not isinstance(found, h5py.Group):
                arrays[path] = _read_dataset(found, subject, path)
                room -= found.nbytes
                require(room >= 0, subject, f"{path} shares its bytes with others", "save the weights again")
                continue
            groups.append(path)
            for key in map(str, found):
                child, link = f"{path}/{key}" if path else key, found.get(key, getlink=True)
                hard = isinstance(link, h5py.HardLink)
                require(hard, subject, f"{child} is a {type(link).__name__}", "links are not followed: save the arrays themselves")
                if child not in skip:
                    pending.append((child, found[key]))
    return {path: arrays[path] for path in sorted(arrays, key=natural)}, sorted(groups, key=natural)


def _read_dataset(dataset: Any, subject: str, path: str) -> np.ndarray:
    import h5py

    require(isinstance(dataset, h5py.Dataset), subject, f"{path} is a {type(dataset).__name__}", "expected groups and datasets alone")
    outside = dataset.is_virtual or dataset.external
    require(not outside, subject, f"{path} keeps its data in another file", "save the arrays themselves")
    # Keras stores a bfloat16 value as two opaque bytes and sets an attribute. Conversion to float32 keeps the values exactly.
    bfloat16 = dataset.dtype == np.dtype("V2") and dataset.attrs.get("dtype") == "bfloat16"
    require(bfloat16 or dataset.dtype.kind in "fiub", subject, f"{path} has dtype {dataset.dtype}", "only numbers are read")
    # A malicious file may declare any size, but a dataset of Keras takes exactly its bytes. Without filters HDF5 loads no plugin either.
    plain = dataset.shape is not None and dataset.id.get_storage_size() == dataset.nbytes
    plain = plain and dataset.id.get_create_plist().get_nfilters() == 0
    require(plain, subject, f"{path} is empty, compressed or was never written", "save the arrays whole and without compression")
    values = np.asarray(dataset[()])
    return (values.view(np.uint16).astype(np.uint32) << 16).view(np.float32) if bfloat16 else values


RECURRENT = ("lstm", "rnn", "bidirectional")
BY_HAND = "load the model in Keras yourself and convert model.get_weights() with sentiment_from_keras or generation_from_keras"
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
    """Return the names of a Keras model's recurrent layers in the order of the model, after checking the options of all layers."""
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
    return value["config"]["keras_history"] if isinstance(value, dict) and value.get("class_name") == "__keras_tensor__" else None


INACTIVE = ("input_layer", "dropout", "spatial_dropout1d")  # layers that have no effect when a model predicts


def read_keras_weights(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Read the weights in a Keras 3 `.weights.h5` file or `.keras` archive, and return a dict from the path of each array to the array.

    The paths are in natural order, in which lstm_2 comes before lstm_10. The state of the optimizer is left out. bfloat16 arrays are
    converted to float32, and other arrays keep their dtype.

    Raises:
        InputError: if the file does not exist, is damaged, is neither a `.weights.h5` file nor a `.keras` archive, or contains something
            other than arrays of numbers that are stored in the file itself, such as a link to another file.
    """
    return _read(path)[0]


def sentiment_from_keras_file(path: str | os.PathLike[str]) -> Arrays:
    """Read a sentiment model from a Keras 3 `.weights.h5` file or `.keras` archive, and return its weights as a flat dict of lstm_jax.

    The Keras model is Sequential or functional and consists of an Embedding, recurrent layers, and a Dense(1). Each recurrent layer is an
    LSTM, a Bidirectional(LSTM) with merge_mode "concat", or an RNN of one LSTMCell or of a list of LSTMCells.

    A `.keras` archive stores the order of the layers, their inputs and their options. Each layer must read the output of the layer before
    it and nothing else. Options that change the result, such as activations and `go_backwards`, must have the values that lstm_jax
    supports. One exception is the option `mask_zero` of the Embedding, which is not checked. The model of lstm_jax needs the same
    `mask_zero` to compute the same probabilities.

    A `.weights.h5` file does not store the options of the layers. These options are then not checked, so make sure that lstm_jax supports
    them. The file stores the order of layers of the same class, but not the order of layers of different classes, such as LSTM and
    Bidirectional. That order is inferred from the shapes of the arrays. If several orders are possible, an error asks for a `.keras`
    archive.

    Args:
        path: path of the file.

    Returns:
        a dict with keys such as "embedding/embedding", "recurrent/0/kernel" and "head/bias"; see `lstm_jax.convert`.

    Raises:
        InputError: if `read_keras_weights` rejects the file, if a layer or an option is not supported, if the shapes of the layers do not
            fit together, or if the order of the layers is not unique.
    """
    return _from_file(path, SENTIMENT)


def generation_from_keras_file(path: str | os.PathLike[str]) -> Arrays:
    """Read a character model from a Keras 3 `.weights.h5` file or `.keras` archive, and return its weights as a flat dict of lstm_jax.

    The Keras model is Sequential or functional and consists of an optional Embedding, recurrent layers, and a Dense(V), where V is the
    number of characters. Without an embedding the input is one-hot. Each recurrent layer is an LSTM, or an RNN of one LSTMCell or of a list
    of LSTMCells. The last recurrent layer may return its last output or all outputs.

    Options that change the result, such as activations and `go_backwards`, must have the values that lstm_jax supports. They are checked
    only in a `.keras` archive, because a `.weights.h5` file stores no options. The option `mask_zero` of an Embedding is never checked: a
    Keras model with `mask_zero=True` skips the character with the id 0, but the character model of lstm_jax reads it.
    `sentiment_from_keras_file` describes how the order of the layers is found.

    Args:
        path: path of the file.

    Returns:
        a dict with keys such as "recurrent/0/kernel" and "head/bias"; see `lstm_jax.convert`.

    Raises:
        InputError: if `read_keras_weights` rejects the file, if a layer or an option is not supported, if the shapes of the layers do not
            fit together, or if the order of the layers is not unique.
    """
    return _from_file(path, CHARACTER)


def _from_file(path: str | os.PathLike[str], kind: Kind) -> Arrays:
    arrays, groups, config = _read(path)
    subject = f"Keras model {os.fspath(path)}"
    for array in arrays:
        require(array.startswith("layers/"), subject, f"array {array}", f"expected a Sequential or functional model of Keras 3; {BY_HAND}")
    names = [group.removeprefix("layers/") for group in groups if re.fullmatch(r"layers/[^/]+", group)]
    for name in names:
        known = _kind(name) in (*RECURRENT, *INACTIVE, "embedding", "dense")
        require(known, subject, f"layer {name}", SUPPORTED)
    for layer in ("embedding", "dense"):
        optional = kind == CHARACTER and layer == "embedding"
        fits = (optional or layer in names) and f"{layer}_1" not in names
        wanted = f"expected one {layer} layer{' or none' if optional else ''}"
        require(fits, subject, f"layers {', '.join(names)}", f"{wanted}; {SUPPORTED}")
    written = None if config is None else order_in_config(config, kind, subject)

    rest = dict(arrays)
    embedding = embedding_from_keras(_take(rest, "layers/embedding")) if "embedding" in names else None
    head = dense_from_keras(_take(rest, "layers/dense"))
    stacks = {name: check_stack(_take_layers(rest, name), f"layers/{name}/") for name in names if _kind(name) in RECURRENT}
    require(not rest, subject, f"array {next(iter(rest), '')}", SUPPORTED)
    order = _order_by_width(stacks, embedding, head, subject) if written is None else written
    require(set(order) == set(stacks), subject, f"config.json names {', '.join(order)}", f"the arrays are those of {', '.join(stacks)}")
    return join_model(embedding, [layer for name in order for layer in stacks[name]], head, kind)


def write_keras_weights(path: str | os.PathLike[str], params: Mapping[str, Any]) -> None:
    """Write a sentiment or character model of lstm_jax to a file that `model.load_weights` of the corresponding Keras model reads.

    The Keras model must be Sequential or functional. It must have one LSTM or Bidirectional(LSTM) layer for each recurrent layer in
    `params`, and one Embedding layer if `params` has an embedding. It must also have one Dense layer, even if `params` has no "head/kernel"
    because the weights are tied. All these layers except the Embedding must have biases.

    Missing folders above the file are created. If the file cannot be written, an existing file at this path is not changed.

    Args:
        path: path of the file, which must end in .weights.h5.
        params: the flat dict of the model; see `lstm_jax.convert`. A model whose head has one output is a sentiment model, and any other is
            a character model.

    Raises:
        InputError: if a key or shape in `params` is wrong, if the name of the file does not end in .weights.h5, if the path is a link or a
            folder, or if the file cannot be written.
    """
    import h5py

    check_named("params", params, "give the flat dict of a model, see lstm_jax.convert")
    bias = params.get("head/bias")
    embedding, layers, head = split_model(params, SENTIMENT if bias is None or to_numpy("head/bias", bias).shape == (1,) else CHARACTER)
    name = os.fspath(path)
    require(name.endswith(".weights.h5"), "Keras weights", name, "Keras wants a name that ends in .weights.h5")
    arrays = {"layers/dense": dense_to_keras(head)} | ({} if embedding is None else {"layers/embedding": embedding_to_keras(embedding)})
    counts = {"lstm": 0, "bidirectional": 0}
    for layer in layers:
        kind = "bidirectional" if is_bidirectional(layer) else "lstm"
        group = f"layers/{kind}" + (f"_{counts[kind]}" if counts[kind] else "")
        counts[kind] += 1
        if kind == "lstm":
            arrays[f"{group}/cell"] = lstm_to_keras(layer)
        else:
            both = bidirectional_to_keras(layer)
            arrays |= {f"{group}/forward_layer/cell": both[:3], f"{group}/backward_layer/cell": both[3:]}
    content = io.BytesIO()  # in memory first: a write of HDF5 that fails would leave half a file
    with h5py.File(content, "w") as file:
        for group, values in arrays.items():
            for number, value in enumerate(values):
                dataset = file.create_dataset(f"{group}/vars/{number}", data=value)
                if value.dtype.name == "bfloat16":
                    dataset.attrs["dtype"] = "bfloat16"
    write_atomically(Path(name), content.getvalue())


def _read(path: str | os.PathLike[str]) -> tuple[dict[str, np.ndarray], list[str], Any]:
    """Read the arrays, the HDF5 groups and the config in a `.weights.h5` file or `.keras` archive."""
    name, skip = os.fspath(path), frozenset({"optimizer"})
    require(os.path.isfile(path), "Keras weights", name, "there is no such file")
    with open_input(path, f"Keras weights {name}") as file:
        if not zipfile.is_zipfile(file):
            return *read_hdf5(path, name, skip), None
        with parsing(f"archive {name}", "it is damaged: save the model again"), zipfile.ZipFile(file) as archive:
            for member in ("config.json", "model.weights.h5"):
                require(member in archive.namelist(), f"archive {name}", f"no {member}", "expected what model.save('x.keras') writes")
                stored = archive.getinfo(member).compress_type == zipfile.ZIP_STORED
                require(stored, f"archive {name}", f"{member} is compressed", "unzip it and give its model.weights.h5")
            config = json.loads(archive.read("config.json"))
            weights = io.BytesIO(archive.read("model.weights.h5"))
    return *read_hdf5(weights, f"{name}/model.weights.h5", skip), config


def _kind(name: str) -> str:
    return re.sub(r"_\d+$", "", name)


def _take(rest: dict[str, np.ndarray], group: str) -> list[np.ndarray]:
    """Remove the arrays of one group of a Keras file from the dict `rest`, and return them in the order of their numbers."""
    taken: list[np.ndarray] = []
    while f"{group}/vars/{len(taken)}" in rest:
        taken.append(rest.pop(f"{group}/vars/{len(taken)}"))
    return taken


def _take_layers(rest: dict[str, np.ndarray], name: str) -> list[Layer]:
    """Remove the arrays of one recurrent Keras layer from the dict `rest`, and return them as a list of weights of layers of lstm_jax."""
    group = f"layers/{name}"

    def lstm(cell: str) -> Arrays:
        return lstm_in_model(_take(rest, cell), f"{cell}: ", SUPPORTED)

    if _kind(name) == "bidirectional":
        return [{direction: lstm(f"{group}/{direction}_layer/cell") for direction in ("forward", "backward")}]
    stacked = {match.group() for path in rest if (match := re.match(rf"{group}/cell/cells/lstm_cell(_\d+)?(?=/)", path))}
    return [lstm(cell) for cell in sorted(stacked, key=natural) or [f"{group}/cell"]]


def _order_by_width(stacks: dict[str, list[Layer]], embedding: Arrays | None, head: Arrays, subject: str) -> list[str]:
    """Infer the order of the recurrent layers of a Keras model, and return their names in this order."""
    queues = [queue for kind in RECURRENT if (queue := [name for name in stacks if _kind(name) == kind])]
    if len(queues) == 1:
        return queues[0]
    ends = {name: (widths(stack[0])[0], widths(stack[-1])[1]) for name, stack in stacks.items()}

    @cache
    def orders(taken: tuple[int, ...], width: int) -> list[list[str]]:
        """Return possible orders of the layers that have no position in the model yet."""
        if all(count == len(queue) for count, queue in zip(taken, queues, strict=True)):
            return [[]] if width == head["kernel"].shape[0] else []
        found: list[list[str]] = []
        for index, queue in enumerate(queues):
            if taken[index] < len(queue) and ends[queue[taken[index]]][0] == width:
                name = queue[taken[index]]
                further = (*taken[:index], taken[index] + 1, *taken[index + 1 :])
                found += [[name, *later] for later in orders(further, ends[name][1])]
        return found[:2]

    found = orders((0,) * len(queues), (head["kernel"] if embedding is None else embedding["embedding"]).shape[1])
    require(bool(found), subject, f"layers {', '.join(stacks)}", f"their widths fit in no order; {SUPPORTED}")
    require(len(found) == 1, subject, f"layers {', '.join(stacks)}", "their widths fit in several orders: save a .keras archive")
    return found[0]
