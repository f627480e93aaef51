"""Static figure of the benchmark results."""

from collections.abc import Sequence
from pathlib import Path

from bench.peers import OURS, title
from bench.report.tables import milliseconds
from bench.schema import Rows
from bench.summary import Line
from lstm_jax.lab.inspection.figures import BLUE, ORANGE, write_figure


def draw_speed(rows: Rows, lines: Sequence[Line], path: Path, force: bool) -> None:
    """Draw the time of a step of each workload at its own sizes, with a bar for each
    library. Without such results, nothing is drawn.
    """
    timed = [line for line in lines if ":" not in line.work.name and not line.error]
    works = list(dict.fromkeys(line.work.name for line in timed))

    def fill(figure):
        for axes, work in zip(
            figure.subplots(1, len(works), squeeze=False, sharey=True)[0],
            works,
            strict=True,
        ):
            for label, ink in (
                ("this project", BLUE),
                ("another library (times our time)", ORANGE),
            ):
                shown = [
                    line
                    for line in timed
                    if line.work.name == work
                    and line.candidate.startswith(OURS) == (ink == BLUE)
                ]
                names = [title(line.candidate, rows).replace("`", "") for line in shown]
                bars = axes.barh(
                    names, [line.ms for line in shown], color=ink, label=label
                )
                speedups = [
                    f" ({line.speedup[0]:.2f}x)" if line.speedup else ""
                    for line in shown
                ]
                axes.bar_label(
                    bars,
                    [
                        f"{milliseconds(line)}{speedup}"
                        for line, speedup in zip(shown, speedups, strict=True)
                    ],
                    padding=4,
                )
            axes.set(xlabel=f"{work}: milliseconds a step", xmargin=0.35)
            axes.grid(axis="y", visible=False)
        figure.axes[0].invert_yaxis()
        figure.legend(
            *figure.axes[0].get_legend_handles_labels(),
            loc="outside upper left",
            ncols=2,
        )

    if timed:
        write_figure(path, (3.5 + 3.5 * len(works), 4.2), fill, force)
