"""Benchmark of LiteRT (TensorFlow Lite), whose operator UNIDIRECTIONAL_SEQUENCE_LSTM
runs the LSTM of the sentiment model.

The file of the LSTM is written with LiteRT's own schema, without TensorFlow's
converter. NumPy gathers the word vectors, into LiteRT's memory, and computes the output
layer.
"""

from typing import Any

import flatbuffers  # pyright: ignore[reportMissingImports]
import numpy as np
from ai_edge_litert import schema_py_generated as schema  # pyright: ignore[reportMissingImports]
from ai_edge_litert.interpreter import Interpreter  # pyright: ignore[reportMissingImports]

from bench.peers.base import THREADS, Built, Options, head, served
from bench.workloads import Arrays, Workload

X, H, C, OUT = range(4)
"""Numbers of the tensors of the inputs, the state and the outputs."""


def build(work: Workload, arrays: Arrays, options: Options) -> Built:
    """Build a workload; see `base.Built`."""
    model = Interpreter(model_content=_lstm(work, arrays), num_threads=THREADS)
    model.allocate_tensors()

    def call(ids):
        model.reset_all_variables()  # the state, which LiteRT keeps between calls
        np.take(
            arrays.weights["embedding/embedding"], ids.T, 0, model.tensor(X)(), "clip"
        )
        model.invoke()
        return head(arrays, model.get_tensor(H))

    return served(work, arrays.inputs, call)


def _lstm(work: Workload, arrays: Arrays) -> bytes:
    """Return the LSTM as a .tflite file, from x (T, B, E) to h (T, B, H)."""
    sizes, state = (
        (work.length, work.batch),
        schema.TensorT((work.batch, work.units), isVariable=True),
    )
    tensors = [
        schema.TensorT((*sizes, work.features)),
        state,
        state,
        schema.TensorT((*sizes, work.units)),
    ]
    buffers = [schema.BufferT()]

    def constant(array):
        tensors.append(schema.TensorT(array.shape, buffer=len(buffers)))
        buffers.append(schema.BufferT(np.frombuffer(array.tobytes(), np.uint8)))
        return len(tensors) - 1

    # in LiteRT's order
    gates = {
        name: [constant(part) for part in np.split(array.T, 4)]
        for name, array in arrays.cell().items()
    }
    none = [-1] * 4  # no peepholes, projection and layer normalisation
    inputs = [
        X,
        *gates["kernel"],
        *gates["recurrent_kernel"],
        *none[:3],
        *gates["bias"],
        *none[:2],
        H,
        C,
        *none,
    ]
    options = schema.UnidirectionalSequenceLSTMOptionsT(
        schema.ActivationFunctionType.TANH, timeMajor=True
    )
    number = schema.BuiltinOperator.UNIDIRECTIONAL_SEQUENCE_LSTM
    operator = schema.OperatorT(
        0,
        inputs,
        [OUT],
        schema.BuiltinOptions.UnidirectionalSequenceLSTMOptions,
        options,
    )
    graph = schema.SubGraphT(tensors, [X], [OUT], [operator])
    model: Any = schema.ModelT(
        3, [schema.OperatorCodeT(number, builtinCode=number)], [graph], buffers=buffers
    )
    builder = flatbuffers.Builder()
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())
