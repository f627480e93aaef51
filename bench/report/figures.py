"""Static figures of the benchmark results."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench.memory import exponent
from bench.scaling import Curve
from bench.summary import Line
from lstm_jax.inspection.figures import log_axis, write_figure

AXIS_NAMES = {"T": "steps T", "H": "units H, features E = H", "B": "batch B"}


def draw_grid(lines: Sequence[Line], peer: str, path: Path, force: bool = True, name: str = "") -> None:
    """Draw heat maps of this project's speedup over another library on a recurrent layer alone."""
    found = {
        (line.work.batch, line.work.units, line.work.length): line.speedup[0] for line in lines if _of_grid(line, peer) and line.speedup
    }
    batches, units, lengths = (sorted({sizes[n] for sizes in found}) for n in range(3))

    def fill(figure: Any) -> None:
        figure.suptitle(f"speedup over {name or peer}\nrecurrence, forward and backward", x=0.01, ha="left")
        panels = figure.subplots(1, len(batches), squeeze=False, sharey=True)[0]
        for axes, batch in zip(panels, batches, strict=True):
            values = np.array([[np.log2(found.get((batch, H, T), np.nan)) for T in lengths] for H in units])
            axes.imshow(values, cmap="RdBu", vmin=-2, vmax=2, aspect="auto")
            for (row, column), value in np.ndenumerate(values):
                if np.isfinite(value):
                    axes.text(column, row, f"{2**value:.2f}", ha="center", va="center", color="white" if abs(value) > 1.3 else "black")
            axes.set_xticks(range(len(lengths)), [str(T) for T in lengths])
            axes.set_yticks(range(len(units)), [str(H) for H in units])
            axes.set_xlabel("steps T")
            axes.set_title(f"batch {batch}")
            axes.grid(visible=False)
        panels[0].set_ylabel("units H")

    if found:
        write_figure(path, (1.5 + 3.2 * len(batches), 1.2 + 0.6 * len(units)), fill, force)


def _of_grid(line: Line, peer: str) -> bool:
    return (line.work.base, line.work.cell) == ("recurrence", "lstm") and line.candidate == peer


def draw_scaling(found: Sequence[Curve], path: Path, title: str) -> None:
    """Draw the curves of time and memory over size that `bench scaling` measured, on logarithmic axes."""
    from matplotlib.ticker import LogLocator

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
