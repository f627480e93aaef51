"""Conversion of recurrent layers and of whole models to ONNX, the format of models that many programs and devices run.

Each public function returns an `onnx.ModelProto`, which `onnx.save` writes to a file. Each recurrent layer becomes one node of ONNX's
operator LSTM, GRU or RNN (opset 17). The batch size and the number of steps are not fixed, but must be 1 or more: an empty batch, or for a
GRU an empty sequence, aborts the process of ONNX Runtime 1.32. All weights must be float32. The functions need the package onnx, which
`pip install '.[onnx]'` installs.

The docstring of the package `lstm_jax.convert` describes the layout of weights in lstm_jax. The operators are described in ONNX's
Operators.md (opset 14). The first axis of their weights is that of the D directions, and their gates have the order i, o, f, c (LSTM) or
z, r, h (GRU), where lstm_jax calls c g, z u and h n. T is the number of steps, B the batch size, E the number of input features and H the
number of units.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

import lstm_jax
from lstm_jax.bounds import is_a
from lstm_jax.convert.arrays import (
    CHARACTER,
    ENDS,
    LAYOUTS,
    OWN,
    SENTIMENT,
    Arrays,
    Layer,
    Target,
    check_cell,
    check_named,
    check_stack,
    exported,
    halves,
    is_bidirectional,
    parts_of,
    reordered,
    split_model,
    widths,
)
from lstm_jax.errors import InputError, require

OPSET = 17
"""Version of ONNX's operators that the graphs use."""
IR_VERSION = 8
"""Version of ONNX's file format. The first release of ONNX with opset 17 has this version. All programs with opset 17 can read it."""
MERGES = ("concat", "sum", "ave", "mul")
LARGEST = 2**31 - 2**20
"""Largest total size of the weights of a model in bytes. The file of a model must be smaller than 2 GiB."""


def import_onnx() -> Any:
    """Import the package onnx and return it."""
    try:
        import onnx
    except ImportError as error:
        raise InputError("package onnx", error, "pip install '.[onnx]'") from error
    return onnx


class Graph:
    """ONNX graph to which inputs, outputs, constants and nodes are added.

    Every array in the graph, also called a value, has a name. The methods take and return these names.
    """

    def __init__(self):
        self.onnx = import_onnx()
        self.nodes: list[Any] = []
        self.constants: dict[str, np.ndarray] = {}
        self.inputs: list[Any] = []
        self.outputs: list[Any] = []

    def input(self, name: str, dtype: str, *shape: int | str) -> str:
        """Add an input, and return its name."""
        self.inputs.append(self.onnx.helper.make_tensor_value_info(name, getattr(self.onnx.TensorProto, dtype), shape))
        return name

    def output(self, value: str, name: str, *shape: int | str, first: bool = False) -> None:
        """Add a float output, which is a copy of a value under another name."""
        self.nodes.append(self.onnx.helper.make_node("Identity", [value], [name], name=f"{name}/Identity"))
        described = self.onnx.helper.make_tensor_value_info(name, self.onnx.TensorProto.FLOAT, shape)
        self.outputs.insert(0 if first else len(self.outputs), described)

    def constant(self, name: str, array: Any) -> str:
        """Add an array of float32 or int64 as a constant with the given name, and return the name."""
        array = np.asarray(array)
        require(array.dtype in (np.float32, np.int64), name, f"dtype {array.dtype}", "give float32 arrays")
        self.constants[name] = array
        return name

    def integers(self, *numbers: int) -> str:
        """Add a constant int64 vector of the given numbers, and return its name."""
        return self.constant(f"integers/{'_'.join(map(str, numbers))}", np.array(numbers, np.int64))

    def node(self, operator: str, *inputs: str, **attributes: Any) -> str:
        """Add a node with one output, and return the name of the output."""
        return self.many(operator, 1, *inputs, **attributes)[0]

    def many(self, operator: str, count: int, *inputs: str, **attributes: Any) -> list[str]:
        """Add a node with `count` outputs, and return their names. The other arguments are those of `node`."""
        name = f"{operator}/{len(self.nodes)}"
        outputs = [f"{name}/{place}" for place in range(count)]
        self.nodes.append(self.onnx.helper.make_node(operator, inputs, outputs, name=name, **attributes))
        return outputs

    def model(self, name: str, description: str, cell: str, metadata: Mapping[str, str] | None) -> Any:
        """Return the graph as an `onnx.ModelProto`, after `onnx.checker` has checked it."""
        metadata = {} if metadata is None else metadata
        check_named("metadata", metadata, METADATA)
        for key, value in metadata.items():
            require(isinstance(value, str), f"metadata {key}", repr(value), METADATA)
        helper, size = self.onnx.helper, sum(array.nbytes for array in self.constants.values())
        require(size <= LARGEST, "weights", f"{size:,} bytes", f"a file of ONNX holds {LARGEST:,} at most: give a smaller model")
        tensors = [self.onnx.numpy_helper.from_array(array, key) for key, array in self.constants.items()]
        graph = helper.make_graph(self.nodes, name, self.inputs, self.outputs, tensors)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
        model.producer_name, model.producer_version, model.doc_string = "lstm_jax", lstm_jax.__version__, description
        helper.set_model_props(model, {"opset": str(OPSET), "cell": cell, **metadata})
        self.onnx.checker.check_model(model, full_check=True)
        return model


def state_names(cell: str) -> tuple[str, ...]:
    """Return the names of the arrays of a cell's state."""
    return ("h", "c") if cell == "lstm" else ("h",)


def add_layers(
    graph: Graph,
    cell: str,
    layers: Sequence[Layer],
    x: str,
    *,
    lengths: str = "",
    merge: str = "concat",
    states: bool = False,
    returned: Sequence[int] = (),
) -> tuple[str, str]:
    """Add a stack of recurrent layers to a graph, and return the names of its outputs (T, B, features) and of its last output."""
    require(merge in MERGES, "merge", merge, f"give one of {', '.join(MERGES)}")
    last, names = "", state_names(cell)
    attributes = {"linear_before_reset": int(cell == "gru")} if LAYOUTS[cell].module == "GRU" else {}
    for number, layer in enumerate(layers):
        parts, pair = [reordered("ONNX", cell, part) for part in halves(layer)], is_bidirectional(layer)
        operands = {
            "kernel": [part["kernel"].T for part in parts],
            "recurrent_kernel": [part["recurrent_kernel"].T for part in parts],
            "bias": [np.concatenate([part["bias"], part.get("recurrent_bias", np.zeros_like(part["bias"]))]) for part in parts],
        }
        weights = [graph.constant(f"recurrent/{number}/{name}", np.stack(arrays)) for name, arrays in operands.items()]
        units = parts[0]["recurrent_kernel"].shape[0]
        shape = (len(parts), "batch", units)
        initial = [graph.input(f"state/{number}/{name}", "FLOAT", *shape) for name in names] if states else []
        options = {"hidden_size": units, "direction": "bidirectional" if pair else "forward", **attributes}
        all_steps, *final = graph.many(LAYOUTS[cell].module, 1 + len(names), x, *weights, lengths, *initial, **options)
        if states or number in returned:
            for name, value in zip(names, final, strict=True):
                graph.output(value, f"new_state/{number}/{name}", *shape)
        x, last = _merge(graph, merge, all_steps, pair, axis=1), _merge(graph, merge, final[0], pair, axis=0)
    return x, last


def _merge(graph: Graph, merge: str, value: str, pair: bool, axis: int) -> str:
    """Combine the outputs of the directions of a layer, and return the name of the result."""
    if not pair:
        return graph.node("Squeeze", value, graph.integers(axis))
    if merge == "concat":
        swapped = graph.node("Transpose", value, perm=[0, 2, 1, 3] if axis else [1, 0, 2])
        return graph.node("Reshape", swapped, graph.integers(*([0, 0, -1] if axis else [0, -1])))
    if merge == "sum":
        return graph.node("ReduceSum", value, graph.integers(axis), keepdims=0)
    return graph.node("ReduceMean" if merge == "ave" else "ReduceProd", value, axes=[axis], keepdims=0)


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
    """Convert a stack of recurrent layers to an ONNX model, an `onnx.ModelProto`.

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
            may also be the weights of a layer (see `lstm_jax.convert`). Weights do not show the options of their layer, such as
            `activation` and `go_backwards`. These options are then not checked.
        merge: how the outputs of two directions are combined: "concat", "sum", "ave" or "mul". None means the `merge_mode` of the
            `Bidirectional` layers or, if there are none, "concat".
        states: whether the states are inputs and outputs. If false, each layer starts from zeros.
        metadata: dict from names to texts, which are added to the metadata of the model. None adds nothing.

    Raises:
        InputError: if ONNX lacks the cell, a layer has another cell, the keys, shapes or dtypes of the weights are wrong, `merge`
            is unknown or differs from the `merge_mode` of a layer, `metadata` is not a dict from strings to strings, or the package onnx is
            not installed. Also if ONNX cannot express an option of a layer or stack: other activations, `go_backwards`, zoneout, a `dtype`
            other than that of the parameters, `merge_mode=None`, residual connections, or a learned initial state without `states`.
    """
    check_cell(cell, "ONNX")
    target = Target("recurrent layer of ONNX", {cell: (cell,)}, MERGES, bfloat16=False, starts=states)
    parts = parts_of(layers, target)
    weights = exported(cell, parts, target)
    found = {part.merge_mode for part in parts if is_a(part, OWN, "Bidirectional")}
    remedy = "all layers of one model must have the same: export them one by one"
    require(len(found) <= 1, "merge_mode", ", ".join(sorted(found)), remedy)
    for own in found:
        require(merge in (None, own), "merge", merge, f"the layers have merge_mode={own!r}: leave it out")
        merge = own
    merge = "concat" if merge is None else merge
    stack = check_stack(weights, cell=cell, merge=merge)
    graph = Graph()
    x = graph.input("x", "FLOAT", "batch", "time", widths(stack[0])[0])
    returned = [number for number, part in enumerate(parts) if getattr(part, "return_state", False)]
    sequence, last = add_layers(graph, cell, stack, _swapped(graph, x), merge=merge, states=states, returned=returned)
    outputs = widths(stack[-1], merge)[1]
    if getattr(parts[-1], "return_sequences", True):
        graph.output(_swapped(graph, sequence), "y", "batch", "time", outputs, first=True)
    else:
        graph.output(last, "y", "batch", outputs, first=True)
    return graph.model("recurrent_layers", f"{len(stack)} recurrent layers", cell, metadata)


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

    The ids are int64. The result is an `onnx.ModelProto`.

    Args:
        params: the flat dict of the model; see `lstm_jax.convert`.
        cell: name of the cell, as in `layers_to_onnx`.
        merge: how the outputs of two directions are combined: "concat", "sum", "ave" or "mul".
        pooling: how the output layer gets its input from the outputs of the last recurrent layer: "last" (the last output), "mean" or "max"
            over the words, or "mean+max" (both, concatenated).
        skip_padding: whether the recurrent layers skip padding (id 0), wherever it stands in a row, as with `mask_zero` in Keras.
        description: text for the field `doc_string` of the model.
        metadata: dict from names to texts, which are added to the metadata of the model.

    Raises:
        InputError: if ONNX has no operator for the cell, if `merge` or `pooling` is unknown, if the keys, shapes or dtypes of the
            parameters are wrong, if `metadata` is not a dict from strings to strings, or if the package onnx is not installed.
    """
    require(isinstance(pooling, str) and pooling in POOLINGS, "pooling", pooling, f"give one of {', '.join(POOLINGS)}")
    check_cell(cell, "ONNX")
    embedding, layers, head = split_model(params, SENTIMENT, cell, merge, POOLINGS[pooling])
    assert embedding is not None
    graph = Graph()
    ids, lengths = graph.input("ids", "INT64", "batch", "time"), ""
    if skip_padding:
        ids, lengths = _without_padding(graph, ids)
    vectors = graph.node("Gather", graph.constant(ENDS[0], embedding["embedding"]), _swapped(graph, ids, axes=2))
    sequence, last = add_layers(graph, cell, layers, vectors, lengths=lengths, merge=merge)
    logits = _dense(graph, last if pooling == "last" else _pooled(graph, sequence, ids, pooling), head)
    probability = graph.node("Sigmoid", graph.node("Squeeze", logits, graph.integers(1)))
    graph.output(probability, "probability", "batch")
    return graph.model("sentiment", description, cell, metadata)


def generation_to_onnx(
    params: Mapping[str, Any], *, cell: str = "lstm", description: str = CHARACTER, metadata: Mapping[str, str] | None = None
) -> Any:
    """Convert a character model to an ONNX model that maps "ids" (batch, time) to "logits" (batch, time, V) of the next character.

    The ids are int64, and V is the number of characters. The result is an `onnx.ModelProto`. The states of the layers are inputs and
    outputs, named as by `layers_to_onnx`, so that a text can be read or generated in several calls. At its beginning they are zeros.

    Args:
        params: the flat dict of the model; see `lstm_jax.convert`.
        cell: name of the cell, as in `layers_to_onnx`.
        description: text for the field `doc_string` of the model.
        metadata: dict from names to texts, which are added to the metadata of the model.

    Raises:
        InputError: if ONNX has no operator for the cell, if the keys, shapes or dtypes of the parameters are wrong, if `metadata` is not a
            dict from strings to strings, or if the package onnx is not installed.
    """
    check_cell(cell, "ONNX")
    embedding, layers, head = split_model(params, CHARACTER, cell)
    characters = len(head["bias"])
    graph = Graph()
    ids = _swapped(graph, graph.input("ids", "INT64", "batch", "time"), axes=2)
    if embedding is None:
        values = graph.constant("one_hot/values", np.array([0, 1], np.float32))
        x = graph.node("OneHot", ids, graph.integers(characters), values, axis=-1)
    else:
        x = graph.node("Gather", graph.constant(ENDS[0], embedding["embedding"]), ids)
    sequence, _ = add_layers(graph, cell, layers, x, states=True)
    logits = _dense(graph, _swapped(graph, sequence), head)
    graph.output(logits, "logits", "batch", "time", characters, first=True)
    return graph.model("generation", description, cell, metadata)


def _swapped(graph: Graph, value: str, axes: int = 3) -> str:
    return graph.node("Transpose", value, perm=[1, 0, 2][:axes])


def _dense(graph: Graph, x: str, head: Arrays) -> str:
    product = graph.node("MatMul", x, graph.constant("head/kernel", head["kernel"]))
    return graph.node("Add", product, graph.constant("head/bias", head["bias"]))


def _is_word(graph: Graph, ids: str) -> str:
    return graph.node("Not", graph.node("Equal", ids, graph.integers(0)))


def _without_padding(graph: Graph, ids: str) -> tuple[str, str]:
    """Add nodes that move the padding of each row behind its words and count the words, and return the names of both results."""
    word = _is_word(graph, ids)
    counts = graph.node("ReduceSum", graph.node("Cast", word, to=graph.onnx.TensorProto.INT32), graph.integers(1), keepdims=0)
    steps = graph.node("Gather", graph.node("Shape", ids), graph.integers(1))
    zero, one = graph.constant("zero", np.int64(0)), graph.constant("one", np.int64(1))
    positions = graph.node("Range", zero, graph.node("Squeeze", steps), one)
    places = graph.node("Where", word, positions, graph.node("Add", positions, steps))
    _, order = graph.many("TopK", 2, places, steps, axis=1, largest=0, sorted=1)
    return graph.node("GatherElements", ids, order, axis=1), counts


def _pooled(graph: Graph, outputs: str, ids: str, pooling: str) -> str:
    """Add nodes that pool the outputs of the last recurrent layer over the words of each row, and return the name of the result."""
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
