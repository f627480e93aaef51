"""Benchmark of the sLSTM of the package xlstm: its backend "vanilla", a loop over the
steps in PyTorch. Its other one needs a GPU.
"""

from typing import Any

import torch  # pyright: ignore[reportMissingImports]
from torch import nn  # pyright: ignore[reportMissingImports]
from xlstm.blocks.slstm.cell import sLSTMCell_vanilla, sLSTMCellConfig  # pyright: ignore[reportMissingImports]

from bench.peers.base import Built, Options
from bench.peers.torch_lstm import recurrence
from bench.workloads import Arrays, Workload, in_layer


def build(work: Workload, arrays: Arrays, options: Options) -> Built:
    """Build a workload; see `base.Built`."""
    H, N = work.units, work.heads
    config = sLSTMCellConfig(
        hidden_size=H,
        num_heads=N,
        backend="vanilla",
        dtype="float32",
        output_shape="BSH",
    )
    layer: Any = nn.Module()
    layer.kernel, layer.cell = (
        nn.Linear(work.features, 4 * H, bias=False),
        sLSTMCell_vanilla(config),
    )
    own = arrays.cell()
    # theirs are (4H, E) and, with the heads N, (N, gates, outputs, inputs)
    with torch.no_grad():
        layer.kernel.weight.copy_(torch.tensor(own["kernel"].T))
        blocks = (
            own["recurrent_kernel"].reshape(H // N, 4, N, H // N).transpose(2, 1, 3, 0)
        )
        layer.cell._recurrent_kernel_.copy_(
            torch.tensor(blocks.reshape(N, 4 * H // N, -1))
        )
        layer.cell._bias_.copy_(torch.tensor(own["bias"]))

    def to_ours(gradients):
        blocks = (
            gradients["cell._recurrent_kernel_"]
            .reshape(N, 4, H // N, H // N)
            .transpose(3, 1, 0, 2)
        )
        return in_layer(
            {
                "kernel": gradients["kernel.weight"].T,
                "recurrent_kernel": blocks.reshape(H // N, 4 * H),
                "bias": gradients["cell._bias_"],
            }
        )

    return recurrence(
        work, arrays, layer, lambda x: layer.cell(layer.kernel(x))[0], to_ours=to_ours
    )
