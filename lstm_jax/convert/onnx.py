"""Conversion of recurrent layers and of whole models to ONNX, the format of models that many programs and devices run.

Each public function returns an `onnx.ModelProto`, which `onnx.save` writes to a file. Each recurrent layer becomes one node of ONNX's
operator LSTM, GRU or RNN (opset 17). The batch size and the number of steps are not fixed, but must be 1 or more: an empty batch, or for a
GRU an empty sequence, aborts the process of ONNX Runtime 1.32. All weights must be float32. The functions need the package onnx, which
`pip install '.[onnx]'` installs.

The docstring of the package `lstm_jax.convert` describes the layout of weights in lstm_jax.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lstm_jax.convert.arrays import (
    CHARACTER,
    ENDS,
    SENTIMENT,
    Arrays,
    Kind,
    Layer,
    check_layer,
    is_bidirectional,
    shaped,
    split_paths,
    to_numpy,
    widths,
)
from lstm_jax.convert.checks import check_named
from lstm_jax.convert.exporting import Target, exported, merge_of, parts_of
from lstm_jax.convert.onnx_graph import MERGES, OPERATORS, Graph, add_layers, check_operator
from lstm_jax.errors import require

ONNX_CELLS = {cell: (cell,) for cell in OPERATORS}
METADATA = "give a dict from names to texts"
POOLINGS = {"last": 1, "mean": 1, "max": 1, "mean+max": 2}
"""Dict from the name of each pooling to the number of pooled vectors that it concatenates."""


def layers_to_onnx(
    cell: str,
    layers: Any,
    *,
    merge: str | None = None,
    states: bool = False,
    metadata: Mapping[str, str] | None = None,
) -> Any:
    """Convert a stack of recurrent layers to an ONNX model.

    The model maps "x" (batch, time, features) to "y", which is what the last layer returns: its outputs at all steps (batch, time, outputs)
    or, if it is a layer with `return_sequences=False`, its last output (batch, outputs). If `states` is true, the model also maps the
    initial state of each layer to its final state. The inputs "state/0/h" and, for an LSTM, "state/0/c" are the initial state of the lowest
    layer, and the outputs "new_state/0/h" and "new_state/0/c" are its final state. The names for the next layer begin with "state/1/" and
    "new_state/1/", and so on. Each state has the shape (directions, batch, units), where `directions` is 1, or 2 for a bidirectional layer.
    The final state of a layer with `return_state=True` is an output in any case.

    Dropout is left out, because it is active only in training. `stateful` of the layers is ignored.

    Args:
        cell: name of the cell: "lstm", "gru", "gru_reset_before" or "simple_rnn".
        layers: a `RecurrentStack`, a `Recurrent` or `Bidirectional` layer, or a list of layers, lowest layer first. An entry of the list
            may also be the weights of a layer: a dict of the arrays of a cell, such as "kernel" and "bias" (the docstrings of
            `lstm_jax.convert` and `lstm_jax.convert.cells` have all names and shapes), or {"forward": dict, "backward": dict}. Weights do
            not show the options of their layer, such as `activation` and `go_backwards`. These options are then not checked.
        merge: how the outputs of two directions are combined: "concat", "sum", "ave" or "mul". None means the `merge_mode` of the
            `Bidirectional` layers or, if there are none, "concat".
        states: whether the states are inputs and outputs. If false, each layer starts from zeros.
        metadata: dict from names to texts, which are added to the metadata of the model. None adds nothing.

    Returns:
        an `onnx.ModelProto`.

    Raises:
        InputError: in one of these cases.

            - The package onnx is not installed.
            - ONNX has no operator for the cell, or a layer has another cell.
            - The keys, shapes or dtypes of the weights are wrong.
            - A layer has an option that ONNX cannot express: other activations than the default ones, `go_backwards`, zoneout, a `dtype`
              other than that of the parameters, or `merge_mode=None`.
            - A layer has a learned initial state, and `states` is false.
            - The stack has residual connections.
            - `merge` is unknown, or differs from the `merge_mode` of a `Bidirectional` layer.
            - The `Bidirectional` layers have different values of `merge_mode`.
            - `metadata` is not a dict from strings to strings.
    """
    check_operator(cell)
    target = Target("recurrent layer of ONNX", ONNX_CELLS, MERGES, bfloat16=False, starts=states)
    parts = parts_of(layers, target)
    weights = exported(cell, parts, target)
    merge = merge_of(parts, merge)
    checked, outputs = _check_stack(cell, weights, merge)
    graph = Graph()
    x = graph.input("x", "FLOAT", "batch", "time", widths(checked[0])[0])
    returned = [number for number, part in enumerate(parts) if getattr(part, "return_state", False)]
    found = add_layers(graph, cell, checked, _swapped(graph, x), merge=merge, states=states, returned=returned)
    if getattr(parts[-1], "return_sequences", True):
        graph.output(_swapped(graph, found.sequence), "y", "batch", "time", outputs, first=True)
    else:
        graph.output(found.last, "y", "batch", outputs, first=True)
    return graph.model("recurrent_layers", f"{len(checked)} recurrent layers", _metadata(cell, metadata))


def sentiment_to_onnx(
    params: Mapping[str, Any],
    *,
    cell: str = "lstm",
    merge: str = "concat",
    pooling: str = "last",
    skip_padding: bool = False,
    description: str = SENTIMENT,
    metadata: Mapping[str, str] | None = None,
) -> Any:
    """Convert a sentiment model to an ONNX model that maps "ids" (batch, time) to "probability" (batch,), the probability of label 1.

    The ids are int64.

    Args:
        params: dict from names such as "embedding/embedding", "recurrent/0/kernel" and "head/bias" to arrays; see `lstm_jax.convert`.
        cell: name of the cell: "lstm", "gru", "gru_reset_before" or "simple_rnn".
        merge: how the outputs of two directions are combined: "concat", "sum", "ave" or "mul".
        pooling: how the output layer gets its input from the outputs of the last recurrent layer: "last" (the last output), "mean" or "max"
            over the words, or "mean+max" (both, concatenated).
        skip_padding: whether the recurrent layers skip padding (id 0), wherever it stands in a row, as with `mask_zero` in Keras.
        description: text for the field `doc_string` of the model.
        metadata: dict from names to texts, which are added to the metadata of the model. None adds nothing.

    Returns:
        an `onnx.ModelProto`.

    Raises:
        InputError: if ONNX has no operator for the cell, if `merge` or `pooling` is unknown, if the keys, shapes or dtypes of the
            parameters are wrong, if `metadata` is not a dict from strings to strings, or if the package onnx is not installed.
    """
    require(isinstance(pooling, str) and pooling in POOLINGS, "pooling", pooling, f"give one of {', '.join(POOLINGS)}")
    table, layers, head, outputs = _split(params, cell, merge, SENTIMENT)
    kernel = shaped("head/kernel", head["kernel"], outputs * POOLINGS[pooling], 1)
    bias = shaped("head/bias", head["bias"], 1)
    graph = Graph()
    ids, lengths = graph.input("ids", "INT64", "batch", "time"), ""
    if skip_padding:
        ids, lengths = _without_padding(graph, ids)
    vectors = graph.node("Gather", graph.constant("embedding/embedding", table), _swapped(graph, ids, axes=2))
    found = add_layers(graph, cell, layers, vectors, lengths=lengths, merge=merge)
    features = found.last if pooling == "last" else _pooled(graph, found.sequence, ids, pooling)
    logits = _dense(graph, features, kernel, bias)
    probability = graph.node("Sigmoid", graph.node("Squeeze", logits, graph.integers(1)))
    graph.output(probability, "probability", "batch")
    return graph.model("sentiment", description, _metadata(cell, metadata))


def generation_to_onnx(
    params: Mapping[str, Any], *, cell: str = "lstm", description: str = CHARACTER, metadata: Mapping[str, str] | None = None
) -> Any:
    """Convert a character model to an ONNX model that maps "ids" (batch, time) to "logits" (batch, time, V) of the next character.

    The ids are int64, and V is the number of characters. The states of the layers are inputs and outputs, so that a text can be read or
    generated in several calls. The inputs "state/0/h" and, for an LSTM, "state/0/c" are the initial state of the lowest layer, and the
    outputs "new_state/0/h" and "new_state/0/c" are its final state. The names for the next layer have the number 1, and so on. Each state
    has the shape (1, batch, units). At the beginning of a text the states are zeros.

    Args:
        params: dict from names such as "recurrent/0/kernel" and "head/bias" to arrays; see `lstm_jax.convert`. Without the key
            "embedding/embedding" the input is one-hot. Without the key "head/kernel" the kernel of the output layer is the transposed
            embedding table.
        cell: name of the cell: "lstm", "gru", "gru_reset_before" or "simple_rnn".
        description: text for the field `doc_string` of the model.
        metadata: dict from names to texts, which are added to the metadata of the model. None adds nothing.

    Returns:
        an `onnx.ModelProto`.

    Raises:
        InputError: if ONNX has no operator for the cell, if the keys, shapes or dtypes of the parameters are wrong, if `metadata` is not a
            dict from strings to strings, or if the package onnx is not installed.
    """
    table, layers, head, outputs = _split(params, cell, "concat", CHARACTER)
    features = widths(layers[0])[0]
    characters = features if table is None else len(table)
    kernel = table.T if table is not None and "kernel" not in head else head["kernel"]
    kernel, bias = shaped("head/kernel", kernel, outputs, characters), shaped("head/bias", head["bias"], characters)
    graph = Graph()
    ids = _swapped(graph, graph.input("ids", "INT64", "batch", "time"), axes=2)
    if table is None:
        values = graph.constant("one_hot/values", np.array([0, 1], np.float32))
        x = graph.node("OneHot", ids, graph.integers(characters), values, axis=-1)
    else:
        x = graph.node("Gather", graph.constant("embedding/embedding", table), ids)
    found = add_layers(graph, cell, layers, x, states=True)
    logits = _dense(graph, _swapped(graph, found.sequence), kernel, bias)
    graph.output(logits, "logits", "batch", "time", characters, first=True)
    return graph.model("generation", description, _metadata(cell, metadata))


def _metadata(cell: str, metadata: Mapping[str, str] | None) -> dict[str, str]:
    """Return the metadata of a model: the name of its cell, and the texts that the caller adds."""
    if metadata is None:
        return {"cell": cell}
    check_named("metadata", metadata, METADATA)
    for name, value in metadata.items():
        require(isinstance(value, str), f"metadata {name}", repr(value), METADATA)
    return {"cell": cell, **metadata}


def _float32(name: str, value: Any) -> np.ndarray:
    """Return an array as a NumPy array, after checking that its dtype is float32."""
    array = to_numpy(name, value)
    require(array.dtype == np.float32, name, f"dtype {array.dtype}", "give float32 arrays")
    return array


def _check_stack(cell: str, layers: Sequence[Mapping[str, Any]], merge: str) -> tuple[list[Layer], int]:
    """Check that the weights of stacked layers are float32 and fit together, and return copies of them."""
    check_operator(cell)
    require(len(layers) > 0, "recurrent/ layers", "none", "give at least one layer")
    checked, below = [], 0
    for number, layer in enumerate(layers):
        where = f"recurrent/{number}/"
        found = check_layer(layer, where, cell)
        for arrays in (found["forward"], found["backward"]) if is_bidirectional(found) else (found,):
            for name, array in arrays.items():
                _float32(where + name, array)
        taken, outputs = widths(found)
        require(number == 0 or taken == below, where, f"takes {taken} features", f"the layer below it gives {below}: they must be equal")
        below = outputs // 2 if is_bidirectional(found) and merge != "concat" else outputs
        checked.append(found)
    return checked, below


def _split(params: Mapping[str, Any], cell: str, merge: str, kind: Kind) -> tuple[Any, list[Layer], Arrays, int]:
    """Split the flat dict of a model into its parts, after checking that they fit together."""
    layers, outputs = _check_stack(cell, split_paths(params, kind), merge)
    two = [number for number, layer in enumerate(layers) if is_bidirectional(layer)]
    remedy = "a character model reads forwards alone: give one cell a layer"
    require(kind == SENTIMENT or not two, f"recurrent/ layers {two}", "two directions", remedy)
    taken = widths(layers[0])[0]
    table = shaped(ENDS[0], _float32(ENDS[0], params[ENDS[0]]), "V", taken) if ENDS[0] in params else None
    head = {path.removeprefix("head/"): _float32(path, params[path]) for path in ENDS[1:] if path in params}
    return table, layers, head, outputs


def _swapped(graph: Graph, value: str, axes: int = 3) -> str:
    """Add a node that exchanges the batch axis and the time axis of an array, and return the name of the result."""
    return graph.node("Transpose", value, perm=[1, 0, 2][:axes])


def _dense(graph: Graph, x: str, kernel: np.ndarray, bias: np.ndarray) -> str:
    product = graph.node("MatMul", x, graph.constant("head/kernel", kernel))
    return graph.node("Add", product, graph.constant("head/bias", bias))


def _is_word(graph: Graph, ids: str) -> str:
    """Add nodes that compute which ids are words, and return the name of the result.

    The result is a bool array (B, T) for B rows of T ids. It is True for a word, and False for padding, which has the id 0.
    """
    return graph.node("Not", graph.node("Equal", ids, graph.integers(0)))


def _without_padding(graph: Graph, ids: str) -> tuple[str, str]:
    """Add nodes that move the padding of each row behind its words and count the words, and return the names of both results.

    ONNX's recurrent operators have no mask. They take a length for each row instead, and read only this number of steps from the start of
    the row. In the model, padding is masked and leaves the state unchanged. Moving the padding to the end therefore does not change the
    final state.
    """
    word = _is_word(graph, ids)
    counts = graph.node("ReduceSum", graph.node("Cast", word, to=graph.onnx.TensorProto.INT32), graph.integers(1), keepdims=0)
    steps = graph.node("Gather", graph.node("Shape", ids), graph.integers(1))
    zero, one = graph.constant("zero", np.int64(0)), graph.constant("one", np.int64(1))
    positions = graph.node("Range", zero, graph.node("Squeeze", steps), one)
    places = graph.node("Where", word, positions, graph.node("Add", positions, steps))
    _, order = graph.many("TopK", 2, places, steps, axis=1, largest=0, sorted=1)
    return graph.node("GatherElements", ids, order, axis=1), counts


def _pooled(graph: Graph, outputs: str, ids: str, pooling: str) -> str:
    """Add nodes that pool the outputs of the last recurrent layer over the words of each row, and return the name of the result.

    The outputs at padding do not count. The result equals that of the pooling in `SentimentClassifier`.
    """
    word = graph.node("Unsqueeze", _swapped(graph, _is_word(graph, ids), axes=2), graph.integers(2))
    words = graph.node("ReduceSum", graph.node("Cast", word, to=graph.onnx.TensorProto.FLOAT), graph.integers(0), keepdims=0)
    zero, one = graph.constant("float/zero", np.float32(0)), graph.constant("float/one", np.float32(1))
    results = []
    if pooling != "max":
        total = graph.node("ReduceSum", graph.node("Where", word, outputs, zero), graph.integers(0), keepdims=0)
        results.append(graph.node("Div", total, graph.node("Max", words, one)))
    if pooling != "mean":
        lowest = graph.constant("float/lowest", np.float32(-np.inf))
        largest = graph.node("ReduceMax", graph.node("Where", word, outputs, lowest), axes=[0], keepdims=0)
        results.append(graph.node("Where", graph.node("Greater", words, zero), largest, zero))
    return results[0] if len(results) == 1 else graph.node("Concat", *results, axis=-1)
