"""Reading of ONNX files: the nodes of the graph, its constants, and the weights of its
recurrent nodes in the layout of lstm_jax.

The files are untrusted. The package onnx parses and checks them, and nothing in them is
run here.
"""

import importlib
import os
from collections import ChainMap
from collections.abc import MutableMapping
from typing import Any, NamedTuple

import numpy as np
from numpy import ndarray

from lstm_jax.base.errors import parsing, require
from lstm_jax.base.reading import open_input
from lstm_jax.base.types import AnyPath, Values
from lstm_jax.convert.arrays import (
    DIRECTIONS,
    LAYOUTS,
    Arrays,
    Layer,
    checked,
    reordered,
)
from lstm_jax.convert.onnx import import_onnx

OLDEST = 7
"""Oldest version of ONNX's operators that is read. Before it, operators broadcast in
another way."""
RECURRENT = ("LSTM", "GRU", "RNN")
QUANTIZED = "com.microsoft.DynamicQuantizeLSTM"
"""LSTM with weights in 8 bits, as `onnxruntime.quantization` makes it. It is read as an
LSTM with float32 weights."""
REMEDY = (
    "give the path, the bytes or the onnx.ModelProto of a model that a program "
    "has exported"
)


class Node(NamedTuple):
    """Node of a graph. Names of values are unique in the whole model. The name of an
    input or output that is left out is empty.

    The first input of a recurrent node is a name for its converted weights, and the
    others are X, sequence_lens, initial_h and initial_c. Its attribute "weights" has
    the names of W, R, B and P.
    """

    operator: str
    name: str
    inputs: list[str]
    outputs: list[str]
    attributes: Values
    reads: set[str]  # the inputs, and those of the nodes in its branches


Branch = tuple[list[Node], list[str]]
"""Nodes in the order in which they are computed, and the names of the values that they
return."""


def float32_of(dtype: np.dtype) -> np.dtype:
    """Return float32 for every dtype of floats, and any other dtype unchanged."""
    return (
        np.dtype(np.float32) if dtype.kind == "f" or dtype.name == "bfloat16" else dtype
    )


class OnnxFile:
    """ONNX model: the dtypes and shapes of its inputs (0 is any size), its graph, its
    constants, and the nodes of all branches.
    """

    def __init__(self, source: Any, fixed: Values):
        self.onnx = onnx = import_onnx()
        self.folder, self.nodes = None, list[Node]()
        if isinstance(source, str | os.PathLike):
            self.folder = os.path.dirname(os.path.abspath(source))
            with open_input(source, f"ONNX model {os.fspath(source)}") as file:
                source = file.read()
        with parsing("ONNX model", REMEDY):
            model = (
                onnx.load_model_from_string(source)
                if isinstance(source, bytes)
                else source
            )
            graph, newest = model.graph, onnx.defs.onnx_opset_version()
            self.opset = max(
                (
                    entry.version
                    for entry in model.opset_import
                    if entry.domain in ("", "ai.onnx")
                ),
                default=0,
            )
            remedy = f"export the model with one from {OLDEST} to {newest}"
            require(
                OLDEST <= self.opset <= newest,
                "opset of the ONNX model",
                self.opset,
                remedy,
            )
            self.constants: Arrays = {
                name: np.asarray(value) for name, value in fixed.items()
            }
            self.body = self._branch(graph, {})
            onnx.checker.check_model(model)
            kinds = {
                value.name: value.type.tensor_type
                for value in graph.input
                if value.name not in self.constants
            }
            self.inputs = {
                name: (
                    self.dtype(kind.elem_type),
                    [max(size.dim_value, 0) for size in kind.shape.dim],
                )
                for name, kind in kinds.items()
            }

    def dtype(self, number: int) -> np.dtype:
        """Return the dtype with this number in ONNX, or float32 for all floats."""
        return float32_of(self.onnx.helper.tensor_dtype_to_np_dtype(number))

    def _array(self, tensor: Any) -> ndarray:
        if tensor.data_location == tensor.EXTERNAL:
            require(
                self.folder,
                "ONNX model",
                "its weights are in other files",
                "give its path",
            )
            # refuses paths out of the folder
            self.onnx.external_data_helper.load_external_data_for_tensor(
                tensor, self.folder
            )
        array = self.onnx.numpy_helper.to_array(tensor)
        return array.astype(float32_of(array.dtype))

    def _dequantized(self, place: str, inputs: list[str]) -> list[str]:
        x, *names = inputs[:3]
        for number, name in enumerate(names):
            kernel, scale, zero = (
                self.constants[given]
                for given in (name, *inputs[8 + 2 * number : 10 + 2 * number])
            )
            scale, zero = (
                array.astype(np.float32).reshape(len(kernel), 1, -1)
                for array in (scale, zero)
            )
            self.constants[place + name] = np.swapaxes((kernel - zero) * scale, 1, 2)
        return [x, *(place + name for name in names), *inputs[3:8]]

    def _branch(
        self, graph: Any, scope: MutableMapping[str, str], path: str = ""
    ) -> Branch:
        scope.update(
            (value.name, path + value.name)
            for value in [*graph.input, *graph.initializer]
        )
        self.constants.update(
            (path + tensor.name, self._array(tensor)) for tensor in graph.initializer
        )
        nodes = []
        for number, proto in enumerate(graph.node):
            place = f"{path}{number}/"
            inputs = [name and scope[name] for name in proto.input]
            attributes: Values = {}
            operator = f"{proto.domain}.{proto.op_type}".removeprefix(
                "ai.onnx"
            ).removeprefix(".")
            if operator == QUANTIZED and self.constants.keys() >= {
                *inputs[1:3],
                *inputs[8:],
            }:
                operator, inputs = "LSTM", self._dequantized(place, inputs)
            if operator in RECURRENT:
                x, w, r, b, lengths, h, c, p = inputs + [""] * (8 - len(inputs))
                inputs, attributes["weights"] = [place, x, lengths, h, c], [w, r, b, p]
            reads = {*inputs} - {""}
            for attribute in proto.attribute:
                value = self.onnx.helper.get_attribute_value(attribute)
                if isinstance(value, self.onnx.GraphProto):
                    value = inner, returned = self._branch(
                        value, ChainMap({}, scope), f"{place}{attribute.name}/"
                    )
                    reads.update(returned, *(node.reads for node in inner))
                elif isinstance(value, self.onnx.TensorProto):
                    value = self._array(value)
                attributes[attribute.name] = (
                    value.decode() if isinstance(value, bytes) else value
                )
            outputs = [name and path + name for name in proto.output]
            scope.update(zip(proto.output, outputs, strict=True))
            nodes.append(
                Node(
                    operator,
                    (proto.name or place)[:60],
                    inputs,
                    outputs,
                    attributes,
                    reads,
                )
            )
            self.nodes.append(nodes[-1])
        return nodes, [scope[value.name] for value in graph.output]


def recurrent_weights(cell: str, directions: int, w, r, b, p) -> Layer:
    """Return the weights of a recurrent node in the layout of lstm_jax, with
    "peepholes" (3H,) if the node has some.
    """
    found, zeros = [], np.zeros((directions, 2 * w.shape[1]), np.float32)
    for kernel, recurrent_kernel, biases in zip(
        w, r, zeros if b is None else b, strict=True
    ):
        first, second = np.split(biases, 2)
        bias = (
            {"bias": first, "recurrent_bias": second}
            if cell == "gru"
            else {"bias": first + second}
        )
        arrays = {"kernel": kernel.T, "recurrent_kernel": recurrent_kernel.T, **bias}
        found.append(reordered("ONNX", cell, checked(LAYOUTS[cell], arrays), back=True))
        if p is not None:
            found[-1]["peepholes"] = (
                p[len(found) - 1]
                .reshape(3, recurrent_kernel.shape[1])[[0, 2, 1]]
                .ravel()
            )
    return dict(zip(DIRECTIONS, found, strict=True)) if directions == 2 else found[0]


def from_onnx(source: AnyPath | bytes | Any, **fixed: Any) -> Any:
    """Read an ONNX model as a function of JAX, and the weights of its LSTM, GRU and RNN
    nodes.

        model = from_onnx("model.onnx")
        y = model(x)                               # also jax.jit(model), jax.grad
        # or a list of nodes, for a RecurrentStack
        load(layer, model.recurrent[0])

    The recurrent nodes run on the backends of `unroll`. All floats, also those of
    float16 and float64 models, are computed in float32, and 64-bit ints in int32 unless
    JAX has x64 enabled. An LSTM whose weights are 8 bits (`onnxruntime.quantization`)
    gets them as float32, and its inputs are not rounded. Requires the package onnx.

    Args:
        source: path of the file, its bytes, or an `onnx.ModelProto`. Only with a path,
            weights may be in other files of the same folder.
        fixed: values of inputs that become constants, such as a size, or a number on
            which it depends which branch of the model runs.

    Returns:
        a `lstm_jax.convert.onnx_model.OnnxModel`.

    Raises:
        InputError: if the file is damaged, foreign or of an unknown version, names data
            outside of its folder, or has a recurrent node whose activation is unknown
            or whose weights are not constant; or if the package onnx is not installed.
            An operator that is not known is an error when the model is called.
    """
    # not above, since it imports JAX
    return importlib.import_module("lstm_jax.convert.onnx_model").OnnxModel(
        OnnxFile(source, fixed)
    )
