"""Benchmark of oneDNN's LSTM primitive with weights that are packed once. PyTorch's
nn.LSTM packs them anew in each call.
"""

import torch  # pyright: ignore[reportMissingImports]

from bench.peers.base import Built, Options, head, served
from bench.peers.torch_lstm import loaded_layer, recurrence
from bench.workloads import Arrays, Workload

LSTM = 2
"""Number of the LSTM among the modes of PyTorch's operator `mkldnn_rnn_layer`."""


def build(work: Workload, arrays: Arrays, options: Options) -> Built:
    """Build a workload; see `base.Built`."""
    lstm, zeros = (
        loaded_layer(work, arrays, options).requires_grad_(False),
        torch.zeros(work.batch, work.units),
    )
    kernel, recurrent, *biases = lstm.parameters()
    packed = torch.ops.mkldnn._reorder_mkldnn_rnn_layer_weight(
        kernel,
        recurrent,
        work.units,
        False,
        True,
        False,
        [work.length, work.batch, work.features],
    )

    def steps(x):  # (T, B, E) to (T, B, H)
        settings = (False, [], LSTM, work.units, 1, True, False, False, False)
        return torch.ops.aten.mkldnn_rnn_layer(
            x, *packed, *biases, zeros, zeros, *settings
        )[0]

    if work.kind == "forward":
        return recurrence(
            work,
            arrays,
            lstm,
            lambda x: steps(x.transpose(0, 1).contiguous()).transpose(0, 1),
        )
    embedding = torch.tensor(arrays.weights["embedding/embedding"])
    return served(
        work,
        arrays.inputs,
        lambda ids: head(
            arrays, steps(torch.embedding(embedding, torch.tensor(ids.T)))[-1].numpy()
        ),
    )
