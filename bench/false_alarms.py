"""How often `duel` is wrong: this project against itself, and against itself made slower on purpose.

    python -m bench false_alarms                # 19 minutes on two cores
    python -m bench false_alarms --report

Twenty comparisons of the same, each of fresh processes of its own, and in the first ten of them a third side that waits for a tenth of its
time after each call, against the same old one. Sides, rounds and verdicts are those of `bench.duel`.
"""

import argparse
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from bench import RESULTS, compare, duel
from bench.axes import works_of
from bench.compile import variables
from bench.sides import BASE, Side
from bench.throughput import commit
from lstm_jax.sweep import progress
from lstm_jax.sweep.rows import append_rows, read_rows

PATH = RESULTS / "false_alarms.jsonl"
ALIKE, SLOWED, SHARE = 20, 10, 0.1
"""Comparisons of the same, and of the slower one; by how much it is slower."""
SIDES = {"old": Side("old", BASE), "new": Side("new", BASE), "slower": Side("slower", BASE, slower=SHARE)}


def sides_of(comparison: int, slowed: int = SLOWED) -> dict[str, Side]:
    """Those that take turns in a comparison."""
    return {name: one for name, one in SIDES.items() if name != "slower" or comparison < slowed}


def verdicts(rows: Iterable[Mapping[str, Any]]) -> dict[str, list[compare.Change]]:
    """Of "new" and of "slower", each comparison's change against its old side."""
    rounds: dict[int, dict[int, dict[str, Any]]] = defaultdict(lambda: defaultdict(dict))
    for row in rows:
        rounds[row["comparison"]][row["round"]][row["side"]] = row
    found: dict[str, list[compare.Change]] = {"new": [], "slower": []}
    for those in rounds.values():
        for name, changes in found.items():
            ratios = [duel.ratio(sides["old"], sides[name]) for sides in those.values() if name in sides]
            if ratios:
                changes += compare.judged([duel.change("A", name, ratios)])
    return found


def report(rows: Iterable[Mapping[str, Any]]) -> None:
    """Print every comparison and how many were called."""
    found = verdicts(rows)
    for name, changes in found.items():
        for number, one in enumerate(changes):
            print(f"{number:>2} {name:<6} {one.ratio:.3f} of the old time ({one.low:.3f} to {one.high:.3f}), p {one.p:.3f}: {one.verdict}")
    called = sum(one.verdict != "same" for one in found["new"])
    caught = sum(one.verdict == "slower" for one in found["slower"])
    print(f"the same called different in {called} of {len(found['new'])} comparisons")
    print(f"{100 * SHARE:.0f} % slower found in {caught} of {len(found['slower'])}")


def main() -> None:
    """Measure what is missing, and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workload", default="A")
    parser.add_argument("--report", action="store_true", help="measure nothing")
    parser.add_argument("--commit", default=None, help="whose rows to report; this checkout's if not given")
    parser.add_argument("--results", type=Path, default=PATH)
    options = parser.parse_args()
    sha = options.commit or commit()
    (work,) = works_of([options.workload], {})
    rows = [row for row in read_rows(options.results) if row["git"] == sha and row["workload"] == work.name]
    done = {(row["comparison"], row["round"]) for row in rows}
    wanted = [(comparison, number) for comparison in range(ALIKE) for number in range(duel.ROUNDS)]
    runs = [] if options.report else [run for run in wanted if run not in done]
    with tempfile.TemporaryDirectory() as folder, progress.bar("rounds", len(runs)) as advance:
        for comparison, number in runs:
            found = duel.round_of(sides_of(comparison), work, variables(folder))
            about = {"comparison": comparison, "round": number, "workload": work.name, "git": sha}
            new = [about | {"side": name} | row for name, row in found.items()]
            append_rows(options.results, *new)
            rows += new
            told = ", ".join(f"{name} {duel.ratio(found['old'], row):.3f}" for name, row in found.items() if name != "old")
            advance(f"comparison {comparison}, round {number}: {told} of the old time")
    report(rows)
