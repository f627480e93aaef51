"""Summary of the results of `bench throughput`: medians and speedups for each workload
and each candidate.

A candidate is a library with its options. The module also has the functions with which
benchmark commands print tables on the terminal.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

from bench.peers import OURS, OWN, Candidate, read_candidate, row_key
from bench.schema import (
    FAILED,
    MACHINE,
    PEAK,
    STEP,
    Row,
    Rows,
    by_machine,
    rounded,
    rows_of,
    rows_of_commit,
    select,
)
from bench.workloads import TITLES, WORKLOADS, Workload, workload
from lstm_jax.lab.sweep import stats

KINDS = STEP, FAILED, PEAK, MACHINE
"""Kinds of the rows of throughput that are shown."""
Interval = tuple[float, float, float]
"""Tuple (value, lower end, upper end) of a value and its 95 % confidence interval. Both
ends are NaN if the interval is unknown."""


def ratio_interval(slow: Sequence[float], fast: Sequence[float]) -> Interval:
    """Return the ratio median(slow) / median(fast) of two samples with its 95 %
    bootstrap confidence interval.
    """
    if min(len(slow), len(fast)) < 2:
        return float(np.median(slow) / np.median(fast)), math.nan, math.nan
    return stats.ratio_interval(slow, fast)


def ends_text(interval: Interval, digits: int = 2, label: str = "") -> str:
    """Return a text with the two ends of an interval, such as " (1.20 to 1.40)", or ""
    if the ends are NaN.
    """
    _, low, high = interval
    return (
        f" ({label}{low:.{digits}f} to {high:.{digits}f})" if math.isfinite(low) else ""
    )


def speedup_text(interval: Interval | None, digits: int = 2, label: str = "") -> str:
    """Return a speedup as a text such as "1.61x (1.54 to 1.64)", "1.61x" if its
    interval is unknown, or "" for None. See `ends_text`.
    """
    return (
        ""
        if interval is None
        else f"{interval[0]:.{digits}f}x{ends_text(interval, digits, label)}"
    )


PLAIN = Candidate(OURS, OURS)
CONFIDENCE = "95 % confidence interval "
"""Label of an interval in a line of text."""


def kept(rows: Rows) -> list[Row]:
    """Select one result row for each combination of a commit, a library with its
    options, a workload and a round.
    """
    found: dict[tuple, tuple[int, Row]] = {}
    for row in select(rows, STEP, FAILED):
        key = (row["git"], *row_key(row), row["round"])
        rank = 0 if "error" in row else 1 if row.get("noisy") else 2
        if key not in found or rank >= found[key][0]:
            found[key] = rank, row
    return [row for _, row in found.values()]


@dataclass(frozen=True)
class Line:
    """Throughput of one candidate (a library with its options) on one workload. The
    metrics are medians over processes.

    `speedup` is the candidate's time divided by our time, None without either. "Our
    time" is that of this project without options or, for another library in another
    dtype than float32, in that dtype if it was measured. The ends of its interval are
    NaN if either was timed in a single process. `error` is the message of the last
    process if none succeeded, else "".
    """

    work: Workload
    candidate: str
    rows: Rows = ()
    speedup: Interval | None = None
    error: str = ""

    def median(self, field: str) -> float:
        """Return the median of a field of the result rows."""
        return float(np.median([row[field] for row in self.rows]))

    @property
    def ms(self) -> float:
        """Milliseconds per step."""
        return self.median("ms_per_step")

    @property
    def gbs(self) -> float:
        """Lower bound of the memory traffic of a step divided by the time of the step,
        in GB/s.
        """
        return self.median("least_bytes") / self.ms / 1e6

    @property
    def noisy(self) -> int:
        """Number of noisy rows."""
        return sum(bool(row.get("noisy")) for row in self.rows)

    @property
    def compile_seconds(self) -> float | None:
        """Seconds spent in XLA's compiler, or None if the candidate does not use JAX."""
        return (
            None
            if self.rows[-1]["compile_seconds"] is None
            else self.median("compile_seconds")
        )


Shown = tuple[list[Row], list[Line]]
"""Rows that a table or a page shows, and their summary."""


def summarize(
    works: Sequence[Workload], candidates: Sequence[Candidate], rows: Rows
) -> list[Line]:
    """Return the summary of the throughput results: a line for each candidate (a
    library with its options) on each workload.
    """
    by_key: dict[tuple, list[Row]] = defaultdict(list)
    for row in kept(rows):
        by_key[row_key(row)].append(row)

    def times(candidate: Candidate, work: Workload):
        return [
            row["ms_per_step"]
            for row in by_key.get(candidate.key(work), ())
            if row["measurement"] == STEP
        ]

    lines = []
    for work in works:
        distinct = {
            candidate.name: candidate
            for candidate in candidates
            if candidate.key(work) != PLAIN.key(work)
        }
        for candidate in (PLAIN, *distinct.values()):
            found = by_key.get(candidate.key(work), [])
            if not found:
                continue
            good = select(found, STEP)
            ours = times(PLAIN, work)
            if candidate.peer != OURS:
                dtype = candidate.given.get("dtype", "float32")
                ours = times(Candidate(OURS, OURS, {"dtype": dtype}), work) or ours
            speedup = None
            if good and ours and candidate != PLAIN:
                speedup = ratio_interval(times(candidate, work), ours)
            error = "" if good else found[-1]["error"]
            lines.append(Line(work, candidate.name, good, speedup, error))
    return lines


def peaks(rows: Rows) -> tuple[float, float]:
    """Return the highest measured speed of a matrix product (GFLOP/s) and the highest
    measured speed of a memory copy (GB/s).
    """
    measured = select(rows, PEAK)

    def best(name: str):
        on_gpu = [row[f"{name}_gpu"] for row in measured if f"{name}_gpu" in row]
        on_cores = [
            value for row in measured if (value := row.get(f"{name}_{row['cores']}"))
        ]
        return max(on_gpu or on_cores, default=math.nan)

    return best("gemm_gflops"), best("copy_gbs")


def speedups_over_sizes(
    lines: Iterable[Line], name: str, cell: str = "lstm"
) -> dict[str, list[float]]:
    """Return a dict from the name of each candidate (a library with its options) to the
    list of our speedups over it at different sizes.
    """
    found: dict[str, list[float]] = defaultdict(list)
    for line in lines:
        if line.speedup and (line.work.base, line.work.cell) == (name, cell):
            found[line.candidate].append(line.speedup[0])
    return {name: speedups for name, speedups in found.items() if len(speedups) > 1}


def mean_speedup(speedups: Sequence[float]) -> str:
    """Return a text that summarises our speedups over a library at several sizes."""
    slower = sum(speedup < 1 for speedup in speedups)
    text = (
        f"{speedup_text(stats.geometric_mean_interval(speedups))}, "
        f"{min(speedups):.2f}x to {max(speedups):.2f}x"
    )
    return f"{text}, we are slower at {slower or 'no'} size{'s' * (slower > 1)}"


def workloads_in(rows: Rows) -> list[Workload]:
    """Return the workloads with results, in the order of `WORKLOADS`."""
    names, order = (
        dict.fromkeys(row["workload"] for row in select(rows, STEP, FAILED)),
        list(WORKLOADS),
    )
    return [
        workload(name)
        for name in sorted(
            names, key=lambda name: (":" in name, order.index(name.partition(":")[0]))
        )
    ]


def candidates_in(rows: Rows) -> list[Candidate]:
    """Return the candidates (libraries with their options) with results."""
    return [
        read_candidate(name)
        for name in dict.fromkeys(row["candidate"] for row in kept(rows))
    ]


def verdicts(rows: Rows) -> list[str]:
    """Return lines of text that say, from the rows that are not noisy, which peers this
    project is faster than.

    The first line has the number of noisy rows, if any.
    """
    used = kept(rows)
    quiet = [row for row in used if not row.get("noisy")]
    text = []
    if noisy := len(used) - len(quiet):
        text.append(
            f"NOISY: {noisy} of {len(used)} rows are noisy; the "
            "verdicts below use only the others"
        )
    tried = {
        (row["workload"], row_key(row))
        for row in select(rows, STEP)
        if row["peer"] not in OWN
    }
    lines = shown(quiet)[1]
    for work in workloads_in(rows):
        count = sum(name == work.name for name, _ in tried)
        if ":" in work.name or not count:
            continue
        found = {
            line.candidate: line.speedup
            for line in lines
            if line.work == work and line.speedup and line.rows[0]["peer"] not in OWN
        }
        faster = sum(low > 1 for _, low, _ in found.values())
        slower = sum(high < 1 for *_, high in found.values())
        verdict = (
            f"{work.name}: faster than {faster} of {count} peers beyond noise, "
            f"slower than {slower}, undecided {count - faster - slower}"
        )
        if found:
            nearest = min(found, key=lambda name: found[name][0])
            speedup = speedup_text(found[nearest], label=CONFIDENCE)
            verdict += f"; nearest {nearest}, {speedup}"
        text.append(verdict)
    for cell in dict.fromkeys(line.work.cell for line in lines):
        for name in TITLES:
            for peer, ratios in speedups_over_sizes(lines, name, cell).items():
                text.append(
                    f"geometric mean of our speedup over {peer}, "
                    f"{len(ratios)} sizes of {name} of {cell}: "
                    f"{mean_speedup(ratios)}"
                )
    return text


def speedups(rows: Rows) -> dict[str, dict[str, float]]:
    """Return our speedups, by workload and candidate."""
    found: dict[str, dict[str, float]] = defaultdict(dict)
    for line in shown(rows)[1]:
        if line.speedup:
            found[line.work.name][line.candidate] = rounded(line.speedup[0])
    return dict(found)


def shown(rows: Rows) -> Shown:
    """Return the rows that a table or a page shows, those of `kept` and of the machine,
    and their summary.
    """
    return [*select(rows, PEAK, MACHINE), *kept(rows)], summarize(
        workloads_in(rows), candidates_in(rows), rows
    )


def of_commit(
    path: Path, commit: str = "", workloads: Sequence[str] = ()
) -> dict[str, Shown]:
    """Return what is shown of the throughput rows of a commit, of the named workloads
    or all, by machine.

    Without a commit, it is the newest of each machine.
    """
    rows = rows_of_commit(path, *KINDS, git=commit) if commit else rows_of(path, *KINDS)
    chosen = [
        row
        for row in rows
        if not workloads
        or row.get("workload", "").partition(":")[0] in ("", *workloads)
    ]
    found = {name: (own, select(own, STEP)) for name, own in by_machine(chosen).items()}
    return {
        name: shown(select(own, *KINDS, git=steps[-1]["git"]))
        for name, (own, steps) in found.items()
        if steps
    }


def print_table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table, whose first two columns are left-aligned. Where the output is not
    a terminal, a line has up to 100 characters.
    """
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for n, head in enumerate(heads):
        table.add_column(head, justify="left" if n < 2 else "right", overflow="fold")
    for row in rows:
        table.add_row(*row)
    console = Console()
    (console if console.is_terminal else Console(width=100)).print(table)


def names_of(workloads: Iterable[str]) -> str:
    """Return a text for an error message, which lists the first ten distinct names in
    `workloads` and the number of further names.
    """
    names = list(dict.fromkeys(workloads))
    return ", ".join(names[:10]) + f" and {len(names) - 10} more" * (len(names) > 10)
