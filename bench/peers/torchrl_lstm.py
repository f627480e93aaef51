"""Benchmark of TorchRL's LSTMModule, which resets the state of a sequence where an
episode begins.

The option `backend` selects the argument `recurrent_backend` of LSTMModule:

- "pad" (the default) cuts the sequences into episodes, and packs the episodes for
  nn.LSTM.
- "eager_scan" is TorchRL's backend "scan", a loop over the steps.
- "scan" is the same loop under torch.compile. This benchmark calls torch.compile;
  TorchRL does not.
- "triton" needs a GPU.
"""

from typing import Any

import numpy as np
import torch  # pyright: ignore[reportMissingImports]
from tensordict import TensorDict  # pyright: ignore[reportMissingImports]
from torchrl.modules import LSTMModule, set_recurrent_mode  # pyright: ignore[reportMissingImports]

from bench.peers.base import Built, Options
from bench.peers.torch_lstm import DEVICE, loaded_layer, recurrence
from bench.workloads import Arrays, Workload
from lstm_jax.base.errors import require


def build(work: Workload, arrays: Arrays, options: Options) -> Built:
    """Build a workload; see `base.Built`."""
    require(
        options.dtype in ("float32", "bfloat16"),
        "dtype",
        options.dtype,
        "give float32 or bfloat16",
    )
    backend = options.backend or "pad"
    lstm = loaded_layer(work, arrays, options)
    inputs: dict[str, Any] = {
        "in_key": "x",
        "out_key": "h_all",
        "recurrent_backend": backend.removeprefix("eager_"),
    }
    module = LSTMModule(lstm=lstm, **inputs)
    resets = (
        np.zeros(arrays.inputs.shape[:2], bool)
        if arrays.resets is None
        else arrays.resets
    )
    is_init = torch.tensor(resets[..., None], device=DEVICE)

    def forward(x):
        with set_recurrent_mode(True):
            return module(
                TensorDict({"x": x, "is_init": is_init}, batch_size=x.shape[:2])
            )["h_all"]

    return recurrence(
        work,
        arrays,
        lstm,
        torch.compile(forward) if backend == "scan" else forward,
        backend,
    )
