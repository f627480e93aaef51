"""Statistical comparison of two sets of step times, called baseline and candidate, that `bench throughput` measured.

    python -m bench compare BASELINE CANDIDATE      # result files, or commits in bench/results/throughput.jsonl.gz
    python -m bench compare 32f0c1 mine.jsonl --least 0.05

Each set has several step times for a library on a workload (a kind of step with its sizes), one from each process that was timed. For each
library and workload that both sets contain, a permutation test (Fisher 1935) compares the mean logarithms of the step times.

A change is reported as faster or slower only if two conditions hold. Its p-value, after Holm's correction for multiple tests (Holm 1979),
must be at most `--level`. Its relative size must be at least `--least`. On a machine that also runs other work, `bench duel` detects
smaller changes.

The exit code is 1 if this project became slower on a workload, 2 if the two sets cannot be compared, and otherwise 0.
"""

import argparse
import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from bench.peers import OURS, row_key
from bench.schema import STEP, rows_of
from bench.summary import kept
from bench.throughput import PATH
from lstm_jax.errors import InputError, require
from lstm_jax.sweep import stats

LEVEL, LEAST = 0.02, 0.03
Verdict = Literal["faster", "slower", "same"]


@dataclass(frozen=True)
class Change:
    """Change of one library's step time on one workload between two sets of measurements, called baseline and candidate.

    Attributes:
        workload: name of the workload.
        peer: name of the measured library with its options.
        ratio: time of the candidate divided by the time of the baseline.
        low: lower end of the 95 % confidence interval of the ratio.
        high: upper end of the 95 % confidence interval of the ratio.
        p: p-value of the test that the ratio is 1.
        verdict: "faster" or "slower" if the candidate is faster or slower beyond noise, otherwise "same".
    """

    workload: str
    peer: str
    ratio: float
    low: float
    high: float
    p: float
    verdict: Verdict = "same"

    @property
    def times(self) -> str:
        """Text with the ratio and its confidence interval."""
        return f"{self.ratio:.3f} times the baseline's time ({self.low:.3f} to {self.high:.3f})"

    def __str__(self) -> str:
        return f"{self.workload:<28} {self.peer:<28} {self.times}, p {self.p:.3f}: {self.verdict}"


def timed_rows(text: str, path: Path = PATH) -> list[dict[str, Any]]:
    """Return the result rows that have step times, either those of a result file or those of one commit.

    Of repeated measurements, only the row that `bench.summary.kept` selects is returned. Each returned row is from a separate process.

    Args:
        text: path of a result file, or the first digits of a commit hash.
        path: result file with the rows of the commit. It is read only if `text` is not the path of a file.

    Raises:
        InputError: if the file or the commit has no step times.
    """
    if Path(text).is_file():
        found = kept(rows_of(Path(text), STEP))
    else:
        found = kept(row for row in rows_of(path, STEP) if row["git"].startswith(text))
    require(bool(found), "rows", text, f"give a file of rows, or a commit that {path.name} has timed rows of")
    return found


def changes(baseline: list[dict[str, Any]], candidate: list[dict[str, Any]], level: float = LEVEL, least: float = LEAST) -> list[Change]:
    """Return the change of the step time, with a verdict, for each library (with its options) and workload that both sets contain.

    Args:
        baseline: result rows with the step times of the baseline.
        candidate: result rows with the step times of the candidate.
        level: family-wise significance level, that is, the accepted probability of any false alarm in all tests together.
        least: smallest relative change that counts, such as 0.03.

    Raises:
        InputError: if this project was measured on more than one machine, or if the two sets have no workload and library in common.
    """
    ours = [row for row in baseline + candidate if row["peer"] == OURS]
    machines = sorted({f"{row['cpu']}, {row['cores']} cores, {', '.join(row['devices'])}" for row in ours})
    require(len(machines) <= 1, "machines", " and ".join(machines), "compare rows of one machine")
    before, after = _times(baseline), _times(candidate)
    names = {row_key(row): (row["workload"], row["candidate"]) for row in candidate}
    shared = [key for key in before if key in after]
    if not shared:
        raise InputError("rows", f"{len(baseline)} and {len(candidate)}", "give rows that have a workload and a peer in common")
    found = [
        Change(*names[key], *stats.ratio_interval(after[key], before[key]), stats.permutation_p(before[key], after[key])) for key in shared
    ]
    return judged(found, level, least)


def _times(rows: Iterable[dict[str, Any]]) -> dict[tuple, list[float]]:
    times: dict[tuple, list[float]] = defaultdict(list)
    for row in rows:
        times[row_key(row)].append(row["ms_per_step"])
    return dict(times)


def judged(found: Sequence[Change], level: float = LEVEL, least: float = LEAST) -> list[Change]:
    """Return the changes with verdicts: "slower" or "faster" if a change is large and beyond noise, otherwise "same".

    Noise is judged with Holm's correction for multiple tests. The p-values of the N changes are sorted in ascending order, and p-value k
    (k = 0, 1, ...) is compared with the limit level / (N - k). The first change whose p-value is above its limit gets the verdict "same",
    and so do all changes after it.

    The changes before it are beyond noise. Their verdict is "slower" if the ratio (the candidate's time divided by the baseline's time) is
    at least 1 + `least`, "faster" if the ratio is at most 1 / (1 + `least`), and otherwise "same".

    Args:
        found: changes without verdicts.
        level: family-wise significance level, that is, the accepted probability of any false alarm in all tests together.
        least: smallest relative change that counts, such as 0.03.
    """
    verdicts: dict[int, Verdict] = {}
    order = sorted(range(len(found)), key=lambda n: found[n].p)
    for rank, n in enumerate(order):
        if found[n].p > level / (len(found) - rank):
            break
        if abs(math.log(found[n].ratio)) >= math.log1p(least):
            verdicts[n] = "slower" if found[n].ratio > 1 else "faster"
    return [replace(change, verdict=verdicts.get(n, "same")) for n, change in enumerate(found)]


def add_test_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags `--level` (significance level) and `--least` (smallest change that counts) to a parser."""
    parser.add_argument("--level", type=float, default=LEVEL, help=f"significance level; {LEVEL} if not given")
    parser.add_argument("--least", type=float, default=LEAST, help=f"smallest change that counts; {LEAST} if not given")


def main() -> int:
    """Print the changes between the two sets of results, and return the exit code: 1 if this project is slower on a workload, else 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("baseline", help="a file of rows, or a commit")
    parser.add_argument("candidate", help="a file of rows, or a commit")
    add_test_flags(parser)
    options = parser.parse_args()
    found = changes(timed_rows(options.baseline), timed_rows(options.candidate), options.level, options.least)
    for change in found:
        print(change)
    slower = [change.workload for change in found if change.verdict == "slower" and change.peer.split(":")[0] == OURS]
    print(f"{len(found)} compared; this project slower in {len(slower)}" + (f": {', '.join(slower)}" if slower else ""))
    return 1 if slower else 0
