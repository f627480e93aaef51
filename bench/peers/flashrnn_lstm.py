"""Benchmark of FlashRNN's backend "vanilla", a loop over the steps in PyTorch. Its
compiled backends need a GPU.
"""

from flashrnn import flashrnn  # pyright: ignore[reportMissingImports]

from bench.peers.base import Built, Options
from bench.peers.torch_lstm import loaded_layer, recurrence
from bench.workloads import Arrays, Workload


def build(work: Workload, arrays: Arrays, options: Options) -> Built:
    """Build a workload; see `base.Built`."""
    lstm = loaded_layer(work, arrays, options)

    def forward(x):
        bias = lstm.bias_ih_l0 + lstm.bias_hh_l0
        parts = (x @ lstm.weight_ih_l0.T, 2), (lstm.weight_hh_l0, 0), (bias, 0)
        # i, f, g, o
        gates = (part.unflatten(axis, (4, 1, work.units)) for part, axis in parts)
        return flashrnn(*gates, function="lstm", backend="vanilla", dtype="float32")[0][
            0, :, :, 0
        ]

    return recurrence(work, arrays, lstm, forward)
