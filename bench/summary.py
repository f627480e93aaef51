"""Summary of the rows of `bench throughput`: selection of the rows that count, and medians and speedups by workload and candidate."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bench import machine
from bench.peers import OURS, Candidate, read_candidate, row_key
from bench.schema import FAILED, PEAK, STEP, rows_of, select
from bench.workloads import WORKLOADS, Workload, workload
from lstm_jax.errors import require
from lstm_jax.sweep import stats

Row = dict[str, Any]
Interval = tuple[float, float, float]
"""A value with the lower and the upper end of its 95 % confidence interval."""


def kept(rows: Iterable[Row]) -> list[Row]:
    """Return one row for each round of each candidate.

    That row is the last timed row that is not noisy. If no row is of that kind, it is the last noisy row, or else the last failed row.
    """
    found: dict[tuple, tuple[int, Row]] = {}
    for row in select(rows, STEP, FAILED):
        key = (row["git"], *row_key(row), row["round"])
        rank = 0 if "error" in row else 1 if row.get("noisy") else 2
        if key not in found or rank >= found[key][0]:
            found[key] = rank, row
    return [row for _, row in found.values()]


def timed(rows: Iterable[Row]) -> list[Row]:
    """Return the rows of `kept` that have a time, which rows of failed processes lack."""
    return [row for row in kept(rows) if row["measurement"] == STEP]


@dataclass(frozen=True)
class Line:
    """Medians over all processes of a candidate on a workload.

    Attributes:
        work: workload.
        candidate: name of the candidate.
        processes: number of processes that were timed.
        ms: milliseconds per step.
        tokens_per_second: tokens per second.
        gflops: speed of the matrix products, in GFLOP/s.
        gbs: lower bound of the bytes moved per second, in GB/s.
        compile_seconds: seconds spent in XLA's compiler; None if the candidate does not use JAX.
        memory_mib: peak resident memory in MiB.
        speedup: time of the candidate over our time, with its 95 % confidence interval. It is None for our own line, and if we have no
            rows on the workload.
        note: difference between the work of the candidate and ours.
        error: error of the last process if no process was timed, else "".
    """

    work: Workload
    candidate: str
    processes: int = 0
    ms: float = float("nan")
    tokens_per_second: float = float("nan")
    gflops: float = float("nan")
    gbs: float = float("nan")
    compile_seconds: float | None = None
    memory_mib: float = float("nan")
    speedup: Interval | None = None
    note: str = ""
    error: str = ""


def summarize(works: Sequence[Workload], candidates: Sequence[Candidate], rows: Iterable[Row]) -> list[Line]:
    """Return a line for each workload and candidate that has rows.

    Our line comes first on each workload. Another candidate whose settings equal ours on a workload is left out there.

    Args:
        works: workloads.
        candidates: candidates.
        rows: rows of bench throughput.
    """
    ours = next((candidate for candidate in candidates if candidate.name == OURS), read_candidate(OURS))
    by_key: dict[tuple, list[Row]] = {}
    for row in kept(rows):
        by_key.setdefault(row_key(row), []).append(row)
    lines = []
    for work in works:
        baseline = by_key.get(ours.key(work), [])
        distinct = {candidate.name: candidate for candidate in candidates if candidate.key(work) != ours.key(work)}
        for candidate in (ours, *distinct.values()):
            if found := by_key.get(candidate.key(work)):
                lines.append(_line(work, candidate.name, found, baseline))
    return lines


def _line(work: Workload, name: str, rows: Sequence[Row], baseline: Sequence[Row]) -> Line:
    """Return the line of a candidate.

    Args:
        work: workload.
        name: name of the candidate.
        rows: rows of the candidate on the workload.
        baseline: our rows on the workload.
    """
    good, ours = ([row for row in group if row["measurement"] == STEP] for group in (rows, baseline))
    if not good:
        return Line(work, name, error=rows[-1]["error"])

    def median(field: str) -> float:
        return float(np.median([row[field] for row in good]))

    ms = median("ms_per_step")
    speedup = None
    if name != OURS and ours:
        speedup = stats.ratio_interval([row["ms_per_step"] for row in good], [row["ms_per_step"] for row in ours])
    compiling = None if good[-1]["compile_seconds"] is None else median("compile_seconds")
    metrics = (ms, median("tokens_per_second"), median("gflops"), median("least_bytes") / ms / 1e6, compiling)
    return Line(work, name, len(good), *metrics, median("peak_memory_mib"), speedup, good[-1]["note"])


def peaks(rows: Iterable[Row]) -> tuple[float, float]:
    """Return the best GFLOP/s of a matrix product and the best GB/s of a copy among the rows; NaN if no row has them."""
    measured = select(rows, PEAK)

    def best(name: str) -> float:
        values = [row.get(f"{name}_{'gpu' if machine.gpu() else row['cores']}") for row in measured]
        return max((value for value in values if value is not None), default=float("nan"))

    return best("gemm_gflops"), best("copy_gbs")


def speedups_over_sizes(lines: Iterable[Line], kind: str, cell: str = "lstm") -> dict[str, list[float]]:
    """Return our speedups over each candidate, one for each size of a kind of workload.

    Candidates that were measured at fewer than two sizes are left out.

    Args:
        lines: lines of a summary.
        kind: kind of workload, see `Workload.kind`.
        cell: recurrent cell of the workload.
    """
    found: dict[str, list[float]] = {}
    for line in lines:
        if line.speedup and (line.work.kind, line.work.cell) == (kind, cell):
            found.setdefault(line.candidate, []).append(line.speedup[0])
    return {name: speedups for name, speedups in found.items() if len(speedups) > 1}


def mean_speedup(speedups: Sequence[float]) -> str:
    """Return a text with the geometric mean of the speedups, its 95 % confidence interval, and the smallest and the largest speedup.

    It ends with the number of sizes at which we are slower.
    """
    mean, low, high = stats.geometric_mean_interval(speedups)
    slower = sum(speedup < 1 for speedup in speedups)
    text = f"{mean:.2f}x ({low:.2f} to {high:.2f}), {min(speedups):.2f}x to {max(speedups):.2f}x"
    return f"{text}, we are slower at {slower or 'no'} size{'s' * (slower > 1)}"


def workloads_in(rows: Iterable[Row]) -> list[Workload]:
    """Return the workloads that have rows, in the order of `WORKLOADS`: first those with the sizes of that table, then resized ones."""
    names, order = dict.fromkeys(row["workload"] for row in select(rows, STEP, FAILED)), list(WORKLOADS)
    return [workload(name) for name in sorted(names, key=lambda name: (":" in name, order.index(name.partition(":")[0])))]


def of_commit(path: Path, commit: str) -> tuple[list[Row], list[Line]]:
    """Return the rows of a commit and their summary.

    Args:
        path: file of rows of bench throughput.
        commit: first digits of the commit.

    Raises:
        InputError: if the commit has no timed rows, or timed rows of more than one machine.
    """
    rows = [row for row in rows_of(path, STEP, FAILED, PEAK) if row["git"].startswith(commit)]
    good = timed(rows)
    require(bool(good), "commit", commit, f"give one that {path} has timed rows of")
    machines = sorted({f"{row['cpu']}, {row['cores']} cores" for row in good})
    require(len(machines) == 1, "machines", " and ".join(machines), "report rows of one machine")
    candidates = [read_candidate(name) for name in dict.fromkeys(row["candidate"] for row in kept(rows))]
    return rows, summarize(workloads_in(rows), candidates, rows)
