"""Seconds to draw characters from the source's model, this project's against a loop of Keras' `predict`, same weights.

    python -m bench generation                            # 5 pairs, about 5 minutes on two quiet cores
    python -m bench generation --preset quick --units 64,256 --samples 1,16 --chars 100
    python -m bench generation --report
    python -m bench generation --first-pair 5             # another five, on another machine or version

Interleaved fresh processes, after compilation. Both sides load the weights of one file, which the first process writes.
"""

import argparse
import tempfile
from pathlib import Path
from typing import Any

from bench import RESULTS, timing
from bench.axes import sizes
from bench.generation_data import CHARS
from lstm_jax.errors import InputError, require
from lstm_jax.sweep import progress
from lstm_jax.sweep.rows import append_rows, read_rows

PATH = RESULTS / "generation.jsonl"
SIDES = {"keras-jax": "bench.peers.keras_drawing", "lstm_jax": "bench.peers.ours_drawing"}
PAIRS = {"quick": 1, "standard": 5, "full": 10}
UNITS, SAMPLES = 128, (1, 64)
"""Of the rows that have neither."""


def of(row: dict[str, Any], units: int, chars: int) -> bool:
    """Whether a row is of this model and this many characters."""
    return (row.get("units", UNITS), row.get("chars", CHARS)) == (units, chars)


def report(rows: list[dict[str, Any]], units: int, chars: int, samples: tuple[int, ...]) -> None:
    """Print the ratios.

    Raises:
        InputError: if there are no rows of both sides.
    """
    times: dict[str, list[float]] = {}
    for row in rows:
        times.setdefault(row["way"], []).append(row["seconds"])
    if not {"predict loop", "carried", "window"} <= times.keys():
        raise InputError("rows", f"{units} units, {chars} characters: {len(rows)}", "measure first, or report pairs that have been")
    for mode in ("carried", "window"):
        ratio, low, high = timing.ratio_interval(times["predict loop"], times[mode])
        print(f"{units} units, {mode}: {ratio:.1f} times faster than Keras' predict loop (95 % interval {low:.1f} to {high:.1f})")
        for count in samples:
            if f"{mode}, {count} samples" in times:
                ratio, low, high = timing.ratio_interval(times[f"{mode}, {count} samples"], times[mode])
                print(f"{units} units, {mode}: {count} samples cost {ratio:.2f} times one (95 % interval {low:.2f} to {high:.2f})")


def main() -> None:
    """Measure what is missing of the pairs, and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=list(PAIRS), default="standard")
    parser.add_argument("--pairs", type=int, help="the preset's if not given")
    parser.add_argument("--first-pair", type=int, default=0, help="measure and report pairs from this number on")
    parser.add_argument("--units", type=sizes, default=(UNITS,), help="sizes, as in 64,128 or 32..256")
    parser.add_argument("--samples", type=sizes, default=SAMPLES, help="texts at once; one is always measured")
    parser.add_argument("--chars", type=int, default=CHARS)
    parser.add_argument("--report", action="store_true", help="measure nothing")
    parser.add_argument("--results", type=Path, default=PATH)
    options = parser.parse_args()
    require(options.chars >= 1, "chars", options.chars, "give 1 or more")
    pairs = range(options.first_pair, options.first_pair + (options.pairs or PAIRS[options.preset]))
    there = list(read_rows(options.results))
    done = {(row["side"], row["pair"], units) for row in there for units in options.units if of(row, units, options.chars)}
    runs = [] if options.report else [(u, n, s) for u in options.units for n in pairs for s in SIDES if (s, n, u) not in done]
    with tempfile.TemporaryDirectory() as folder, progress.bar("processes", len(runs)) as advance:
        for units, pair, side in runs:
            about = {"side": side, "pair": pair, "units": units, "chars": options.chars, "cores": timing.CORES, "load": timing.load()}
            asked = ["--weights", f"{folder}/{units}.weights.h5", "--units", str(units), "--chars", str(options.chars)]
            asked += ["--samples", *map(str, options.samples)] if side == "lstm_jax" else []
            rows = timing.run_module([SIDES[side], *asked])
            append_rows(options.results, *(about | row for row in rows))
            advance("; ".join(f"{units} units, pair {pair}, {side}, {row['way']}: {row['seconds']:.3f} s" for row in rows))
    rows = [row for row in read_rows(options.results) if row["pair"] in pairs]
    for units in options.units:
        report([row for row in rows if of(row, units, options.chars)], units, options.chars, options.samples)
