"""Benchmark of TorchRL's LSTMModule, which resets the state of a sequence where an episode begins.

The option `backend` selects the argument `recurrent_backend` of LSTMModule:

- "pad" (the default) cuts the sequences into episodes, and packs the episodes for nn.LSTM.
- "eager_scan" is TorchRL's backend "scan", a loop over the steps.
- "scan" is the same loop under torch.compile. This benchmark calls torch.compile; TorchRL does not.
- "triton" needs a GPU.

If the dtype is bfloat16, the weights, the inputs and the states are in bfloat16.
"""

from typing import Any

import numpy as np
import torch  # pyright: ignore[reportMissingImports]
from tensordict import TensorDict  # pyright: ignore[reportMissingImports]
from torch import nn  # pyright: ignore[reportMissingImports]
from torchrl.modules import LSTMModule, set_recurrent_mode  # pyright: ignore[reportMissingImports]

from bench.peers.base import Built, Options, layer
from bench.peers.torch_lstm import DEVICE, devices, differentiated, to_numpy, wait
from bench.workloads import Arrays, Workload, in_layer
from lstm_jax import convert
from lstm_jax.errors import require


def build(work: Workload, arrays: Arrays, options: Options) -> Built:
    """Prepare the forward and backward pass of an LSTM in TorchRL, and return functions that run it; see `base.Built`."""
    require(options.dtype in ("float32", "bfloat16"), "dtype", options.dtype, "give float32 or bfloat16")
    dtype = getattr(torch, options.dtype)
    backend = options.backend or "pad"
    lstm = nn.LSTM(work.features, work.units, batch_first=True)
    lstm.load_state_dict({name: torch.tensor(array) for name, array in convert.lstm_to_torch([arrays.cell()]).items()})
    inputs: dict[str, Any] = {"in_key": "x", "out_key": "h_all", "recurrent_backend": backend.removeprefix("eager_")}
    module = LSTMModule(lstm=lstm.to(DEVICE, dtype), **inputs)
    x = torch.tensor(arrays.inputs, requires_grad=True, device=DEVICE, dtype=dtype)
    resets = np.zeros(arrays.inputs.shape[:2], bool) if arrays.resets is None else arrays.resets
    is_init = torch.tensor(resets[..., None], device=DEVICE)
    cotangent = torch.tensor(arrays.targets, device=DEVICE, dtype=dtype)
    names, leaves = zip(*lstm.named_parameters(), strict=True)

    def forward() -> torch.Tensor:
        with set_recurrent_mode(True):
            return module(TensorDict({"x": x, "is_init": is_init}, batch_size=x.shape[:2]))["h_all"]

    forward = torch.compile(forward) if backend == "scan" else forward

    def to_ours(gradients) -> dict[str, np.ndarray]:
        state = {name: to_numpy(gradient) for name, gradient in zip(names, gradients, strict=True)}
        state["bias_hh_l0"] = np.zeros_like(state["bias_hh_l0"])  # the gradients of both biases are equal, and ours has one bias
        return in_layer(convert.lstm_from_torch(state)[0])

    step = differentiated(forward, leaves, x, cotangent)
    return layer(work, step, to_ours, devices(), "two biases", backend, wait, to_numpy)
