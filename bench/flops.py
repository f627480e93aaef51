"""Analytic count of arithmetic and memory traffic of a step. A multiply-add is 2; only matrix products count.

A product forward has two backward, by each operand, of the same size. A one-hot input is a gather of kernel rows, its gradient a scatter:
no product. Elementwise work (about 30 operations a unit and step), other weights of a cell than kernel and recurrent kernel, and the
optimiser are left out.
"""

from bench.workloads import Workload

FLOAT = 4


def parameters(work: Workload) -> dict[str, int]:
    """Return the number of parameters by part."""
    H, E = work.units, work.features
    counts = {"recurrent": (E + (H if work.sees_state else 0) + 1) * work.gates * H}
    if work.classes:
        counts["head"] = (H + 1) * work.classes
    if work.words:
        counts["embedding"] = work.vocabulary * E
    return counts


def forward_flops(work: Workload) -> dict[str, int]:
    """Return the FLOPs of the products of a forward pass by part."""
    rows = work.examples * work.length
    return {
        "projection": 0 if work.kind == "characters" else 2 * rows * work.features * work.gates * work.units,
        "recurrence": 2 * rows * work.units * work.gates * work.units if work.sees_state else 0,
        "head": 2 * work.examples * work.units * work.classes,
    }


def step_flops(work: Workload) -> int:
    """Return the FLOPs of a step: forward, and twice as many backward; of an evaluation, forward."""
    return (1 if work.kind == "evaluation" else 3) * sum(forward_flops(work).values())


def least_bytes(work: Workload) -> int:
    """Return a lower bound of the bytes that a step moves, with all its intermediates in cache.

    Each parameter is read, and its gradient written; Adam reads the gradient and reads and writes parameter and both moments. Of a dense
    table's gradient only the rows in the batch count. Ids are read; a recurrence reads x and the cotangent and writes h and x's gradient.
    """
    counts, rows = parameters(work), work.examples * work.length
    if work.kind == "recurrence":
        return FLOAT * (2 * counts["recurrent"] + 2 * rows * work.features + 2 * rows * work.units)
    small = counts["recurrent"] + counts["head"]
    if work.kind == "evaluation":
        return FLOAT * (small + counts["embedding"] + rows + work.examples)
    moved = 9 * small  # read; gradient written, read; parameter and two moments read, written
    if work.words:
        moved += 9 * min(rows, work.vocabulary) * work.features
    return FLOAT * (moved + rows + work.batch)
