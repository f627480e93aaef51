"""Time to draw characters from the model of the Keras example lstm_text_generation,
with this project and with calls of Keras' `predict`.

    # 5 rounds, about 5 minutes on two idle cores
    python -m bench sampling
    python -m bench sampling --rounds 1 --units 64,256 --samples 1,16 --chars 100
    python -m bench sampling --report
    # five more rounds, for example on another machine or version
    python -m bench sampling --first-round 5

In each round, a fresh process of Keras and one of this project run one after the other,
with the same weights; compilation is not timed. Results in the file are not measured
again, whatever their commit. This project carries the state from character to character
(mode "carried"), or reads the last 40 characters for each new one, as Keras does
("window").
"""

import tempfile
from collections.abc import Sequence
from functools import cache
from itertools import product
from pathlib import Path

from bench import RESULTS, add_flags, groups, make_parser, read_flags, timing
from bench.peers import TASKS
from bench.schema import SAMPLING, Row, Rows
from bench.summary import CONFIDENCE, ends_text, ratio_interval, speedup_text
from bench.workloads import CHARS, read_sizes
from lstm_jax.base.errors import require

PATH = RESULTS / "sampling.jsonl"
LOOP, MODES = "predict loop", ("carried", "window")


def method_of(mode: str, count: int) -> str:
    """Return the value of the field "method" of a result row of this project, such as
    "window" or "window, 16 samples".
    """
    return mode if count == 1 else f"{mode}, {count} samples"


def report(rows: Rows, units: int, samples: Sequence[int]) -> None:
    """Print our speedup over Keras' `predict` loop, and the time to draw several texts
    in one call relative to that of one.
    """
    times = {
        method: [row["seconds"] for row in own]
        for (method,), own in groups(rows, ["method"]).items()
    }
    complete = {LOOP, *MODES} <= times.keys()
    require(
        complete,
        "rows",
        f"{units} units: methods {sorted(times)}",
        "measure first, or report rounds that have rows",
    )
    for mode in MODES:
        interval = ratio_interval(times[LOOP], times[mode])
        print(
            f"{units} units, {mode}: speedup over Keras' predict loop "
            f"{speedup_text(interval, 1, CONFIDENCE)}"
        )
        for count in samples:
            if count > 1 and method_of(mode, count) in times:
                interval = ratio_interval(times[method_of(mode, count)], times[mode])
                ends = ends_text(interval, label=CONFIDENCE)
                print(
                    f"{units} units, {mode}: {count} samples take "
                    f"{interval[0]:.2f} times the time of one{ends}"
                )


def main() -> None:
    """Run the processes that have no results yet, unless `--report` is given, and print
    the report.
    """
    parser = make_parser(__doc__, PATH, of_commits=False)
    add_flags(
        parser,
        int,
        rounds="number of rounds",
        first_round="measure and report rounds from this number on",
        chars="characters of a text",
    )
    add_flags(
        parser,
        read_sizes,
        units="sizes, as in 64,128 or 32..256",
        samples="texts at once; one is always measured",
    )
    parser.set_defaults(
        rounds=5, first_round=0, chars=CHARS, units=(128,), samples=(1, 64)
    )
    options = read_flags(parser)
    rounds = range(options.first_round, options.first_round + options.rounds)
    methods = {LOOP: "keras_jax"} | {
        method_of(mode, count): "ours"
        for mode in MODES
        for count in sorted({1, *options.samples})
    }
    items = [
        {
            "units": units,
            "round": number,
            "peer": peer,
            "chars": options.chars,
            "method": method,
        }
        for units, number, (method, peer) in product(
            options.units, rounds, methods.items()
        )
    ]

    @cache
    def drawn(peer: str, units: int, number: int, chars: int):
        """Run the process of a round once for all its methods."""
        weights = Path(folder) / f"{units}.weights.h5"
        # an earlier call measured Keras, and its file of weights is gone
        if peer == "ours" and not weights.exists():
            drawn("keras_jax", units, number, 1)
        given: Row = {"weights": str(weights), "units": units, "chars": chars}
        if peer == "ours":
            given["samples"] = options.samples
        return timing.run_function(f"{TASKS[peer]}:sampling_rows", **given)

    def measure(item: Row):
        rows = drawn(item["peer"], item["units"], item["round"], options.chars)
        return [row for row in rows if row["method"] == item["method"]]

    with tempfile.TemporaryDirectory() as folder:
        rows = timing.measure_missing(
            options.results,
            SAMPLING,
            items,
            measure,
            lambda rows: f"{rows[0]['seconds']:.3f} s",
            not options.report,
        )
    for units in options.units:
        report([row for row in rows if row["units"] == units], units, options.samples)
