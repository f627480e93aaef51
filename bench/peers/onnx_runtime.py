"""Benchmark of ONNX Runtime, which runs the sentiment model as `lstm_jax.convert`
exports it.

The main ONNX operators of the exported model are Gather, LSTM, MatMul and Sigmoid. With
the dtype int8, the weights of the LSTM and of the output layer are quantised by ONNX
Runtime's `quantize_dynamic`.
"""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime  # pyright: ignore[reportMissingImports]
from scipy.special import logit

from bench.peers.base import THREADS, Built, Options, served
from bench.workloads import Arrays, Workload
from lstm_jax import convert
from lstm_jax.base.errors import require


def build(work: Workload, arrays: Arrays, options: Options) -> Built:
    """Build a workload; see `base.Built`."""
    require(options.dtype != "bfloat16", "dtype", options.dtype, "give float32 or int8")
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = THREADS
    model = convert.sentiment_to_onnx(
        arrays.weights, cell=work.cell
    ).SerializeToString()
    if options.dtype == "int8":
        model = _quantised(model)
    session: Any = onnxruntime.InferenceSession(
        model, settings, providers=["CPUExecutionProvider"]
    )
    return served(
        work,
        arrays.inputs.astype(np.int64),
        lambda ids: session.run(None, {"ids": ids})[0],
        logit,
    )


def _quantised(model: bytes) -> bytes:
    """Return a copy of a serialised ONNX model with the weights of the LSTM and of the
    output layer quantised to int8.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic  # pyright: ignore[reportMissingImports]

    with tempfile.TemporaryDirectory() as folder:
        given, made = Path(folder) / "model.onnx", Path(folder) / "int8.onnx"
        given.write_bytes(model)
        quantize_dynamic(
            given,
            made,
            weight_type=QuantType.QInt8,
            op_types_to_quantize=["LSTM", "MatMul"],
        )
        return made.read_bytes()
