"""Benchmark of ONNX Runtime, which runs the sentiment model as `lstm_jax.convert` exports it: Gather, LSTM, MatMul, Sigmoid."""

import os
from dataclasses import replace
from typing import Any

import numpy as np
import onnxruntime  # pyright: ignore[reportMissingImports]

from bench.peers.base import Built, Options, evaluation
from bench.workloads import Arrays, Workload
from lstm_jax import convert


def build(work: Workload, arrays: Arrays, options: Options) -> Built:
    """Prepare an evaluation in ONNX Runtime on the CPU, and return functions that run it; see `base.Built`."""
    del options
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = int(os.environ.get("OMP_NUM_THREADS") or len(os.sched_getaffinity(0)))
    model = convert.sentiment_to_onnx(arrays.weights, cell=work.cell).SerializeToString()
    session = onnxruntime.InferenceSession(model, settings, providers=["CPUExecutionProvider"])
    batches = np.split(arrays.inputs.astype(np.int64), range(work.batch, len(arrays.inputs), work.batch))

    def call() -> list[Any]:
        return [session.run(None, {"ids": batch})[0] for batch in batches]

    def run(count: int) -> None:
        for _ in range(count):
            call()

    def logits() -> np.ndarray:
        probability = np.concatenate(call()).astype(np.float64)
        return np.log(probability / (1 - probability))

    return replace(evaluation(work, logits, [f"cpu, {settings.intra_op_num_threads} threads"]), run=run)
