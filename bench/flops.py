"""Analytic count of the arithmetic and the memory traffic of a step.

Only matrix products are counted, with 2 FLOPs for a multiply-add. Each product of the forward pass has two products of the same size in
the backward pass, one for the gradient of each operand. The product of a one-hot input is not counted, since it is a gather of kernel rows
and its gradient is a scatter. Also left out are elementwise operations (about 30 for each unit and step), weights of a cell other than the
kernel and the recurrent kernel, and the optimizer.
"""

from bench.workloads import Workload

FLOAT = 4


def parameters(work: Workload) -> dict[str, int]:
    """Return the number of parameters of each part of the model ("recurrent", "head", "embedding") that the workload has."""
    H, E = work.units, work.features
    counts = {"recurrent": (E + (H if work.sees_state else 0) + 1) * work.gates * H}
    if work.classes:
        counts["head"] = (H + 1) * work.classes
    if work.words:
        counts["embedding"] = work.vocabulary * E
    return counts


def forward_flops(work: Workload) -> dict[str, int]:
    """Return the FLOPs of the matrix products of a forward pass, for each of "projection", "recurrence" and "head"."""
    rows = work.examples * work.length
    return {
        "projection": 0 if work.kind == "characters" else 2 * rows * work.features * work.gates * work.units,
        "recurrence": 2 * rows * work.units * work.gates * work.units if work.sees_state else 0,
        "head": 2 * work.examples * work.units * work.classes,
    }


def step_flops(work: Workload) -> int:
    """Return the FLOPs of a step: those of the forward pass, plus twice as many for the backward pass unless it is an evaluation."""
    return (1 if work.kind == "evaluation" else 3) * sum(forward_flops(work).values())


def least_bytes(work: Workload) -> int:
    """Return a lower bound of the bytes that a step moves, under the assumption that all intermediate values stay in cache.

    In a training step each parameter is read and its gradient is written; then Adam reads the gradient, and reads and writes the parameter
    and both moments. Of the embedding table only the rows that occur in the batch count. The ids are read. An evaluation reads the
    parameters and the ids, and writes the logits. The recurrence alone reads its parameters, inputs and cotangent, and writes its outputs
    and the gradients.
    """
    counts, rows = parameters(work), work.examples * work.length
    if work.kind == "recurrence":
        return FLOAT * (2 * counts["recurrent"] + 2 * rows * work.features + 2 * rows * work.units)
    small = counts["recurrent"] + counts["head"]
    if work.kind == "evaluation":
        return FLOAT * (small + counts["embedding"] + rows + work.examples)
    moved = 9 * small  # 1 read of the parameter, 1 write and 1 read of the gradient, 3 reads and 3 writes by Adam
    if work.words:
        moved += 9 * min(rows, work.vocabulary) * work.features
    return FLOAT * (moved + rows + work.batch)
