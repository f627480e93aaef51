"""How time and memory of the recurrence, forward and backward, grow with T, H and B: each varied alone about T 80, H 128, B 32 (E = H).

    python -m bench scaling                        # about 3 minutes on two quiet cores
    python -m bench scaling --report

On one CPU device that has both cores, and on two with a core each; fresh processes, rounds over all points in turn. Rows that are there
already, of the same commit, are skipped. Prints exponents: of time by a log-log fit, and from the last two sizes alone; of memory by a fit
of constant + factor * size ** exponent, since JAX and its compiler need much of their own. Draws
experiments/figures/time_and_memory.png and .svg.
"""

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bench import RESULTS, timing
from bench.memory import exponent
from bench.peer import Options
from bench.throughput import commit
from bench.worker import measure, peak_mib
from bench.workloads import LETTERS, make_arrays, workload
from lstm_jax.inspection import plots
from lstm_jax.sweep.rows import append_rows, read_rows

PATH = RESULTS / "scaling.jsonl"
FIGURE = Path(__file__).parents[1] / "experiments" / "figures" / "time_and_memory.png"
MIDDLE = {"T": 80, "H": 128, "B": 32}
GRID = {"T": (20, 40, 80, 160, 320, 640, 1280), "H": (32, 64, 128, 256, 512, 1024), "B": (8, 16, 32, 64, 128, 256, 512)}
NAMES = {"T": "steps T", "H": "units H, features E = H", "B": "rows B"}
DEVICES = (1, 2)
Sizes = dict[str, int]


@dataclass(frozen=True)
class Curve:
    """Of the size `letter` on so many devices, in the order of `sizes`: medians of milliseconds a step and of MiB at most."""

    letter: str
    devices: int
    sizes: list[int]
    ms: list[float]
    mib: list[float]


def points(grid: dict[str, Sequence[int]], middle: Sizes) -> Iterator[Sizes]:
    """Each once."""
    seen = []
    for letter, sizes in grid.items():
        for size in sizes:
            point = middle | {letter: size}
            if point not in seen:
                seen.append(point)
                yield point


def row(point: Sizes, devices: int, seconds: float) -> dict[str, Any]:
    """Time the point in this process."""
    from bench.peers import ours
    from lstm_jax.runtime.sharding import make_mesh
    from lstm_jax.training.run_folder import environment

    sized = workload("recurrence:" + ",".join(f"{letter}={size}" for letter, size in point.items()))
    built = ours.build(sized, make_arrays(sized), Options(devices=devices))
    built.run(1)  # compiles
    steps, samples = measure(built.run, seconds, built.block_seconds)
    peak = peak_mib()
    sizes = {letter: getattr(sized, name) for letter, name in LETTERS.items()}
    found = {"ms_per_step": float(np.median(samples)), "peak_mib": peak, "steps_per_block": steps, "samples": samples}
    return sizes | found | {"backend_ran": built.backend} | environment(make_mesh()) | {"devices": devices}


def sweep(wanted: Sequence[tuple[int, Sizes, int]], seconds: float, path: Path, sha: str) -> None:
    """Measure what is missing of (round, point, devices)."""
    done = [known(line) for line in read_rows(path) if line["git"] == sha]
    for number, point, devices in wanted:
        asked = {"round": number, "devices": devices} | point
        if any(asked.items() <= line.items() for line in done):
            continue
        load = timing.load()
        here = ["bench", "scaling", "--here", json.dumps(point), "--devices", str(devices), "--seconds", str(seconds)]
        line = {"git": sha, "round": number, "cores": timing.CORES, "load": load} | timing.run_module(here)[-1]
        append_rows(path, line)
        shown = ", ".join(f"{letter} {size}" for letter, size in point.items())
        print(f"round {number}, {shown}, devices {devices}: {line['ms_per_step']:.3f} ms, {line['peak_mib']:.0f} MiB", flush=True)


def known(line: dict[str, Any]) -> dict[str, int]:
    """By which a row is known."""
    return {name: line[name] for name in ("round", "devices", *MIDDLE)}


def curves(rows: Sequence[dict[str, Any]], middle: Sizes, devices: Sequence[int]) -> Iterator[Curve]:
    """Those of which two points or more are there."""
    for letter in middle:
        for count in devices:
            others = {"devices": count} | {name: size for name, size in middle.items() if name != letter}
            found = [line for line in rows if others.items() <= line.items()]
            sizes = sorted({line[letter] for line in found})
            at = [[line for line in found if line[letter] == size] for size in sizes]
            ms, mib = ([float(np.median([line[name] for line in lines])) for lines in at] for name in ("ms_per_step", "peak_mib"))
            if len(sizes) > 1:
                yield Curve(letter, count, sizes, ms, mib)


def exponent_above_constant(sizes: Sequence[float], values: Sequence[float]) -> float:
    """p of constant + factor * size ** p, by least squares of relative errors over p from 0.2 to 3."""
    n, y = np.asarray(sizes, float), np.asarray(values, float)

    def miss(power: float) -> float:
        terms = np.stack([1 / y, (n / n.max()) ** power / y], 1)
        best = np.linalg.lstsq(terms, np.ones_like(y), rcond=None)[0]
        return float(((terms @ best - 1) ** 2).sum())

    return float(min(np.arange(0.2, 3, 0.01), key=miss))


def said(curve: Curve) -> str:
    """A line of the report."""
    last = exponent(curve.sizes[-2:], curve.ms[-2:])
    line = (
        f"{curve.letter} {curve.sizes[0]} to {curve.sizes[-1]}, devices {curve.devices}: time {curve.ms[0]:.3f} to {curve.ms[-1]:.3f} ms, "
    )
    line += f"as {curve.letter} ** {exponent(curve.sizes, curve.ms):.2f} (last two sizes {last:.2f}); "
    line += f"memory {curve.mib[0]:.0f} to {curve.mib[-1]:.0f} MiB"
    grown = len(curve.sizes) > 3
    return line + (f", above a constant as {curve.letter} ** {exponent_above_constant(curve.sizes, curve.mib):.2f}" if grown else "")


def draw(found: Sequence[Curve], path: Path, title: str) -> None:
    """Time above, memory below, a column a size, both axes logarithmic."""
    from matplotlib.ticker import LogLocator

    letters = list(dict.fromkeys(curve.letter for curve in found))

    def fill(figure: Any) -> None:
        figure.suptitle(title, x=0.01, ha="left")
        panels = figure.subplots(2, len(letters), squeeze=False, sharex="col", sharey="row")
        for column, letter in enumerate(letters):
            for curve in (curve for curve in found if curve.letter == letter):
                colour, word = ("#0072B2", "device") if curve.devices == 1 else ("#D55E00", "devices")
                power = exponent(curve.sizes, curve.ms)
                label = f"{curve.devices} {word}: {letter} to the {power:.2f}"
                panels[0, column].loglog(curve.sizes, curve.ms, color=colour, marker="o", ms=4, label=label)
                panels[1, column].loglog(curve.sizes, curve.mib, color=colour, marker="o", ms=4)
                for axes in panels[:, column]:
                    plots.log_axis(axes, "x", curve.sizes)
            panels[0, column].legend(fontsize=9)
            panels[1, column].set_xlabel(NAMES[letter])
        for axes in panels[:, 0]:
            plots.log_axis(axes, "y")
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5, 7)))
        panels[0, 0].set_ylabel("ms, forward and backward")
        panels[1, 0].set_ylabel("MiB at most, JAX included")

    plots.write_figure(path, (11.5, 6.5), fill)


def _sizes(text: str) -> dict[str, Sequence[int]]:
    """T=20:40,H=32:64 -> sizes a letter."""
    return {part.split("=")[0]: tuple(int(size) for size in part.split("=")[1].split(":")) for part in text.split(",")}


def main() -> None:
    """Measure what is missing, report, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--grid", type=_sizes, default=GRID, help="as in T=20:40:80,H=32:64")
    parser.add_argument("--middle", type=_sizes, default={}, help="as in T=80,H=128,B=32")
    parser.add_argument("--devices", type=int, nargs="+", default=DEVICES)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=1.0, help="timed in each process")
    parser.add_argument("--report", action="store_true", help="measure nothing")
    parser.add_argument("--commit", default=None, help="whose rows to report; this checkout's if not given")
    parser.add_argument("--results", type=Path, default=PATH)
    parser.add_argument("--figure", type=Path, default=FIGURE)
    parser.add_argument("--here", type=json.loads, metavar="POINT", help="measure in this process")
    options = parser.parse_args()
    if options.here:
        print(json.dumps(row(options.here, options.devices[0], options.seconds)))
        return
    middle = MIDDLE | {letter: sizes[0] for letter, sizes in options.middle.items()}
    sha = options.commit or commit()
    if not options.report:
        each = list(points(options.grid, middle))
        wanted = [(number, point, devices) for number in range(options.rounds) for point in each for devices in options.devices]
        sweep(wanted, options.seconds, options.results, sha)
    rows = [line for line in read_rows(options.results) if line["git"] == sha]
    found = list(curves(rows, middle, options.devices))
    for curve in found:
        print(said(curve))
    if found:
        draw(
            found, options.figure, "A forward and a backward pass about " + ", ".join(f"{letter} {size}" for letter, size in middle.items())
        )
