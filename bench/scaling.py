"""Growth of an LSTM layer's time and memory (forward and backward pass) with the number
of steps T, the hidden size H and the batch size B.

    python -m bench scaling                        # about 3 minutes on two idle cores
    python -m bench scaling --report --machine "family 26"

One size is varied at a time; the others are T = 80, H = 128 and B = 32. The number of
features E equals H. In each round, each combination of sizes (point) is measured in two
fresh processes on two cores: on one CPU device that uses both, and on two that use one
each. Points that the result file has for this commit and machine are skipped.

The report prints the exponents of the growth for each machine: of the time from a
log-log fit over all sizes and from the two largest alone, of the memory from a fit of
constant + factor * size ** exponent, where the constant is the memory of JAX and its
compiler. A figure of the times and memories is written to `--figure`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bench import (
    RESULTS,
    add_flags,
    commit,
    groups,
    hardware,
    make_parser,
    read_flags,
    timing,
    worker,
)
from bench.memory import exponent
from bench.schema import SCALING, Row, Rows, by_machine, rows_of_commit

PATH = RESULTS / "scaling.jsonl"
FIGURE = Path(__file__).parents[1] / "experiments" / "figures" / "time_and_memory.png"
AXIS_NAMES = {"T": "steps T", "H": "units H, features E = H", "B": "batch B"}
MIDDLE = {"T": 80, "H": 128, "B": 32}
GRID = {
    "T": (20, 40, 80, 160, 320, 640, 1280),
    "H": (32, 64, 128, 256, 512, 1024),
    "B": (8, 16, 32, 64, 128, 256, 512),
}
DEVICES = (1, 2)
Sizes = dict[str, Any]


@dataclass(frozen=True)
class Curve:
    """Median time in ms of a forward and a backward pass, and median peak memory in
    MiB, over one size ("T", "H" or "B") on a machine.
    """

    letter: str
    devices: int
    sizes: list[int]
    ms: list[float]
    mib: list[float]
    machine: str = ""


def measure_here(point: Sizes, devices: int, seconds: float) -> Row:
    """Measure the time and memory of an LSTM layer in this process, and return the
    fields of a result row (`bench.schema.MEANINGS`).
    """
    from lstm_jax.base.sharding import make_mesh
    from lstm_jax.lab.runs.folder import environment

    sizes = ",".join(f"{letter}={size}" for letter, size in point.items())
    work, built = worker.build_ours(f"recurrence:{sizes}", devices=devices)
    built.run(1)  # the first call compiles
    steps, samples = worker.measure(built.run, seconds, built.block_seconds)
    return {
        **work.sizes,
        "ms_per_step": float(np.median(samples)),
        "peak_mib": worker.peak_mib(),
        "steps_per_block": steps,
        "samples": samples,
        "backend_ran": built.backend,
        **environment(make_mesh()),
        "devices": devices,
    }


def curves(
    rows: Rows, devices: Sequence[int] = DEVICES, machine: str = ""
) -> Iterator[Curve]:
    """Yield a curve of time and memory for each varied size and each number of devices."""
    for letter in MIDDLE:
        for count in devices:
            others = {"devices": count} | {
                name: size for name, size in MIDDLE.items() if name != letter
            }
            at = groups(
                (
                    row
                    for row in sorted(rows, key=lambda row: row[letter])
                    if others.items() <= row.items()
                ),
                [letter],
            )
            ms, mib = (
                [
                    float(np.median([row[name] for row in group]))
                    for group in at.values()
                ]
                for name in ("ms_per_step", "peak_mib")
            )
            if len(at) > 1:
                yield Curve(letter, count, [size for (size,) in at], ms, mib, machine)


def exponent_above_constant(sizes: Sequence[float], values: Sequence[float]) -> float:
    """Fit value = constant + factor * size ** p by least squares of the relative
    errors, and return the exponent p.
    """
    n, y = np.asarray(sizes, float), np.asarray(values, float)

    def miss(power: float):
        terms = np.stack([1 / y, (n / n.max()) ** power / y], 1)
        best = np.linalg.lstsq(terms, np.ones_like(y), rcond=None)[0]
        return float(((terms @ best - 1) ** 2).sum())

    return float(min(np.arange(0.2, 3, 0.01), key=miss))


def describe(curve: Curve) -> str:
    """Return the line of the report about a curve, with the ranges and the growth
    exponents of its time and memory.
    """
    letter, sizes, ms, mib = curve.letter, curve.sizes, curve.ms, curve.mib
    time = (
        f"time {ms[0]:.3f} to {ms[-1]:.3f} ms, as {letter} ** {exponent(sizes, ms):.2f}"
    )
    last = f"(last two sizes {exponent(sizes[-2:], ms[-2:]):.2f})"
    memory = f"memory {mib[0]:.0f} to {mib[-1]:.0f} MiB"
    if len(sizes) > 3:
        memory += (
            f", above a constant as {letter} ** "
            f"{exponent_above_constant(sizes, mib):.2f}"
        )
    return (
        f"{curve.machine}: {letter} {sizes[0]} to {sizes[-1]}, devices "
        f"{curve.devices}: {time} {last}; {memory}"
    )


def draw_scaling(found: Sequence[Curve], path: Path, title: str) -> None:
    """Draw the curves of time and memory over size on logarithmic axes, with a line
    style for each machine.
    """
    from matplotlib.ticker import LogLocator

    from lstm_jax.lab.inspection.figures import BLUE, ORANGE, log_axis, write_figure

    letters, names = (
        list(dict.fromkeys(getattr(curve, field) for curve in found))
        for field in ("letter", "machine")
    )

    def fill(figure):
        figure.suptitle(title, x=0.01, ha="left")
        panels = figure.subplots(
            2, len(letters), squeeze=False, sharex="col", sharey="row"
        )
        for column, letter in enumerate(letters):
            for curve in (curve for curve in found if curve.letter == letter):
                colour, word = (
                    (BLUE, "device") if curve.devices == 1 else (ORANGE, "devices")
                )
                style: Any = {
                    "color": colour,
                    "marker": "o",
                    "ms": 4,
                    "linestyle": ("-", "--", ":")[names.index(curve.machine) % 3],
                }
                label = (
                    f"{curve.devices} {word}: time as {letter} to the "
                    f"{exponent(curve.sizes, curve.ms):.2f}"
                )
                panels[0, column].loglog(
                    curve.sizes,
                    curve.ms,
                    label=label + f", {curve.machine}" * (len(names) > 1),
                    **style,
                )
                panels[1, column].loglog(curve.sizes, curve.mib, **style)
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


def main() -> None:
    """Measure the points that have no result yet, unless `--report` is given. Then
    print the report and draw the figure.
    """
    parser = make_parser(__doc__, PATH)
    parser.add_argument("--devices", type=int, nargs="+", default=DEVICES)
    add_flags(parser, int, rounds="number of processes of each point")
    add_flags(parser, float, seconds="time to measure for in each process")
    add_flags(
        parser,
        str,
        machine="part of the name of the machine to report; all if not given",
    )
    add_flags(parser, Path, figure="file of the figure, which ends in .png")
    parser.set_defaults(rounds=2, seconds=1.0, figure=FIGURE, machine="")
    options = read_flags(parser)
    sha, path = options.commit or commit(), options.results

    def measure(item: Row):
        row = timing.run_function(
            "bench.scaling:measure_here",
            point={letter: item[letter] for letter in MIDDLE},
            devices=item["devices"],
            seconds=options.seconds,
        )
        return [row]

    if not options.report:
        items = [
            {"round": number, "devices": devices}
            | MIDDLE
            | {letter: size, "git": sha, "machine": hardware.machine_id()}
            for number in range(options.rounds)
            for letter, sizes in GRID.items()
            for size in sizes
            for devices in options.devices
        ]
        timing.measure_missing(
            path,
            SCALING,
            items,
            measure,
            lambda rows: (
                f"{rows[0]['ms_per_step']:.3f} ms, {rows[0]['peak_mib']:.0f} MiB"
            ),
        )
    machines = by_machine(rows_of_commit(path, SCALING, git=sha), options.machine)
    found = [
        curve
        for name, rows in machines.items()
        for curve in curves(rows, options.devices, name)
    ]
    for curve in found:
        print(describe(curve))
    if found:
        about = ", ".join(f"{letter} {size}" for letter, size in MIDDLE.items())
        draw_scaling(
            found, options.figure, f"A forward and a backward pass about {about}"
        )
