"""Benchmark of ONNX Runtime, which runs the sentiment model as `lstm_jax.convert` exports it.

The main ONNX operators of the exported model are Gather, LSTM, MatMul and Sigmoid. With the dtype int8, the weights of the LSTM and of the
output layer are quantised by ONNX Runtime's `quantize_dynamic`.
"""

import os
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime  # pyright: ignore[reportMissingImports]

from bench.peers.base import Built, Options, evaluation, repeated
from bench.workloads import Arrays, Workload
from lstm_jax import convert
from lstm_jax.errors import require


def build(work: Workload, arrays: Arrays, options: Options) -> Built:
    """Prepare an evaluation in ONNX Runtime on the CPU, and return functions that run it; see `base.Built`."""
    require(options.dtype != "bfloat16", "dtype", options.dtype, "give float32 or int8")
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = int(os.environ.get("OMP_NUM_THREADS") or len(os.sched_getaffinity(0)))
    model = convert.sentiment_to_onnx(arrays.weights, cell=work.cell).SerializeToString()
    if options.dtype == "int8":
        model = _quantised(model)
    session = onnxruntime.InferenceSession(model, settings, providers=["CPUExecutionProvider"])
    batches = np.split(arrays.inputs.astype(np.int64), range(work.batch, len(arrays.inputs), work.batch))

    def call() -> list[Any]:
        return [session.run(None, {"ids": batch})[0] for batch in batches]

    def logits():
        probability = np.concatenate(call()).astype(np.float64)
        return np.log(probability / (1 - probability))

    return replace(evaluation(work, logits, [f"cpu, {settings.intra_op_num_threads} threads"]), run=repeated(call))


def _quantised(model: bytes) -> bytes:
    """Return a copy of a serialised ONNX model with the weights of the LSTM and of the output layer quantised to int8."""
    from onnxruntime.quantization import QuantType, quantize_dynamic  # pyright: ignore[reportMissingImports]

    with tempfile.TemporaryDirectory() as folder:
        given, made = Path(folder) / "model.onnx", Path(folder) / "int8.onnx"
        given.write_bytes(model)
        quantize_dynamic(given, made, weight_type=QuantType.QInt8, op_types_to_quantize=["LSTM", "MatMul"])
        return made.read_bytes()
