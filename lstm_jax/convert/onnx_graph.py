"""Construction of ONNX graphs that run recurrent layers with ONNX's own operators LSTM, GRU and RNN.

The operators are described in ONNX's documentation (Operators.md, opset 14). The first axis of their weight arrays has one entry for each
direction. The gates of the operators have the order i, o, f, c (LSTM) or z, r, h (GRU). In lstm_jax the gate c has the name g, z has the
name u, and h has the name n.

T is the number of steps, B the batch size, D the number of directions, E the number of input features and H the number of units.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

import lstm_jax
from lstm_jax.convert.arrays import DIRECTIONS, LAYOUTS, Arrays, Layer, is_bidirectional
from lstm_jax.errors import InputError, require

OPSET = 17
"""Version of ONNX's operators that the graphs use."""
IR_VERSION = 8
"""Version of ONNX's file format. The first release of ONNX with opset 17 has this version. All programs with opset 17 can read it."""
MERGES = ("concat", "sum", "ave", "mul")
LARGEST = 2**31 - 2**20
"""Largest total size of the weights of a model in bytes. The file of a model must be smaller than 2 GiB."""


class Operator(NamedTuple):
    """Description of ONNX's operator for a recurrent cell: its name, its gate order, the names of its states, and its attributes."""

    name: str
    gates: tuple[int, ...]
    """Tuple with one number for each gate, in ONNX's order: the index of this gate in the order of lstm_jax."""
    states: tuple[str, ...]
    attributes: dict[str, int]


OPERATORS = {
    "lstm": Operator("LSTM", (0, 3, 1, 2), ("h", "c"), {}),
    "gru": Operator("GRU", (0, 1, 2), ("h",), {"linear_before_reset": 1}),
    "gru_reset_before": Operator("GRU", (0, 1, 2), ("h",), {"linear_before_reset": 0}),
    "simple_rnn": Operator("RNN", (0,), ("h",), {}),
}
"""Dict from the name of a cell to its operator, for each cell that ONNX can compute."""


def import_onnx() -> Any:
    """Import the package onnx and return it."""
    try:
        import onnx
    except ImportError as error:
        raise InputError("package onnx", error, "pip install '.[onnx]'") from error
    return onnx


def check_operator(cell: str) -> None:
    """Check that ONNX has an operator for a cell."""
    remedy = f"ONNX has no operator for it: only {', '.join(OPERATORS)} can be exported"
    require(isinstance(cell, str) and cell in OPERATORS, "cell", cell, remedy)


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
        self.inputs.append(self._value(name, dtype, shape))
        return name

    def output(self, value: str, name: str, *shape: int | str, first: bool = False) -> None:
        """Add a float output, which is a copy of a value under another name."""
        self.nodes.append(self.onnx.helper.make_node("Identity", [value], [name], name=f"{name}/Identity"))
        self.outputs.insert(0 if first else len(self.outputs), self._value(name, "FLOAT", shape))

    def _value(self, name: str, dtype: str, shape: tuple[int | str, ...]) -> Any:
        return self.onnx.helper.make_tensor_value_info(name, getattr(self.onnx.TensorProto, dtype), shape)

    def constant(self, name: str, array: Any) -> str:
        """Add an array as a constant with the given name, and return the name."""
        self.constants[name] = np.asarray(array)
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

    def model(self, name: str, description: str, metadata: Mapping[str, str]) -> Any:
        """Return the graph as an `onnx.ModelProto`, after `onnx.checker` has checked it."""
        helper, size = self.onnx.helper, sum(array.nbytes for array in self.constants.values())
        require(size <= LARGEST, "weights", f"{size:,} bytes", f"a file of ONNX holds {LARGEST:,} at most: give a smaller model")
        tensors = [self.onnx.numpy_helper.from_array(array, key) for key, array in self.constants.items()]
        graph = helper.make_graph(self.nodes, name, self.inputs, self.outputs, tensors)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
        model.producer_name, model.producer_version, model.doc_string = "lstm_jax", lstm_jax.__version__, description
        helper.set_model_props(model, {"opset": str(OPSET), **metadata})
        self.onnx.checker.check_model(model, full_check=True)
        return model


class Outputs(NamedTuple):
    """Names of the values in an ONNX graph that are the outputs of a recurrent layer or stack."""

    sequence: str
    """Outputs of all steps, (T, B, features)."""
    last: str
    """Last output of each row, (B, features)."""


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
) -> Outputs:
    """Add a stack of recurrent layers to a graph, and return the names of its outputs.

    If `states` is true, the initial state of each layer is an input of the graph, such as "state/0/h", and its final state is an output,
    such as "new_state/0/h". Each state has the shape (D, B, H), where D is 1, or 2 for a bidirectional layer.
    """
    require(merge in MERGES, "merge", merge, f"give one of {', '.join(MERGES)}")
    operator, last = OPERATORS[cell], ""
    for number, layer in enumerate(layers):
        pair = is_bidirectional(layer)
        parts = [layer[direction] for direction in DIRECTIONS] if pair else [layer]
        units, count = parts[0]["recurrent_kernel"].shape[0], len(parts)
        weights = [
            graph.constant(f"recurrent/{number}/{name}", np.stack(arrays))
            for name, arrays in zip("WRB", zip(*(_operands(cell, part) for part in parts), strict=True), strict=True)
        ]
        shape = (count, "batch", units)
        initial = [graph.input(f"state/{number}/{name}", "FLOAT", *shape) for name in operator.states] if states else []
        options: dict[str, Any] = {"hidden_size": units, "direction": "bidirectional" if pair else "forward", **operator.attributes}
        all_steps, *final = graph.many(operator.name, 1 + len(operator.states), x, *weights, lengths, *initial, **options)
        if states or number in returned:
            for name, value in zip(operator.states, final, strict=True):
                graph.output(value, f"new_state/{number}/{name}", *shape)
        x, last = _merge(graph, merge, all_steps, pair, axis=1), _merge(graph, merge, final[0], pair, axis=0)
    return Outputs(x, last)


def _operands(cell: str, arrays: Arrays) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the weights of one direction of a layer as the operands W (GH, E), R (GH, H) and B (2GH,) of ONNX's operator.

    E is the number of input features, H the number of units and G the number of gates.
    """
    order, gates = OPERATORS[cell].gates, LAYOUTS[cell].gates

    def reordered(array: np.ndarray) -> np.ndarray:
        """Return a copy of an array with its gates in ONNX's order.

        The last axis of the given array has one block for each gate, in the order of lstm_jax.
        """
        parts = np.split(array, gates, axis=-1)
        return np.concatenate([parts[gate] for gate in order], axis=-1)

    second = arrays.get("recurrent_bias", np.zeros_like(arrays["bias"]))
    biases = np.concatenate([reordered(arrays["bias"]), reordered(second)])
    return reordered(arrays["kernel"]).T, reordered(arrays["recurrent_kernel"]).T, biases


def _merge(graph: Graph, merge: str, value: str, pair: bool, axis: int) -> str:
    """Combine the outputs of the directions of a layer, and return the name of the result.

    D is the number of directions, 1 or 2, T the number of steps, B the batch size and H the number of units.
    """
    if not pair:
        return graph.node("Squeeze", value, graph.integers(axis))
    if merge == "concat":
        swapped = graph.node("Transpose", value, perm=[0, 2, 1, 3] if axis else [1, 0, 2])
        return graph.node("Reshape", swapped, graph.integers(*([0, 0, -1] if axis else [0, -1])))
    if merge == "sum":
        return graph.node("ReduceSum", value, graph.integers(axis), keepdims=0)
    return graph.node("ReduceMean" if merge == "ave" else "ReduceProd", value, axes=[axis], keepdims=0)
