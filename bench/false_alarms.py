"""How often `compare` is wrong: this project against itself, and against itself made slower on purpose.

    python -m bench false_alarms                # about half an hour on two cores
    python -m bench false_alarms --report

Each comparison has fresh processes of its own, the sides in turn: twenty of old against new, which are the same, and in the first ten of
them a third side that waits for a tenth of its time after each call, against the same old one. A noisy process is run again, as in
`bench.throughput`. The verdicts are those of `bench.compare` for sides that ran in turn. All processes share what is compiled, which is
the same and not what is timed.
"""

import argparse
import tempfile
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from bench import compare, progress, results, timing
from bench.axes import works_of
from bench.compile import variables
from bench.sides import BASE, Side
from bench.throughput import TRIES, attempt, commit, fastest_probe, noise
from lstm_jax.errors import InputError

PATH = results.RESULTS / "false_alarms.jsonl"
ALIKE, SLOWED, SHARE = 20, 10, 0.1
"""Comparisons of the same, and of the slower one; by how much it is slower."""
PROCESSES = 8
"""A side of a comparison."""
KEPT = ("ms_per_step", "samples", "probe_gflops", "noisy", "cpu", "slower", "cores", "load")
SIDES = {"old": Side("old", BASE), "new": Side("new", BASE), "slower": Side("slower", BASE, slower=SHARE)}


def wanted(alike: int, slowed: int, processes: int) -> list[tuple[int, int, str]]:
    """Comparison, number and side of every process, in the order in which they run."""
    return [
        (comparison, number, name)
        for comparison in range(alike)
        for number in range(processes)
        for name in SIDES
        if name != "slower" or comparison < slowed
    ]


def verdicts(rows: Iterable[dict[str, Any]]) -> dict[str, list[compare.Change]]:
    """Of "new" and of "slower", each comparison's change against its old side."""
    times: dict[int, dict[str, dict[int, float]]] = defaultdict(lambda: defaultdict(dict))
    for row in rows:
        times[row["comparison"]][row["side"]][row["round"]] = row["ms_per_step"]
    found: dict[str, list[compare.Change]] = {"new": [], "slower": []}
    for sides in times.values():
        for name, changes in found.items():
            rounds = sorted(sides["old"].keys() & sides[name].keys())
            if rounds:
                old, new = ([sides[side][number] for number in rounds] for side in ("old", name))
                changes += compare.judged([compare.change("A", name, old, new, paired=True)])
    return found


def report(rows: Iterable[dict[str, Any]]) -> None:
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
    parser.add_argument("--seconds", type=float, default=0.7)
    parser.add_argument("--report", action="store_true", help="measure nothing")
    parser.add_argument("--commit", default=None, help="whose rows to report; this checkout's if not given")
    parser.add_argument("--results", type=Path, default=PATH)
    options = parser.parse_args()
    sha = options.commit or commit()
    (work,) = works_of([options.workload], {})
    rows = [row for row in results.read(options.results) if row["git"] == sha and row["workload"] == work.name]
    done = {(row["comparison"], row["round"], row["side"]) for row in rows}
    runs = [] if options.report else [run for run in wanted(ALIKE, SLOWED, PROCESSES) if run not in done]
    fastest = fastest_probe() if runs else 0.0
    with tempfile.TemporaryDirectory() as folder, progress.bar("processes", len(runs)) as advance:
        for comparison, number, name in runs:
            row: dict[str, Any] = {}
            for _ in range(TRIES):
                machine = {"cores": timing.CORES, "load": timing.load()}
                # unchecked: what it computes is the same on all sides
                row = machine | attempt(SIDES[name], work, 0.0, Path(), options.seconds, variables(folder))
                if "error" in row:
                    raise InputError("process", row["error"], "see what it said above; the rows so far are kept")
                fastest = max([fastest, *row["probe_gflops"]])
                row["noisy"] = noise(row, fastest)
                if not row["noisy"]:
                    break
            kept = {field: row[field] for field in KEPT if field in row}
            about = {"comparison": comparison, "round": number, "side": name, "workload": work.name, "git": sha}
            rows.append(about | kept)
            results.append(options.results, rows[-1])
            advance(f"comparison {comparison}, {name}: {row['ms_per_step']:.3f} ms")
    report(rows)
