"""Analytic counts of the floating-point operations (FLOPs) and the memory traffic of a training or evaluation step.

The counts of FLOPs include only matrix products, in which a multiply-add is 2 FLOPs. Each product of the forward pass leads to two products
of the same size in the backward pass, one for the gradient of each operand. The FLOPs of the following operations are not counted:

- the product with a one-hot input: it is a gather of kernel rows, and its gradient is a scatter
- elementwise operations, about 30 per unit and time step
- operations with vectors of weights, such as peephole weights
- the optimiser

`least_bytes` counts the memory traffic.
"""

from bench.workloads import Workload

FLOAT = 4
GATE_MATRICES = {"lstm_full_gate_recurrence": 9}
"""Dict from a cell to its number of matrices (H, H) that multiply the gates of the previous step."""


def parameters(work: Workload) -> dict[str, int]:
    """Return a dict from each part of the model to its number of parameters.

    The parts are "recurrent" and, if the model has them, "head" and "embedding". Of the vectors of the recurrent layer, only one bias is
    counted. The second bias of a GRU, peephole weights and the vectors of layer normalisation, for example, are not counted.
    """
    H, E = work.units, work.features
    counts = {"recurrent": (E + (H if work.sees_state else 0) + 1) * work.gates * H + GATE_MATRICES.get(work.cell, 0) * H * H}
    if work.classes:
        counts["head"] = (H + 1) * work.classes
    if work.words:
        counts["embedding"] = work.vocabulary * E
    return counts


def forward_flops(work: Workload) -> dict[str, int]:
    """Return the FLOPs of the matrix products of a forward pass.

    Returns:
        A dict from the name of each product to its FLOPs, or to 0 if the model does not have the product. The names are:

        - "projection": inputs times kernel. For one-hot inputs it has 0 FLOPs, because it is a gather of kernel rows.
        - "recurrence": previous state times recurrent kernel. If the cell also reads the gates of the previous step, the products of these
          gates with their matrices are added (see `GATE_MATRICES`).
        - "head": last output times head kernel.
    """
    rows = work.examples * work.length
    return {
        "projection": 0 if work.kind == "characters" else 2 * rows * work.features * work.gates * work.units,
        "recurrence": 2 * rows * work.units * (work.gates + GATE_MATRICES.get(work.cell, 0)) * work.units if work.sees_state else 0,
        "head": 2 * work.examples * work.units * work.classes,
    }


def step_flops(work: Workload) -> int:
    """Return the FLOPs of one step of a workload: a training step, an evaluation, or a pass through a recurrent layer alone.

    A step of a workload of the kind "evaluation" or "forward" has only a forward pass. The steps of all other kinds also have a backward
    pass, with twice the FLOPs of the forward pass.
    """
    return (1 if work.kind in ("evaluation", "forward") else 3) * sum(forward_flops(work).values())


def least_bytes(work: Workload) -> int:
    """Return a lower bound of the number of bytes that a step reads from and writes to memory.

    It is assumed that all intermediate values stay in cache. The bound depends on the kind of the step:

    - A training step reads the ids and each parameter, and writes each gradient. Adam then reads the gradient, and reads and writes the
      parameter and both moments.
    - An evaluation reads the parameters and the ids, and writes the logits.
    - The forward and backward pass of a recurrent layer alone reads the parameters, the inputs and the cotangent of the outputs, and writes
      the outputs and the gradients.
    - A forward pass alone reads the parameters and the inputs, and writes the outputs.

    For an embedding table, one row is counted for each word of the step, but at most the number of rows of the table. If words repeat
    within the step, their rows are counted repeatedly. The result is then above the true lower bound.
    """
    counts, rows = parameters(work), work.examples * work.length
    if work.layer_alone:
        return (1 if work.kind == "forward" else 2) * FLOAT * (counts["recurrent"] + rows * (work.features + work.units))
    small, looked_up = counts["recurrent"] + counts["head"], min(rows, work.vocabulary) * work.features
    if work.kind == "evaluation":
        return FLOAT * (small + looked_up + rows + work.examples)
    moved = 9 * small  # 1 read of the parameter, 1 write and 1 read of the gradient, 3 reads and 3 writes by Adam
    if work.words:
        moved += 9 * looked_up
    return FLOAT * (moved + rows + work.batch)
