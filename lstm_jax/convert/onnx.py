"""Conversion of recurrent layers and of whole models to ONNX, the format of models that
many programs and devices run.

Each public function returns an `onnx.ModelProto`, which `onnx.save` writes to a file.
Each recurrent layer becomes one node of ONNX's operator LSTM, GRU or RNN (opset 17).
The batch size and the number of steps are not fixed, but must be 1 or more: an empty
batch, or for a GRU an empty sequence, aborts the process of ONNX Runtime 1.32. All
weights must be float32. The functions need the package onnx, which `pip install
'.[onnx]'` installs.

The docstring of the package `lstm_jax.convert` describes the layout of weights in
lstm_jax. The operators are described in ONNX's Operators.md (opset 14). The first axis
of their weights is that of the D directions, and their gates have the order i, o, f, c
(LSTM) or z, r, h (GRU), where lstm_jax calls c g, z u and h n. T is the number of
steps, B the batch size, E the number of input features and H the number of units.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
from numpy import ndarray

import lstm_jax
from lstm_jax.base.checks import is_a
from lstm_jax.base.errors import check_choice, parsing, require
from lstm_jax.base.types import Texts
from lstm_jax.convert.arrays import (
    CHARACTER,
    ENDS,
    LAYOUTS,
    MERGES,
    OWN,
    SENTIMENT,
    Arrays,
    Layer,
    Params,
    Target,
    check_cell,
    check_stack,
    exported,
    halves,
    layers_of,
    reordered,
    split_model,
    widths,
)

Metadata = Mapping[str, str] | None
OPSET = 17
"""Version of ONNX's operators that the graphs use."""
IR_VERSION = 8
"""Version of ONNX's file format. The first release of ONNX with opset 17 has this
version. All programs with opset 17 can read it."""
LARGEST = 2**31 - 2**20
"""Largest total size of the weights of a model in bytes. The file of a model must be
smaller than 2 GiB."""


def import_onnx() -> Any:
    """Import the package onnx and return it."""
    with parsing("package onnx", "pip install '.[onnx]'"):
        import onnx
    return onnx


class Graph:
    """ONNX graph to which inputs, outputs, constants and nodes are added.

    Every array in the graph, also called a value, has a name. The methods take and
    return these names.
    """

    def __init__(self):
        self.onnx = import_onnx()
        self.inputs, self.outputs, self.nodes, self.constants = [], [], [], []

    def input(self, name: str, dtype: str, *shape: int | str) -> str:
        """Add an input, and return its name."""
        self.inputs.append(
            self.onnx.helper.make_tensor_value_info(
                name, getattr(self.onnx.TensorProto, dtype), shape
            )
        )
        return name

    def output(self, value: str, name: str, *shape: int | str) -> None:
        """Add a float output, which is a copy of a value under another name. The output
        that is added last is the first of the model.
        """
        self.nodes.append(
            self.onnx.helper.make_node(
                "Identity", [value], [name], name=f"{name}/Identity"
            )
        )
        self.outputs.append(
            self.onnx.helper.make_tensor_value_info(
                name, self.onnx.TensorProto.FLOAT, shape
            )
        )

    def constant(self, name: str, array: ndarray) -> str:
        """Add an array of float32 or int64 as a constant with the given name, and
        return the name.
        """
        require(
            array.dtype in (np.float32, np.int64),
            name,
            f"dtype {array.dtype}",
            "give float32 arrays",
        )
        self.constants.append(self.onnx.numpy_helper.from_array(array, name))
        return name

    def node(self, operator: str, *inputs, outputs: int = 1, **attributes) -> Any:
        """Add a node, and return the name of its output, or a list of the names if
        there are several.

        An input that is not the name of a value becomes a constant: a list of ints, or
        a number of float32.
        """
        name = f"{operator}/{len(self.nodes)}"
        names = [
            value
            if isinstance(value, str)
            else self.constant(f"{name}/input/{number}", np.asarray(value))
            for number, value in enumerate(inputs)
        ]
        found = [f"{name}/{number}" for number in range(outputs)]
        self.nodes.append(
            self.onnx.helper.make_node(operator, names, found, name=name, **attributes)
        )
        return found[0] if outputs == 1 else found

    def model(self, name: str, description: str, cell: str, metadata: Metadata) -> Any:
        """Return the graph as an `onnx.ModelProto`, after `onnx.checker` has checked
        it.
        """
        metadata, helper = {} if metadata is None else metadata, self.onnx.helper
        texts = isinstance(metadata, Mapping) and all(
            isinstance(text, str) for item in metadata.items() for text in item
        )
        require(texts, "metadata", metadata, "give a dict from names to texts")
        size = sum(len(constant.raw_data) for constant in self.constants)
        require(
            size <= LARGEST,
            "weights",
            f"{size:,} bytes",
            f"a file of ONNX holds {LARGEST:,} at most: give a smaller model",
        )
        model = helper.make_model(
            helper.make_graph(
                self.nodes,
                name,
                self.inputs,
                self.outputs[-1:] + self.outputs[:-1],
                self.constants,
            ),
            opset_imports=[helper.make_opsetid("", OPSET)],
            ir_version=IR_VERSION,
            producer_name="lstm_jax",
            producer_version=lstm_jax.__version__,
            doc_string=description,
        )
        helper.set_model_props(model, {"opset": str(OPSET), "cell": cell, **metadata})
        self.onnx.checker.check_model(model, full_check=True)
        return model


def state_names(cell: str) -> Texts:
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
    returned: Collection[int] = (),
) -> tuple[str, str]:
    """Add a stack of recurrent layers to a graph, and return the names of its outputs
    (T, B, features) and of its last output.

    If `states` is true, the initial states are inputs. The final states of the layers
    with the numbers `returned` are outputs.
    """
    last, names, module = "", state_names(cell), LAYOUTS[cell].module
    attributes = {"linear_before_reset": int(cell == "gru")} if module == "GRU" else {}
    for number, layer in enumerate(layers):
        parts = [reordered("ONNX", cell, part) for part in halves(layer).values()]
        for part in parts:
            part["bias"] = np.concatenate(
                [part["bias"], part.get("recurrent_bias", np.zeros_like(part["bias"]))]
            )
        weights = [
            graph.constant(
                f"recurrent/{number}/{name}", np.stack([part[name].T for part in parts])
            )
            for name in ("kernel", "recurrent_kernel", "bias")
        ]
        shape = (len(parts), "batch", len(parts[0]["recurrent_kernel"]))
        initial = [
            graph.input(f"state/{number}/{name}", "FLOAT", *shape)
            for name in names
            if states
        ]
        options = {
            "hidden_size": shape[-1],
            "direction": "bidirectional" if len(parts) == 2 else "forward",
            **attributes,
        }
        all_steps, *final = graph.node(
            module, x, *weights, lengths, *initial, outputs=1 + len(names), **options
        )
        for name, value in zip(names, final, strict=True):
            if number in returned:
                graph.output(value, f"new_state/{number}/{name}", *shape)
        x, last = (
            _merge(graph, merge, all_steps, len(parts), 1),
            _merge(graph, merge, final[0], len(parts), 0),
        )
    return x, last


def _merge(graph: Graph, merge: str, value: str, directions: int, axis: int) -> str:
    if directions == 1:
        return graph.node("Squeeze", value, [axis])
    if merge == "concat":
        swapped = graph.node(
            "Transpose", value, perm=[0, 2, 1, 3] if axis else [1, 0, 2]
        )
        return graph.node("Reshape", swapped, [0, 0, -1] if axis else [0, -1])
    if merge == "sum":
        return graph.node("ReduceSum", value, [axis], keepdims=0)
    return graph.node(
        "ReduceMean" if merge == "ave" else "ReduceProd", value, axes=[axis], keepdims=0
    )


POOLINGS = {"last": 1, "mean": 1, "max": 1, "mean+max": 2}
"""Dict from the name of each pooling to the number of pooled vectors that it
concatenates."""


def layers_to_onnx(
    cell: str,
    layers,
    *,
    merge: str | None = None,
    states: bool = False,
    metadata: Metadata = None,
) -> Any:
    """Convert a stack of recurrent layers to an ONNX model, an `onnx.ModelProto`.

    The model maps "x" (batch, time, features) to "y", which is what the last layer
    returns: its outputs at all steps (batch, time, outputs) or, if it is a layer with
    `return_sequences=False`, its last output (batch, outputs). If `states` is true, the
    model also maps the initial state of each layer to its final state. The inputs
    "state/0/h" and, for an LSTM, "state/0/c" are the initial state of the lowest layer,
    and the outputs "new_state/0/h" and "new_state/0/c" are its final state. The names
    for the next layer begin with "state/1/" and "new_state/1/", and so on. Each state
    has the shape (directions, batch, units), where `directions` is 1, or 2 for a
    bidirectional layer. The final state of a layer with `return_state=True` is an
    output in any case.

    Dropout is left out, because it is active only in training. `stateful` of the layers
    is ignored.

    Args:
        cell: name of the cell, one that converts; see docs/concepts/cells.md.
        layers: a `RecurrentStack`, a `Recurrent` or `Bidirectional` layer, or a list of
            layers, lowest layer first. An entry of the list may also be the weights of
            a layer (see `lstm_jax.convert`). Weights do not show the options of their
            layer, such as `activation` and `go_backwards`. These options are then not
            checked.
        merge: how the outputs of two directions are combined: "concat", "sum", "ave" or
            "mul". None means the `merge_mode` of the `Bidirectional` layers or, if
            there are none, "concat".
        states: whether the states are inputs and outputs. If false, each layer starts
            from zeros.
        metadata: dict from names to texts, which are added to the metadata of the
            model. None adds nothing.

    Raises:
        InputError: if ONNX lacks the cell, a layer has another cell, the keys, shapes
            or dtypes of the weights are wrong, `merge` is unknown or differs from the
            `merge_mode` of a layer, `metadata` is not a dict from strings to strings,
            or the package onnx is not installed. Also if ONNX cannot express an option
            of a layer or stack: other activations, `go_backwards`, zoneout, a `dtype`
            other than that of the parameters, `merge_mode=None`, residual connections,
            or a learned initial state without `states`.
    """
    weights = exported(
        cell,
        layers,
        Target("ONNX", merges=MERGES, options=("learned_state",) if states else ()),
    )
    parts = layers_of(layers)
    merges = {part.merge_mode for part in parts if is_a(part, OWN, "Bidirectional")}
    if merge is not None:
        check_choice("merge", merge, MERGES)
        merges.add(merge)
    require(
        len(merges) <= 1,
        "merge_mode",
        ", ".join(sorted(merges)),
        "all layers of one model must have the same: export them one by one",
    )
    combined = next(iter(merges), "concat")
    stack = check_stack(weights, cell, combined)
    graph = Graph()
    x = graph.input("x", "FLOAT", "batch", "time", widths(stack[0])[0])
    returned = [
        number
        for number, part in enumerate(parts)
        if states or getattr(part, "return_state", False)
    ]
    sequence, last = add_layers(
        graph,
        cell,
        stack,
        _swapped(graph, x),
        merge=combined,
        states=states,
        returned=returned,
    )
    whole = getattr(parts[-1], "return_sequences", True)
    y, axes = (
        (_swapped(graph, sequence), ("batch", "time")) if whole else (last, ("batch",))
    )
    graph.output(y, "y", *axes, widths(stack[-1], combined)[1])
    return graph.model(
        "recurrent_layers", f"{len(stack)} recurrent layers", cell, metadata
    )


def sentiment_to_onnx(
    params: Params,
    *,
    cell: str = "lstm",
    merge: str = "concat",
    pooling: str = "last",
    skip_padding: bool = False,
    description: str = SENTIMENT,
    metadata: Metadata = None,
) -> Any:
    """Convert a sentiment model to an ONNX model that maps "ids" (batch, time) to
    "probability" (batch,), the probability of label 1.

    The ids are int64. The result is an `onnx.ModelProto`.

    Args:
        params: the flat dict of the model; see `lstm_jax.convert`.
        cell: name of the cell, as in `layers_to_onnx`.
        merge: how the outputs of two directions are combined: "concat", "sum", "ave" or
            "mul".
        pooling: how the output layer gets its input from the outputs of the last
            recurrent layer: "last" (the last output), "mean" or "max" over the words,
            or "mean+max" (both, concatenated).
        skip_padding: whether the recurrent layers skip padding (id 0), wherever it
            stands in a row, as with `mask_zero` in Keras.
        description: text for the field `doc_string` of the model.
        metadata: dict from names to texts, which are added to the metadata of the
            model.

    Raises:
        InputError: if an argument is none of these, a parameter is not float32, or the
            package onnx is not installed.
    """
    check_choice("pooling", pooling, POOLINGS)
    check_choice("merge", merge, MERGES)
    check_cell(cell, "ONNX")
    embedding, layers, head = split_model(
        params, SENTIMENT, cell, merge, POOLINGS[pooling]
    )
    assert embedding is not None
    graph = Graph()
    ids, lengths = graph.input("ids", "INT64", "batch", "time"), ""
    if skip_padding:
        ids, lengths = _without_padding(graph, ids)
    vectors = graph.node(
        "Gather",
        graph.constant(ENDS[0], embedding["embedding"]),
        _swapped(graph, ids, axes=2),
    )
    sequence, last = add_layers(
        graph, cell, layers, vectors, lengths=lengths, merge=merge
    )
    logits = _dense(
        graph,
        last if pooling == "last" else _pooled(graph, sequence, ids, pooling),
        head,
    )
    probability = graph.node("Sigmoid", graph.node("Squeeze", logits, [1]))
    graph.output(probability, "probability", "batch")
    return graph.model("sentiment", description, cell, metadata)


def generation_to_onnx(
    params: Params,
    *,
    cell: str = "lstm",
    description: str = CHARACTER,
    metadata: Metadata = None,
) -> Any:
    """Convert a character model to an ONNX model that maps "ids" (batch, time) to
    "logits" (batch, time, V) of the next character.

    The ids are int64, and V is the number of characters. The result is an
    `onnx.ModelProto`. The states of the layers are inputs and outputs, named as by
    `layers_to_onnx`, so that a text can be read or generated in several calls. At its
    beginning they are zeros.

    The arguments and the errors are those of `sentiment_to_onnx`.
    """
    check_cell(cell, "ONNX")
    embedding, layers, head = split_model(params, CHARACTER, cell)
    characters = len(head["bias"])
    graph = Graph()
    ids = _swapped(graph, graph.input("ids", "INT64", "batch", "time"), axes=2)
    if embedding is None:
        values = graph.constant("one_hot/values", np.array([0, 1], np.float32))
        x = graph.node("OneHot", ids, [characters], values, axis=-1)
    else:
        x = graph.node("Gather", graph.constant(ENDS[0], embedding["embedding"]), ids)
    sequence, _ = add_layers(
        graph, cell, layers, x, states=True, returned=range(len(layers))
    )
    logits = _dense(graph, _swapped(graph, sequence), head)
    graph.output(logits, "logits", "batch", "time", characters)
    return graph.model("generation", description, cell, metadata)


def _swapped(graph: Graph, value: str, axes: int = 3) -> str:
    return graph.node("Transpose", value, perm=[1, 0, 2][:axes])


def _dense(graph: Graph, x: str, head: Arrays) -> str:
    product = graph.node("MatMul", x, graph.constant("head/kernel", head["kernel"]))
    return graph.node("Add", product, graph.constant("head/bias", head["bias"]))


def _words(graph: Graph, ids: str) -> str:
    """Add nodes that find the words of each row of `ids`, and return the name of the
    mask.
    """
    return graph.node("Not", graph.node("Equal", ids, [0]))


def _without_padding(graph: Graph, ids: str) -> tuple[str, str]:
    """Add nodes that move the padding of each row behind its words and count the words,
    and return the names of both results.
    """
    words = graph.node("Cast", _words(graph, ids), to=graph.onnx.TensorProto.INT32)
    steps = graph.node("Gather", graph.node("Shape", ids), [1])
    # of equal values, that with the lower index comes first
    _, order = graph.node("TopK", words, steps, outputs=2, axis=1)
    return graph.node("GatherElements", ids, order, axis=1), graph.node(
        "ReduceSum", words, [1], keepdims=0
    )


def _pooled(graph: Graph, outputs: str, ids: str, pooling: str) -> str:
    words = graph.node("Unsqueeze", _words(graph, _swapped(graph, ids, axes=2)), [2])
    zero, results = np.float32(0), []
    count = graph.node(
        "ReduceSum",
        graph.node("Cast", words, to=graph.onnx.TensorProto.FLOAT),
        [0],
        keepdims=0,
    )
    if pooling != "max":
        total = graph.node(
            "ReduceSum", graph.node("Where", words, outputs, zero), [0], keepdims=0
        )
        results.append(
            graph.node("Div", total, graph.node("Max", count, np.float32(1)))
        )
    if pooling != "mean":
        largest = graph.node(
            "ReduceMax",
            graph.node("Where", words, outputs, np.float32(-np.inf)),
            axes=[0],
            keepdims=0,
        )
        results.append(
            graph.node("Where", graph.node("Greater", count, zero), largest, zero)
        )
    return graph.node("Concat", *results, axis=-1)
