"""Time to draw characters from the model of the Keras example lstm_text_generation, with this project and with calls of Keras' `predict`.

    python -m bench sampling                            # 5 rounds, about 5 minutes on two idle cores
    python -m bench sampling --preset quick --units 64,256 --samples 1,16 --chars 100
    python -m bench sampling --report
    python -m bench sampling --first-round 5            # five more rounds, for example on another machine or version

In each round, a fresh process of Keras and a fresh process of this project run one after the other. Compilation is not timed. Both
libraries load the same weights from a file, which the first process of Keras writes. Measurements whose results are already in the result
file are skipped, whatever their commit.

This project draws in two modes. In the mode "carried", the state is carried from character to character. In the mode "window", the model
reads the last 40 characters for each new character, as Keras does.
"""

import argparse
import tempfile
from collections import defaultdict
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import RESULTS, make_parser, read_flags, timing
from bench.schema import SAMPLING, check, make_row, rows_of
from bench.summary import CONFIDENCE, ends_text, ratio_interval, speedup_text
from bench.workloads import CHARS, read_sizes
from lstm_jax.errors import require
from lstm_jax.sweep.missing import run_missing

PATH = RESULTS / "sampling.jsonl"
MODULES = {"keras_jax": "bench.peers.keras_tasks", "ours": "bench.peers.ours_tasks"}
ROUNDS = {"quick": 1, "standard": 5, "full": 10}
LOOP, MODES = "predict loop", ("carried", "window")
Row = dict[str, Any]


@dataclass(frozen=True)
class Run:
    """Description of one process, which measures how long a library takes to draw characters.

    Attributes:
        peer: library, "keras_jax" or "ours".
        units: hidden size of the model.
        chars: number of characters to draw for each text.
        round: number of the round. In each round, each library runs once at each hidden size.
    """

    peer: str
    units: int
    chars: int
    round: int

    def __str__(self) -> str:
        return f"{self.units} units, round {self.round}, {self.peer}"

    def methods(self, samples: Iterable[int]) -> list[str]:
        """Return the names of the methods that this process times: the value of "method" in each of its result rows."""
        counts = sorted({1, *samples})
        return [method_of(mode, count) for mode in MODES for count in counts] if self.peer == "ours" else [LOOP]

    def measure(self, folder: str, samples: Sequence[int], known: Container[str] = ()) -> list[Row]:
        """Run a fresh process that times the drawing of characters, and return its result rows."""
        weights = Path(folder) / f"{self.units}.weights.h5"
        if self.peer == "ours" and not weights.exists():  # an earlier call measured Keras, and its file of weights is gone
            self._run("keras_jax", weights, 1)
        about = {"round": self.round, "units": self.units, "chars": self.chars, "cores": timing.CORES, "load": timing.load()}
        flags = ["--samples", *map(str, samples)] if self.peer == "ours" else []
        rows = self._run(self.peer, weights, self.chars, *flags)
        return [make_row(SAMPLING, **about | row) for row in rows if row["method"] not in known]

    def _run(self, peer: str, weights: Path, chars: int, *flags: str) -> list[Row]:
        common = ["--weights", str(weights), "--units", str(self.units), "--chars", str(chars)]
        return timing.run_module([MODULES[peer], "sampling", *common, *flags])


def method_of(mode: str, count: int) -> str:
    """Return the value of the field "method" of a result row of this project, such as "window" or "window, 16 samples"."""
    return mode if count == 1 else f"{mode}, {count} samples"


def run_of(row: Row) -> Run:
    """Return the `Run` that a sampling result row belongs to."""
    return Run(row["peer"], row["units"], row["chars"], row["round"])


def report(rows: Iterable[Row], units: int, samples: Sequence[int]) -> None:
    """Print our speedup over Keras' `predict` loop, and the time to draw several texts in one call relative to that of one."""
    times: dict[str, list[float]] = {}
    for row in rows:
        times.setdefault(row["method"], []).append(row["seconds"])
    require(
        {LOOP, *MODES} <= times.keys(), "rows", f"{units} units: methods {sorted(times)}", "measure first, or report rounds that have rows"
    )
    for mode in MODES:
        interval = ratio_interval(times[LOOP], times[mode])
        print(f"{units} units, {mode}: speedup over Keras' predict loop {speedup_text(interval, 1, CONFIDENCE)}")
        for count in samples:
            if count > 1 and method_of(mode, count) in times:
                interval = ratio_interval(times[method_of(mode, count)], times[mode])
                text = f"{interval[0]:.2f} times the time of one{ends_text(interval, label=CONFIDENCE)}"
                print(f"{units} units, {mode}: {count} samples take {text}")


def _parse() -> argparse.Namespace:
    parser = make_parser(__doc__, PATH)
    parser.add_argument("--preset", choices=list(ROUNDS), default="standard")
    parser.add_argument("--rounds", type=int, help="the preset's if not given")
    parser.add_argument("--first-round", type=int, default=0, help="measure and report rounds from this number on")
    parser.add_argument("--units", type=read_sizes, default=(128,), help="sizes, as in 64,128 or 32..256")
    parser.add_argument("--samples", type=read_sizes, default=(1, 64), help="texts at once; one is always measured")
    parser.add_argument("--chars", type=int, default=CHARS, help="characters of a text")
    return read_flags(parser)


def main() -> None:
    """Run the processes that have no results yet, unless `--report` is given, and print the report."""
    options = _parse()
    rounds = range(options.first_round, options.first_round + (options.rounds or ROUNDS[options.preset]))
    runs = [Run(peer, units, options.chars, number) for units in options.units for number in rounds for peer in MODULES]

    def describe(run: Run, rows: Sequence[Row]) -> str:
        return "; ".join(f"{run}, {row['method']}: {row['seconds']:.3f} s" for row in rows)

    known: dict[Run, set[str]] = defaultdict(set)
    for row in rows_of(options.results, SAMPLING):
        known[run_of(row)].add(row["method"])
    wanted = {} if options.report else {run: run for run in runs if not known[run].issuperset(run.methods(options.samples))}
    with tempfile.TemporaryDirectory() as folder:

        def measure(run: Run) -> list[Row]:
            return run.measure(folder, options.samples, known[run])

        run_missing(options.results, wanted, lambda row: None, measure, "processes", describe, check)
    rows = [row for row in rows_of(options.results, SAMPLING) if row["round"] in rounds and row["chars"] == options.chars]
    for units in options.units:
        report([row for row in rows if row["units"] == units], units, options.samples)
