"""Analytic counts of the floating-point operations (FLOPs) and the memory traffic of a
training or evaluation step.

The FLOPs are those of matrix products, in which a multiply-add is 2 FLOPs. Each product
of the forward pass leads to two of the same size in the backward pass, one for the
gradient of each operand. Not counted are the product with a one-hot input (a gather of
kernel rows), elementwise operations (about 30 per unit and time step), those with
vectors of weights, such as peepholes, and the optimiser.
"""

from bench.workloads import Workload

FLOAT = 4
GATE_MATRICES = {"lstm_full_gate_recurrence": 9}
"""Dict from a cell to its number of matrices (H, H) that multiply the gates of the
previous step."""


def parameters(work: Workload) -> dict[str, int]:
    """Return a dict from each part of the model but the embedding to its number of
    parameters.
    """
    H, E = work.units, work.features
    counts = {
        "recurrent": (
            E // work.blocks + (H // work.heads if work.sees_state else 0) + 1
        )
        * work.gates
        * H
        + GATE_MATRICES.get(work.cell, 0) * H * H
    }
    if work.classes:
        counts["head"] = (H + 1) * work.classes
    return counts


def forward_flops(work: Workload) -> dict[str, int]:
    """Return the FLOPs of the matrix products of a forward pass."""
    rows = work.examples * work.length
    return {
        "projection": 0
        if work.kind == "characters"
        else 2 * rows * work.features // work.blocks * work.gates * work.units,
        "recurrence": 2
        * rows
        * work.units
        * (work.gates + GATE_MATRICES.get(work.cell, 0))
        * work.units
        // work.heads
        if work.sees_state
        else 0,
        "head": 2 * work.examples * work.units * work.classes,
    }


def step_flops(work: Workload) -> int:
    """Return the FLOPs of one step of a workload: a training step, an evaluation, or a
    pass through a recurrent layer alone.
    """
    return (1 if work.kind in ("evaluation", "forward") else 3) * sum(
        forward_flops(work).values()
    )


def speeds(work: Workload, ms: float) -> dict[str, float]:
    """Return the fields of a row of throughput that follow from the time of a step."""
    flops = step_flops(work)
    return {
        "ms_per_step": ms,
        "steps_per_second": 1000 / ms,
        "tokens_per_second": 1000 / ms * work.tokens,
        "flops": flops,
        "gflops": flops / ms / 1e6,
        "least_bytes": least_bytes(work),
    }


def least_bytes(work: Workload) -> int:
    """Return a lower bound of the number of bytes that a step reads from and writes to
    memory.
    """
    counts, rows = parameters(work), work.examples * work.length
    if work.layer_alone:
        return (
            (1 if work.kind == "forward" else 2)
            * FLOAT
            * (counts["recurrent"] + rows * (work.features + work.outputs))
        )
    small, looked_up = (
        counts["recurrent"] + counts["head"],
        min(rows, work.vocabulary) * work.features,
    )
    if work.kind == "evaluation":
        return FLOAT * (small + looked_up + rows + work.examples)
    # 1 read of the parameter, 1 write and 1 read of the gradient, 3 reads and 3 writes
    # by Adam
    moved = 9 * small
    if work.words:
        moved += 9 * looked_up
    return FLOAT * (moved + rows + work.batch)
