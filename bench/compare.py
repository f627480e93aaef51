"""What became faster or slower between two sets of rows of `bench.throughput`, beyond noise.

    python -m bench compare OLD NEW                 # files of rows, or commits in bench/results/throughput.jsonl
    python -m bench compare 32f0c1 HEAD.jsonl --least 0.05

For each workload and side that both have, an exact permutation test (Fisher 1935) of the mean logarithm of the processes' times. Beyond
noise is what it gives less than `--level` once the number of workloads and sides is allowed for (Holm 1979), and what exceeds `--least`.
On a machine that is not quiet `bench.duel` sees smaller changes.
Exit code 1 if this project became slower somewhere, 2 for rows that cannot be compared.
"""

import argparse
import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any, Literal

import numpy as np

from bench.sides import BASE, row_key
from bench.throughput import PATH, kept, rows_in
from bench.timing import ratio_interval
from lstm_jax.errors import InputError, require

LEVEL, LEAST = 0.02, 0.03
EXACT = 20_000
"""Ways to divide the processes up to which all are looked at, and else how many are drawn."""
Verdict = Literal["faster", "slower", "same"]


def permutation_p(old: Sequence[float], new: Sequence[float], seed: int = 0) -> float:
    """How often, of all ways to divide these times into two sides of these sizes, mean logarithms lie as far apart as here; two-sided."""
    logs, n = np.log([*old, *new]), len(old)
    total = logs.sum()

    def apart(sums: np.ndarray) -> np.ndarray:
        return np.abs(sums / n - (total - sums) / (len(logs) - n))

    if math.comb(len(logs), n) <= EXACT:
        sums = np.array([logs[list(chosen)].sum() for chosen in combinations(range(len(logs)), n)])
        return float((apart(sums) >= apart(logs[:n].sum()) - 1e-12).mean())
    rng = np.random.default_rng(seed)
    sums = np.array([rng.permutation(logs)[:n].sum() for _ in range(EXACT)])
    return float(((apart(sums) >= apart(logs[:n].sum()) - 1e-12).sum() + 1) / (EXACT + 1))


@dataclass(frozen=True)
class Change:
    """Of a workload and side: new time over old with its 95 % interval, the test's p, and what it comes to."""

    workload: str
    side: str
    ratio: float
    low: float
    high: float
    p: float
    verdict: Verdict = "same"


def rows_of(text: str, path: Path = PATH) -> list[dict[str, Any]]:
    """Timed rows of a file, or of a commit among the rows of `path`.

    Raises:
        InputError: if there are none.
    """
    if Path(text).is_file():
        found = [row for row in kept(rows_in(Path(text))) if "ms_per_step" in row]
    else:
        found = [row for row in kept(row for row in rows_in(path) if row["git"].startswith(text)) if "ms_per_step" in row]
    require(bool(found), "rows", text, f"give a file of rows, or a commit that {path.name} has timed rows of")
    return found


def changes(old: list[dict[str, Any]], new: list[dict[str, Any]], level: float = LEVEL, least: float = LEAST) -> list[Change]:
    """Of every workload and side that both have.

    Raises:
        InputError: if the rows are of several machines, or have nothing in common.
    """
    machines = sorted({f"{row['cpu']}, {row['cores']} cores, {', '.join(row['devices'])}" for row in old + new if row["peer"] == BASE})
    require(len(machines) <= 1, "machines", " and ".join(machines), "compare rows of one machine")
    times: tuple[defaultdict[tuple, list[float]], ...] = (defaultdict(list), defaultdict(list))
    names = {}
    for side, rows in zip(times, (old, new), strict=True):
        for row in rows:
            side[row_key(row)].append(row["ms_per_step"])
            names[row_key(row)] = row["workload"], row.get("side", row["peer"])
    shared = [key for key in times[0] if key in times[1]]
    if not shared:
        raise InputError("rows", f"{len(old)} old, {len(new)} new", "give rows that have a workload and a side in common")
    found = []
    for key in shared:
        before, after = times[0][key], times[1][key]
        work, side = names[key]
        ratio, low, high = ratio_interval(after, before)
        found.append(Change(work, side, ratio, low, high, permutation_p(before, after)))
    return judged(found, level, least)


def judged(found: list[Change], level: float = LEVEL, least: float = LEAST) -> list[Change]:
    """Holm's procedure: the k-th smallest p against level / (number - k), up to the first that is larger."""
    verdicts: dict[int, Verdict] = {}
    order = sorted(range(len(found)), key=lambda n: found[n].p)
    for rank, n in enumerate(order):
        if found[n].p > level / (len(found) - rank):
            break
        if abs(math.log(found[n].ratio)) >= math.log1p(least):
            verdicts[n] = "slower" if found[n].ratio > 1 else "faster"
    return [replace(change, verdict=verdicts.get(n, "same")) for n, change in enumerate(found)]


def told(change: Change) -> str:
    """A line."""
    line = f"{change.workload:<28} {change.side:<28} {change.ratio:.3f} of the old time ({change.low:.3f} to {change.high:.3f})"
    return f"{line}, p {change.p:.3f}: {change.verdict}"


def main() -> int:
    """Print, and the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old", help="a file of rows, or a commit")
    parser.add_argument("new", help="likewise")
    parser.add_argument("--level", type=float, default=LEVEL, help=f"of the test; {LEVEL} if not given")
    parser.add_argument("--least", type=float, default=LEAST, help=f"the smallest change worth a word; {LEAST} if not given")
    options = parser.parse_args()
    found = changes(rows_of(options.old), rows_of(options.new), options.level, options.least)
    for change in found:
        print(told(change))
    slower = [change.workload for change in found if change.verdict == "slower" and change.side.split(":")[0] == BASE]
    print(f"{len(found)} compared; this project slower in {len(slower)}" + (f": {', '.join(slower)}" if slower else ""))
    return 1 if slower else 0
