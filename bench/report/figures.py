"""Static figures of the benchmark results."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from bench.summary import Line
from lstm_jax.inspection.figures import write_figure


def draw_grid(lines: Sequence[Line], peer: str, path: Path, name: str, force: bool = True) -> None:
    """Draw heat maps of this project's speedup over another library on a recurrent layer alone."""
    found = {
        (line.work.batch, line.work.units, line.work.length): line.speedup[0]
        for line in lines
        if (line.work.base, line.work.cell, line.candidate) == ("recurrence", "lstm", peer) and line.speedup
    }
    batches, units, lengths = (sorted({sizes[n] for sizes in found}) for n in range(3))

    def fill(figure):
        figure.suptitle(f"speedup over {name}\nrecurrence, forward and backward", x=0.01, ha="left")
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
