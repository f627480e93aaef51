"""Summary of the results of `bench throughput`: medians and speedups for each workload and each candidate.

A candidate is a library with its options. The module also has the functions with which benchmark commands print tables on the terminal.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

from bench.peers import OURS, Candidate, read_candidate, row_key
from bench.schema import FAILED, PEAK, STEP, match_commit, require_one_machine, rows_of, select
from bench.workloads import WORKLOADS, Workload, workload
from lstm_jax.errors import require
from lstm_jax.sweep import stats

Row = dict[str, Any]
Interval = tuple[float, float, float]
"""Tuple (value, lower end, upper end) of a value and its 95 % confidence interval. Both ends are NaN if the interval is unknown."""


def ratio_interval(slow: Sequence[float], fast: Sequence[float]) -> Interval:
    """Return the ratio median(slow) / median(fast) of two samples with its 95 % bootstrap confidence interval."""
    if min(len(slow), len(fast)) < 2:
        return float(np.median(slow) / np.median(fast)), math.nan, math.nan
    return stats.ratio_interval(slow, fast)


def ends_text(interval: Interval, digits: int = 2, label: str = "") -> str:
    """Return a text with the two ends of an interval, such as " (1.20 to 1.40)", or "" if the ends are NaN."""
    _, low, high = interval
    return f" ({label}{low:.{digits}f} to {high:.{digits}f})" if math.isfinite(low) else ""


def speedup_text(interval: Interval, digits: int = 2, label: str = "") -> str:
    """Return a speedup as a text such as "1.61x (1.54 to 1.64)", or "1.61x" if its interval is unknown. See `ends_text`."""
    return f"{interval[0]:.{digits}f}x{ends_text(interval, digits, label)}"


CONFIDENCE = "95 % confidence interval "
"""Label of an interval in a line of text."""


def kept(rows: Iterable[Row]) -> list[Row]:
    """Select one result row for each combination of a commit, a library with its options, a workload and a round."""
    found: dict[tuple, tuple[int, Row]] = {}
    for row in select(rows, STEP, FAILED):
        key = (row["git"], *row_key(row), row["round"])
        rank = 0 if "error" in row else 1 if row.get("noisy") else 2
        if key not in found or rank >= found[key][0]:
            found[key] = rank, row
    return [row for _, row in found.values()]


def timed(rows: Iterable[Row]) -> list[Row]:
    """Select one result row for each commit, library with options, workload and round (see `kept`). Failed measurements are left out."""
    return [row for row in kept(rows) if row["measurement"] == STEP]


@dataclass(frozen=True)
class Line:
    """Throughput of one candidate (a library with its options) on one workload. The metrics are medians over processes.

    Attributes:
        work: workload, that is, a kind of step with its sizes.
        candidate: name of the candidate.
        processes: number of processes that were timed.
        ms: milliseconds per step.
        tokens_per_second: tokens per second.
        gflops: number of floating-point operations in the matrix products of a step divided by the time of the step, in GFLOP/s.
        gbs: lower bound of the memory traffic of a step divided by the time of the step, in GB/s.
        compile_seconds: seconds spent in XLA's compiler, or None if the candidate does not use JAX.
        memory_mib: peak resident memory in MiB.
        speedup: our speedup over the candidate (the candidate's time divided by our time), with the 95 % confidence interval. "Our time"
            is the time of this project without options. If the candidate is another library in a dtype other than float32, "our time" is
            the time of this project in that dtype, if it was measured. Both ends of the interval are NaN if the candidate or this project
            was timed in a single process. The speedup is None if the candidate is this project without options, if no process of the
            candidate succeeded, or if this project has no results on the workload.
        note: what the candidate computes differently from this project, or "".
        error: error message of the last process if no process succeeded, else "".
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
    """Return the summary of the throughput results: a line for each candidate (a library with its options) on each workload."""
    ours = next((candidate for candidate in candidates if candidate.name == OURS), read_candidate(OURS))
    by_key: dict[tuple, list[Row]] = {}
    for row in kept(rows):
        by_key.setdefault(row_key(row), []).append(row)
    lines = []
    for work in works:
        distinct = {candidate.name: candidate for candidate in candidates if candidate.key(work) != ours.key(work)}
        for candidate in (ours, *distinct.values()):
            if found := by_key.get(candidate.key(work)):
                same = by_key.get(replace(ours, dtype=candidate.dtype).key(work), []) if candidate.peer != OURS else []
                same = [row for row in same if row["measurement"] == STEP]
                lines.append(_line(work, candidate.name, found, same or by_key.get(ours.key(work), [])))
    return lines


def _line(work: Workload, name: str, rows: Sequence[Row], baseline: Sequence[Row]) -> Line:
    """Summarise the throughput results of one candidate (a library with its options) on one workload."""
    good, ours = ([row for row in group if row["measurement"] == STEP] for group in (rows, baseline))
    if not good:
        return Line(work, name, error=rows[-1]["error"])

    def median(field: str) -> float:
        return float(np.median([row[field] for row in good]))

    ms = median("ms_per_step")
    speedup = None
    if name != OURS and ours:
        speedup = ratio_interval([row["ms_per_step"] for row in good], [row["ms_per_step"] for row in ours])
    compiling = None if good[-1]["compile_seconds"] is None else median("compile_seconds")
    metrics = (ms, median("tokens_per_second"), median("gflops"), median("least_bytes") / ms / 1e6, compiling)
    return Line(work, name, len(good), *metrics, median("peak_memory_mib"), speedup, good[-1]["note"])


def peaks(rows: Iterable[Row]) -> tuple[float, float]:
    """Return the highest measured speed of a matrix product (GFLOP/s) and the highest measured speed of a memory copy (GB/s)."""
    measured = select(rows, PEAK)

    def best(name: str) -> float:
        on_gpu = any(f"{name}_gpu" in row for row in measured)
        values = [row.get(f"{name}_{'gpu' if on_gpu else row['cores']}") for row in measured]
        return max((value for value in values if value is not None), default=float("nan"))

    return best("gemm_gflops"), best("copy_gbs")


def speedups_over_sizes(lines: Iterable[Line], name: str, cell: str = "lstm") -> dict[str, list[float]]:
    """Return a dict from the name of each candidate (a library with its options) to the list of our speedups over it at different sizes."""
    found: dict[str, list[float]] = {}
    for line in lines:
        if line.speedup and (line.work.base, line.work.cell) == (name, cell):
            found.setdefault(line.candidate, []).append(line.speedup[0])
    return {name: speedups for name, speedups in found.items() if len(speedups) > 1}


def mean_speedup(speedups: Sequence[float]) -> str:
    """Return a text that summarises our speedups over a library at several sizes."""
    slower = sum(speedup < 1 for speedup in speedups)
    text = f"{speedup_text(stats.geometric_mean_interval(speedups))}, {min(speedups):.2f}x to {max(speedups):.2f}x"
    return f"{text}, we are slower at {slower or 'no'} size{'s' * (slower > 1)}"


def workloads_in(rows: Iterable[Row]) -> list[Workload]:
    """Return the workloads with results, in the order of `WORKLOADS`."""
    names, order = dict.fromkeys(row["workload"] for row in select(rows, STEP, FAILED)), list(WORKLOADS)
    return [workload(name) for name in sorted(names, key=lambda name: (":" in name, order.index(name.partition(":")[0])))]


def of_commit(path: Path, commit: str) -> tuple[list[Row], list[Line]]:
    """Return a pair: the list of all throughput result rows of a commit, and the summary of these rows."""
    rows = match_commit(rows_of(path, STEP, FAILED, PEAK), commit)
    good = timed(rows)
    require(bool(good), "commit", commit, f"give one that {path} has timed rows of")
    require_one_machine(good)
    candidates = [read_candidate(name) for name in dict.fromkeys(row["candidate"] for row in kept(rows))]
    return rows, summarize(workloads_in(rows), candidates, rows)


def print_table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table, whose first two columns are left-aligned. Where the output is not a terminal, a line has up to 160 characters."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for n, head in enumerate(heads):
        table.add_column(head, justify="left" if n < 2 else "right", overflow="fold")
    for row in rows:
        table.add_row(*row)
    console = Console()
    (console if console.is_terminal else Console(width=160)).print(table)


def names_of(workloads: Iterable[str]) -> str:
    """Return a text for an error message, which lists the first ten distinct names in `workloads` and the number of further names."""
    names = list(dict.fromkeys(workloads))
    return ", ".join(names[:10]) + f" and {len(names) - 10} more" * (len(names) > 10)
