"""Benchmark of OpenVINO, which reads the sentiment model as `lstm_jax.convert` exports
it to ONNX, and compiles it for one size.
"""

from typing import Any

import numpy as np
import openvino  # pyright: ignore[reportMissingImports]
from scipy.special import logit

from bench.peers.base import THREADS, Built, Options, served
from bench.workloads import Arrays, Workload
from lstm_jax import convert


def build(work: Workload, arrays: Arrays, options: Options) -> Built:
    """Build a workload; see `base.Built`."""
    core = openvino.Core()
    model = core.read_model(
        convert.sentiment_to_onnx(arrays.weights, cell=work.cell).SerializeToString()
    )
    model.reshape([work.batch, work.length])
    settings = {
        "INFERENCE_NUM_THREADS": THREADS,
        "INFERENCE_PRECISION_HINT": "f32",
        "PERFORMANCE_HINT": "LATENCY",
    }
    request: Any = core.compile_model(model, "CPU", settings).create_infer_request()
    return served(
        work,
        arrays.inputs.astype(np.int64),
        lambda ids: request.infer([ids], share_inputs=True)[0],
        logit,
    )
