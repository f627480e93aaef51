"""Summary of rows of `bench.throughput`: which rows count, and medians and speedups by workload and candidate."""

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
"""A value and its 95 % confidence interval."""


def kept(rows: Iterable[Row]) -> list[Row]:
    """Return one row for each round of each candidate: the last that is not noisy, else the last noisy, else the last failed one."""
    found: dict[tuple, tuple[int, Row]] = {}
    for row in select(rows, STEP, FAILED):
        key = (row["git"], *row_key(row), row["round"])
        rank = 0 if "error" in row else 1 if row.get("noisy") else 2
        if key not in found or rank >= found[key][0]:
            found[key] = rank, row
    return [row for _, row in found.values()]


def timed(rows: Iterable[Row]) -> list[Row]:
    """Return the kept rows that have a time."""
    return [row for row in kept(rows) if row["measurement"] == STEP]


@dataclass(frozen=True)
class Line:
    """Medians over the processes of a candidate on a workload.

    Attributes:
        work: the workload.
        candidate: name of the candidate.
        processes: processes that were timed.
        ms: milliseconds a step.
        tokens_per_second: tokens a second.
        gflops: products a second, in 1e9.
        gbs: lower bound of the bytes moved a second, in 1e9.
        compile_seconds: seconds in XLA's compiler; None where JAX does not run.
        memory_mib: peak resident memory.
        speedup: its time over ours, with the 95 % confidence interval; None for ours, and without rows of ours.
        note: difference of its work from ours.
        error: of a candidate without a timed row.
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
    """Return a line for each workload and candidate that has rows, ours first; a candidate that equals ours on a workload is left out."""
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
    """Return the line of a candidate's rows; baseline: rows of ours."""
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
    """Return the best GFLOP/s of a product and GB/s of a copy in these rows."""
    measured = select(rows, PEAK)

    def best(name: str) -> float:
        values = [row.get(f"{name}_{'gpu' if machine.gpu() else row['cores']}") for row in measured]
        return max((value for value in values if value is not None), default=float("nan"))

    return best("gemm_gflops"), best("copy_gbs")


def speedups_over_sizes(lines: Iterable[Line], kind: str, cell: str = "lstm") -> dict[str, list[float]]:
    """Return the speedups over each candidate at the sizes of a kind of workload, of candidates with two sizes or more."""
    found: dict[str, list[float]] = {}
    for line in lines:
        if line.speedup and (line.work.kind, line.work.cell) == (kind, cell):
            found.setdefault(line.candidate, []).append(line.speedup[0])
    return {name: speedups for name, speedups in found.items() if len(speedups) > 1}


def mean_speedup(speedups: Sequence[float]) -> str:
    """Return the geometric mean of speedups with its interval and range, and at how many sizes we are slower, as text."""
    mean, low, high = stats.geometric_mean_interval(speedups)
    slower = sum(speedup < 1 for speedup in speedups)
    text = f"{mean:.2f}x ({low:.2f} to {high:.2f}), {min(speedups):.2f}x to {max(speedups):.2f}x"
    return f"{text}, we are slower at {slower or 'no'} size{'s' * (slower > 1)}"


def workloads_in(rows: Iterable[Row]) -> list[Workload]:
    """Return the workloads that have rows in the order of `WORKLOADS`, those with their own sizes first."""
    names, order = dict.fromkeys(row["workload"] for row in select(rows, STEP, FAILED)), list(WORKLOADS)
    return [workload(name) for name in sorted(names, key=lambda name: (":" in name, order.index(name.partition(":")[0])))]


def of_commit(path: Path, commit: str) -> tuple[list[Row], list[Line]]:
    """Return the rows of a commit, given by its first digits, and their summary.

    Raises:
        InputError: if it has no timed rows, or some of several machines.
    """
    rows = [row for row in rows_of(path, STEP, FAILED, PEAK) if row["git"].startswith(commit)]
    good = timed(rows)
    require(bool(good), "commit", commit, f"give one that {path} has timed rows of")
    machines = sorted({f"{row['cpu']}, {row['cores']} cores" for row in good})
    require(len(machines) == 1, "machines", " and ".join(machines), "report rows of one machine")
    candidates = [read_candidate(name) for name in dict.fromkeys(row["candidate"] for row in kept(rows))]
    return rows, summarize(workloads_in(rows), candidates, rows)
