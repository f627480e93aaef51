"""Statistical comparison of two sets of step times, called baseline and candidate, that
`bench throughput` measured.

    # result files, or commits in bench/results/throughput.jsonl.gz
    python -m bench compare BASELINE CANDIDATE
    python -m bench compare 32f0c1 mine.jsonl --least 0.05
    # rows of two machines, by a part of their names
    python -m bench compare mine.jsonl@3fa9 mine.jsonl@70bc

For each library and workload in both sets, a permutation test (Fisher 1935) compares
the mean logarithm of the step times, one from each process. A change is reported as
faster or slower if its p-value, after Holm's correction for multiple tests (Holm 1979),
is at most `--level` and its relative size is at least `--least`. On a machine that also
runs other work, `bench duel` detects smaller changes.

The verdict "too few processes" says that the test could not have found a change of any
size: its smallest p-value is above the limit level / (N - k), with N comparisons of
which k are significant. Three processes a side are always too few at the default level.

The exit code is 1 if this project became slower on a workload, else 2 if it has too few
processes on one or the sets cannot be compared, else 0. If the sets are from two
machines, ratios are printed, and the exit code is 0.
"""

import argparse
import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np

from bench import add_flags, make_parser, read_flags
from bench.peers import OURS, row_key
from bench.schema import STEP, Row, Rows, by_machine, rows_of, rows_of_commit
from bench.summary import ends_text, kept, ratio_interval
from bench.throughput import PATH
from lstm_jax.base.errors import require
from lstm_jax.lab.sweep import stats

LEVEL, LEAST = 0.02, 0.03
TOO_FEW = "too few processes"


@dataclass(frozen=True)
class Change:
    """Change of one library's step time on one workload between two sets of
    measurements, called baseline and candidate.

    Attributes:
        ratio: time of the candidate divided by the time of the baseline, with its 95 %
            confidence interval from `low` to `high`.
        p: p-value of the test that the ratio is 1, and `smallest` the smallest that the
            test can give with so many measurements.
        verdict: "faster" or "slower" if the time differs significantly and by enough to
            count (see `judged`), "too few processes" if the test could not have found
            any change, otherwise "same".
    """

    workload: str
    peer: str
    ratio: float
    low: float
    high: float
    p: float
    verdict: str = "same"
    smallest: float = 0.0

    def __str__(self) -> str:
        ends = ends_text((self.ratio, self.low, self.high), 3)
        return (
            f"{self.workload:<28} {self.peer:<28} {self.ratio:.3f} times the "
            f"baseline's time{ends}, p {self.p:.3f}: {self.verdict}"
        )


def timed_rows(text: str, path: Path = PATH) -> list[Row]:
    """Return the rows with step times of one machine: of a result file or of a commit
    in the file `path`, and after an @ part of a name.
    """
    source, *machine = [text] if Path(text).exists() else text.rsplit("@", 1)
    rows = (
        rows_of(Path(source), STEP)
        if Path(source).exists()
        else rows_of_commit(path, STEP, git=source)
    )
    machines = by_machine(rows, *machine)
    require(
        len(machines) == 1,
        f"machines of {source}",
        "; ".join(machines),
        f"name one of them, as in {source}@MACHINE",
    )
    return kept(*machines.values())


def changes(
    baseline: Rows, candidate: Rows, level: float = LEVEL, least: float = LEAST
) -> list[Change]:
    """Return the changes of the step times between two sets of results, each with a
    verdict.
    """
    before, after = _times(baseline), _times(candidate)
    names = {row_key(row): (row["workload"], row["candidate"]) for row in candidate}
    shared = [(names[key], before[key], after[key]) for key in before if key in after]
    require(
        bool(shared),
        "rows",
        f"{len(baseline)} and {len(candidate)}",
        "give rows that have a workload and a peer in common",
    )
    found = [
        Change(
            *name,
            *ratio_interval(new, old),
            stats.permutation_p(old, new),
            smallest=smallest_p(len(old), len(new)),
        )
        for name, old, new in shared
    ]
    return judged(found, level, least)


@cache
def smallest_p(old: int, new: int) -> float:
    """Return the smallest p-value that `stats.permutation_p` can give if one sample has
    `old` durations and the other has `new`.
    """
    return stats.permutation_p(np.linspace(1, 1.01, old), np.linspace(9, 9.01, new))


def fewest(smallest: Callable[[int], float], limit: float) -> str:
    """Return a text such as "6 or more", with the smallest number of measurements for
    which the p-value of a test can reach a limit.
    """
    return next(
        (f"{number} or more" for number in range(2, 21) if smallest(number) <= limit),
        "a larger --level",
    )


def _times(rows: Rows) -> dict[tuple, list[float]]:
    times: dict[tuple, list[float]] = defaultdict(list)
    for row in rows:
        times[row_key(row)].append(row["ms_per_step"])
    return dict(times)


def judged(
    found: Sequence[Change], level: float = LEVEL, least: float = LEAST
) -> list[Change]:
    """Return the changes with their verdicts, by Holm's correction for the number of
    tests: slower, faster, too few processes or same.
    """
    verdicts: dict[int, str] = {}
    order = sorted(range(len(found)), key=lambda n: found[n].p)
    for rank, n in enumerate(order):
        if found[n].p > level / (len(found) - rank):
            break
        change = found[n]
        verdicts[n] = (
            "same"
            if abs(math.log(change.ratio)) < math.log1p(least)
            else "slower"
            if change.ratio > 1
            else "faster"
        )
    # limit for the first change that is not beyond noise
    limit = level / max(1, len(found) - len(verdicts))
    few: list[str] = [
        TOO_FEW if change.smallest > limit else "same" for change in found
    ]
    return [
        replace(change, verdict=verdicts.get(n, few[n]))
        for n, change in enumerate(found)
    ]


def add_test_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags `--level` (significance level) and `--least` (smallest change that
    counts) to a parser.
    """
    significance, smallest = (
        f"significance level; {LEVEL} if not given",
        f"smallest change that counts; {LEAST} if not given",
    )
    add_flags(parser, float, level=significance, least=smallest)
    parser.set_defaults(level=LEVEL, least=LEAST)


def main() -> int:
    """Print the changes between two sets of results; return 1 if something is slower, 2
    if there were too few processes, else 0.
    """
    parser = make_parser(__doc__)
    parser.add_argument(
        "baseline", help="file of rows, or commit; with @MACHINE, rows of one machine"
    )
    parser.add_argument(
        "candidate", help="file of rows, or commit; with @MACHINE, rows of one machine"
    )
    add_test_flags(parser)
    options = read_flags(parser)
    sides = timed_rows(options.baseline), timed_rows(options.candidate)
    found = changes(*sides, options.level, options.least)
    for change in found:
        print(change)
    after, *before = by_machine([*sides[0], *sides[1]])
    if before:
        print(
            f"baseline on {before[0]}, candidate on {after}: the machines "
            "differ, so no verdict on the code"
        )
        return 0
    ours = [
        (change.verdict, change.workload)
        for change in found
        if change.peer.split(":")[0] == OURS
    ]
    slower = [work for verdict, work in ours if verdict == "slower"]
    line = f"{len(found)} compared; this project slower in {len(slower)}" + (
        f": {', '.join(slower)}" if slower else ""
    )
    if few := sum(change.verdict == TOO_FEW for change in found):
        needed = fewest(
            lambda number: smallest_p(number, number), options.level / len(found)
        )
        line += (
            f"; too few processes in {few}, where no change can be found: give {needed}"
            + " a side" * needed.endswith("more")
        )
    print(line)
    return 1 if slower else 2 if TOO_FEW in {verdict for verdict, _ in ours} else 0
