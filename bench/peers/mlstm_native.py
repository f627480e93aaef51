"""Benchmark of the mLSTM of mlstm-kernels: its chunkwise kernel `native_autograd`, in
PyTorch. `native_custbw` has other gradients.
"""

import torch  # pyright: ignore[reportMissingImports]
from mlstm_kernels.torch.chunkwise.native import mlstm_chunkwise__native_autograd  # pyright: ignore[reportMissingImports]
from torch import nn  # pyright: ignore[reportMissingImports]

from bench.peers.base import Built, Options
from bench.peers.torch_lstm import recurrence
from bench.workloads import Arrays, Workload, in_layer

# its default number of steps in a chunk; here a chunk has the largest divisor of T up
# to this number
LARGEST = 64


def build(work: Workload, arrays: Arrays, options: Options) -> Built:
    """Build a workload; see `base.Built`."""
    size = next(size for size in range(LARGEST, 0, -1) if work.length % size == 0)
    layer = nn.ParameterDict(
        {name: torch.tensor(array) for name, array in arrays.cell().items()}
    )

    def of_heads(part):
        # (B, T, ...) -> (B, heads, T, ...)
        return part.unflatten(2, (work.heads, -1)).transpose(1, 2)

    def forward(x):
        q, k, v, o = (x @ layer["kernel"] + layer["bias"]).chunk(4, dim=2)
        i, f = (
            of_heads(part)[..., 0]
            for part in (x @ layer["gate_kernel"] + layer["gate_bias"]).chunk(2, dim=2)
        )
        h = mlstm_chunkwise__native_autograd(
            *map(of_heads, (q, k, v)), i, f, chunk_size=size
        )
        return h.transpose(1, 2).flatten(2) * o.sigmoid()

    return recurrence(work, arrays, layer, forward, to_ours=in_layer)
