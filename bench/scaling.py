"""Growth of an LSTM layer's time and memory (forward and backward pass) with the number of steps T, the hidden size H and the batch size B.

    python -m bench scaling                        # about 3 minutes on two idle cores
    python -m bench scaling --report

One size is varied at a time; the other sizes are T = 80, H = 128 and B = 32. The number of features E equals H. A combination of sizes is
called a point. In each round, each point is measured twice on two cores: on one CPU device that uses both cores, and on two CPU devices
that use one core each. Each measurement runs in a fresh process. Measurements that the result file has for the current commit are skipped.

The report prints the exponents of the growth. There are two exponents of the time: one is from a log-log fit over all sizes, and the other
is from the two largest sizes alone. The exponent of the memory is from a fit of constant + factor * size ** exponent, where the constant
is the memory of JAX and its compiler. The command also draws a figure of the measured times and memories. Unless `--figure` names another
file, it writes the figure to experiments/figures/time_and_memory.png and .svg.
"""

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bench import RESULTS, commit, cpu, make_parser, read_flags, timing
from bench.memory import exponent
from bench.schema import SCALING, require_one_machine, rows_of, rows_of_commit
from bench.workloads import make_arrays, workload

PATH = RESULTS / "scaling.jsonl"
FIGURE = Path(__file__).parents[1] / "experiments" / "figures" / "time_and_memory.png"
AXIS_NAMES = {"T": "steps T", "H": "units H, features E = H", "B": "batch B"}
MIDDLE = {"T": 80, "H": 128, "B": 32}
GRID = {"T": (20, 40, 80, 160, 320, 640, 1280), "H": (32, 64, 128, 256, 512, 1024), "B": (8, 16, 32, 64, 128, 256, 512)}
DEVICES = (1, 2)
Sizes = dict[str, int]


@dataclass(frozen=True)
class Curve:
    """Measured time and memory of an LSTM layer as functions of one size.

    Attributes:
        letter: letter of the varied size: "T" (steps), "H" (hidden size) or "B" (batch size).
        devices: number of CPU devices.
        sizes: values of the varied size.
        ms: median milliseconds of a forward and backward pass at each size.
        mib: median peak memory in MiB at each size.
    """

    letter: str
    devices: int
    sizes: list[int]
    ms: list[float]
    mib: list[float]


def points(grid: dict[str, Sequence[int]], middle: Sizes) -> list[Sizes]:
    """Return the combinations of sizes to measure, without duplicates. A combination differs from `middle` in at most one size."""
    each = [middle | {letter: size} for letter, sizes in grid.items() for size in sizes]
    return [point for n, point in enumerate(each) if point not in each[:n]]


def measure_here(point: Sizes, devices: int, seconds: float) -> dict[str, Any]:
    """Measure the time and memory of an LSTM layer in this process, and return the fields of a result row (`bench.schema.FIELDS`)."""
    from bench.peers import ours
    from bench.peers.base import Options
    from bench.worker import measure, peak_mib
    from lstm_jax.runtime.sharding import make_mesh
    from lstm_jax.training.run_folder import environment

    sized = workload("recurrence:" + ",".join(f"{letter}={size}" for letter, size in point.items()))
    built = ours.build(sized, make_arrays(sized), Options(devices=devices))
    built.run(1)  # the first call compiles
    steps, samples = measure(built.run, seconds, built.block_seconds)
    peak = peak_mib()
    found = {"ms_per_step": float(np.median(samples)), "peak_mib": peak, "steps_per_block": steps, "samples": samples}
    return sized.sizes | found | {"backend_ran": built.backend} | environment(make_mesh()) | {"devices": devices}


def sweep(items: Sequence[dict[str, Any]], seconds: float, path: Path, sha: str) -> None:
    """Measure the items (round, devices, T, H, B) that have no result of this commit yet, each in a fresh process."""

    def measure(item: dict[str, Any]) -> list[dict[str, Any]]:
        point = json.dumps({letter: item[letter] for letter in MIDDLE})
        here = ["bench", "scaling", "--here", point, "--devices", str(item["devices"]), "--seconds", str(seconds)]
        return timing.run_module(here)[-1:]

    rows = [*rows_of(path, SCALING, git=sha), {"cpu": cpu(), "cores": timing.CORES}]
    require_one_machine(rows, "measure on one machine, or give another file in --results")
    timing.measure_missing(
        path,
        SCALING,
        [item | {"git": sha} for item in items],
        measure,
        "points",
        lambda rows: f"{rows[0]['ms_per_step']:.3f} ms, {rows[0]['peak_mib']:.0f} MiB",
    )


def curves(rows: Sequence[dict[str, Any]], middle: Sizes, devices: Sequence[int]) -> Iterator[Curve]:
    """Yield a curve of time and memory for each varied size and each number of devices."""
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
    """Fit value = constant + factor * size ** p by least squares of the relative errors, and return the exponent p."""
    n, y = np.asarray(sizes, float), np.asarray(values, float)

    def miss(power: float) -> float:
        terms = np.stack([1 / y, (n / n.max()) ** power / y], 1)
        best = np.linalg.lstsq(terms, np.ones_like(y), rcond=None)[0]
        return float(((terms @ best - 1) ** 2).sum())

    return float(min(np.arange(0.2, 3, 0.01), key=miss))


def describe(curve: Curve) -> str:
    """Return the line of the report about a curve, with the ranges and the growth exponents of its time and memory."""
    last = exponent(curve.sizes[-2:], curve.ms[-2:])
    line = (
        f"{curve.letter} {curve.sizes[0]} to {curve.sizes[-1]}, devices {curve.devices}: time {curve.ms[0]:.3f} to {curve.ms[-1]:.3f} ms, "
    )
    line += f"as {curve.letter} ** {exponent(curve.sizes, curve.ms):.2f} (last two sizes {last:.2f}); "
    line += f"memory {curve.mib[0]:.0f} to {curve.mib[-1]:.0f} MiB"
    grown = len(curve.sizes) > 3
    return line + (f", above a constant as {curve.letter} ** {exponent_above_constant(curve.sizes, curve.mib):.2f}" if grown else "")


def draw_scaling(found: Sequence[Curve], path: Path, title: str) -> None:
    """Draw the curves of time and memory over size that `bench scaling` measured, on logarithmic axes."""
    from matplotlib.ticker import LogLocator

    from lstm_jax.inspection.figures import log_axis, write_figure

    letters = list(dict.fromkeys(curve.letter for curve in found))

    def fill(figure: Any) -> None:
        figure.suptitle(title, x=0.01, ha="left")
        panels = figure.subplots(2, len(letters), squeeze=False, sharex="col", sharey="row")
        for column, letter in enumerate(letters):
            for curve in (curve for curve in found if curve.letter == letter):
                colour, word = ("#0072B2", "device") if curve.devices == 1 else ("#D55E00", "devices")
                label = f"{curve.devices} {word}: {letter} to the {exponent(curve.sizes, curve.ms):.2f}"
                panels[0, column].loglog(curve.sizes, curve.ms, color=colour, marker="o", ms=4, label=label)
                panels[1, column].loglog(curve.sizes, curve.mib, color=colour, marker="o", ms=4)
                for axes in panels[:, column]:
                    log_axis(axes, "x", curve.sizes)
            panels[0, column].legend(fontsize=9)
            panels[1, column].set_xlabel(AXIS_NAMES[letter])
        for axes in panels[:, 0]:
            log_axis(axes, "y")
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5, 7)))
        panels[0, 0].set_ylabel("ms, forward and backward")
        panels[1, 0].set_ylabel("peak MiB, JAX included")

    write_figure(path, (11.5, 6.5), fill)


def _sizes(text: str) -> dict[str, Sequence[int]]:
    """Parse a text such as "T=20:40,H=32:64", and return a dict from the letter of each size to its values."""
    found: dict[str, Sequence[int]] = {}
    for part in text.split(","):
        letter, _, sizes = part.partition("=")
        try:
            found[letter] = tuple(int(size) for size in sizes.split(":"))
        except ValueError as error:
            raise argparse.ArgumentTypeError(f"sizes: {text}; give them as in T=20:40:80,H=32:64") from error
    known = found.keys() <= MIDDLE.keys() and min(map(min, found.values())) >= 1
    if not known:
        raise argparse.ArgumentTypeError(f"sizes: {text}; give sizes of {', '.join(MIDDLE)}, 1 or more")
    return found


def _parse() -> argparse.Namespace:
    parser = make_parser(__doc__, PATH)
    parser.add_argument("--grid", type=_sizes, default=GRID, help="as in T=20:40:80,H=32:64")
    parser.add_argument("--middle", type=_sizes, default={}, help="as in T=80,H=128,B=32")
    parser.add_argument("--devices", type=int, nargs="+", default=DEVICES)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=1.0, help="time to measure for in each process")
    parser.add_argument("--figure", type=Path, default=FIGURE)
    parser.add_argument("--here", type=json.loads, metavar="POINT", help="measure in this process")
    return read_flags(parser)


def main() -> None:
    """Measure the points that have no result yet, unless `--report` is given. Then print the report and draw the figure."""
    options = _parse()
    if options.here:
        print(json.dumps(measure_here(options.here, options.devices[0], options.seconds)))
        return
    middle = MIDDLE | {letter: sizes[0] for letter, sizes in options.middle.items()}
    sha = options.commit or commit()
    if not options.report:
        sized = [(number, point) for number in range(options.rounds) for point in points(options.grid, middle)]
        items = [{"round": number, "devices": devices} | point for number, point in sized for devices in options.devices]
        sweep(items, options.seconds, options.results, sha)
    rows = rows_of_commit(options.results, SCALING, git=sha)
    require_one_machine(rows)
    found = list(curves(rows, middle, options.devices))
    for curve in found:
        print(describe(curve))
    if found:
        about = ", ".join(f"{letter} {size}" for letter, size in middle.items())
        draw_scaling(found, options.figure, f"A forward and a backward pass about {about}")
