"""Command line of the studies. It executes the runs of a study, keeps the result of
each run, draws a figure and prints a conclusion.

A study is a file in this folder that ends with `STUDY = Study(...)` and
`sys.exit(main(STUDY))`. It needs no registration.

    # a small test of the study, which takes seconds and writes to a temporary folder
    python -m experiments.memory --preset toy
    # the full study, with results in results/ and the figure in figures/
    python -m experiments.memory
    # figure and conclusion from the existing results
    python -m experiments.memory --report
    # draw two figures side by side
    python -m experiments.study OLD.png NEW.png BOTH.png
"""

import os
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from math import isfinite, nan
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bench import add_flags, groups, make_parser
from lstm_jax.base.errors import InputError, require
from lstm_jax.base.writing import check_output
from lstm_jax.lab import sweep
from lstm_jax.lab.inspection.figures import (
    BLUE,
    GREEN,
    LIGHT,
    ORANGE,
    PINK,
    figure_paths,
    write_figure,
)
from lstm_jax.lab.sweep.stats import Interval, Numbers

HERE = Path(__file__).parent
RESULTS, FIGURES = HERE / "results", HERE / "figures"
Metrics = dict[str, Any]
"""Results of a run by their names."""
Row = Mapping[str, Any]
Rows = Sequence[Row]
GREY = "#777777"
"""Grey of the studies. In all figures blue is the LSTM, this project or what is better,
and orange another or what is worse."""
CELL_STYLES = {
    "lstm": {"color": BLUE},
    "gru": {"color": GREEN},
    "simple_rnn": {"color": ORANGE},
    "min_lstm": {"color": PINK},
}
SHADES = LIGHT, BLUE, "#003B6F", "black"
"""Colours of LSTMs that differ in one setting, such as the learning rate, in the order
of its values."""


class Mean(NamedTuple):
    """Mean and the two ends of its confidence interval, if it has one. Its text with
    the format ".2f" is "0.81 (0.79 to 0.83)".
    """

    mean: float
    low: float
    high: float

    def __format__(self, form: str) -> str:
        ends = "{:{form}} to {:{form}}".format(*self[1:], form=form.removeprefix("+"))
        return f"{self.mean:{form}}" + f" ({ends})" * isfinite(self.low)


@dataclass(frozen=True)
class Study:
    """Description of a study: the configs of its runs, the function that executes a
    run, and functions that report the results.
    """

    name: str
    """Name of the study's module. The names of the result file and of the figure begin
    with it."""
    run: sweep.Run
    """Function run(config) that executes one run, such as a training, and returns its
    results by name."""
    presets: Mapping[str, Sequence[Any]]
    """Configs of the runs of each preset. Every study has the presets "toy" and "full".
    """
    draw: Callable[[Rows, Any], object]
    """Function draw(rows, figure) that draws the results into an empty matplotlib
    figure."""
    inches: tuple[float, float]
    """Width and height of the figure."""
    verdict: Callable[[Rows], Iterable[str]]
    """Function verdict(rows) that returns the conclusion from the results, as lines of
    text."""
    needs: str = ""
    """Name of a package that the runs need in addition to the dependencies of the
    library, or "" if there is none."""
    data: bool = True
    """Whether the runs of all presets except "toy" read data from the folder in the
    environment variable LSTM_JAX_DATA."""
    ending: str = ".jsonl"
    """Ending of the name of the result file. It is ".jsonl.gz" if the rows are
    compressed, because they are large."""

    def rows_path(self, folder: Path) -> Path:
        """Return the path of the result file in a folder."""
        return folder / f"{self.name}{self.ending}"


def flat(config: Mapping[str, Any], result: Metrics) -> Metrics:
    """Return a row as `sweep.summarise` reads it, which also has the fields of the
    config and the results as items of its own.
    """
    return {"config": config, "result": result} | sweep.flatten(config) | result


def finished(rows: Iterable[Row]) -> list[Metrics]:
    """Return the flat rows of the successful runs."""
    return [
        flat(row["config"], row["result"])
        for row in rows
        if row["status"] == sweep.DONE
    ]


def rows_with(rows: Iterable[Row], field: str, value) -> list[Row]:
    """Return the rows in which a field has a value."""
    return [row for row in rows if row[field] == value]


def means(rows: Iterable[Row], by: Sequence[str]) -> dict[tuple, dict[str, Mean]]:
    """Return a dict from the values of some config fields to the mean of each metric
    over the seeds.
    """
    found = groups(sweep.summarise(rows, by), by)
    return {
        key: {row["metric"]: Mean(row["mean"], row["low"], row["high"]) for row in own}
        for key, own in found.items()
    }


def lines(rows: Iterable[Row], by: Sequence[str], text: str) -> list[str]:
    """Return a line of text for each combination of values of some config fields.

    The values take the places {} of the text, and the means of the metrics the places
    with their names: "{}: {bits:.2f}" may become "lstm: 2.31 (2.25 to 2.37)".
    "{bits.mean:.2f}" has no interval.
    """
    return [text.format(*key, **found) for key, found in means(rows, by).items()]


def mean_only(values: Numbers) -> Interval:
    """Return the mean of the values, and nan in place of the ends of its interval."""
    return float(np.mean(values)), nan, nan


def plot_means(
    axes,
    rows: Iterable[Row],
    metric: str,
    x: str,
    hue: str = "",
    styles: Any = None,
    interval=mean_only,
) -> None:
    """Draw the means of a metric over a config field, as `sweep.plot` does. Without
    values, nothing is drawn.
    """
    summary = rows_with(
        sweep.summarise(rows, [*filter(None, (x, hue))], interval=interval),
        "metric",
        metric,
    )
    if summary:
        sweep.plot(summary, x, hue, [axes], styles)


def interval_bars(axes, rows: Sequence[tuple[str, Mean, str]]) -> None:
    """Draw horizontal bars with confidence intervals, from top to bottom. Each bar is
    given as a tuple (label, interval, colour).
    """
    labels, intervals, colours = zip(*rows, strict=True)
    mean, low, high = np.transpose(intervals)
    axes.barh(labels, mean, color=colours, xerr=(mean - low, high - mean))
    axes.invert_yaxis()


def check_needs(study: Study, toy: bool = False) -> None:
    """Check that the package `study.needs` is installed and, if the runs need data,
    that the environment variable LSTM_JAX_DATA is set.
    """
    found = not study.needs or find_spec(study.needs) is not None
    require(found, study.needs, "not installed", 'pip install ".[experiments]"')
    given = toy or not study.data or bool(os.environ.get("LSTM_JAX_DATA"))
    require(
        given,
        "LSTM_JAX_DATA",
        "not set",
        "name the folder that holds imdb/, articles/ and charlm/",
    )


def execute(
    study: Study,
    preset: str,
    where: str,
    workers: int,
    rows_path: Path,
    figures: Path,
    report: bool = False,
) -> tuple[str, int]:
    """Execute the runs of a preset that have no row in the result file, draw the
    figure, and return the conclusion and the failed runs.
    """
    configs = study.presets[preset]
    if not report:
        if _absent(study, configs, sweep.existing_rows(study.run, configs, rows_path)):
            check_needs(study, preset == "toy")
        # a process for each run: a run may choose the number of JAX's devices. The call
        # also warns of failed rows and of another version.
        sweep.run(study.run, configs, rows_path, where, workers, per_job=1)
    # the runs of "full" are included, because a figure of this preset alone would
    # replace the figure of all runs
    rows = sweep.existing_rows(
        study.run,
        [*configs, *(study.presets["full"] if preset != "toy" else ())],
        rows_path,
    )
    text, failed = conclude(study, configs, rows, rows_path)
    write_figure(
        figures / f"{study.name}.png", study.inches, partial(study.draw, finished(rows))
    )
    return text, failed


def conclude(
    study: Study, configs: Sequence[Any], rows: Rows, rows_path: Path
) -> tuple[str, int]:
    """Return the conclusion from the rows of a study as text, and the number of runs
    that failed.
    """
    good = finished(rows)
    require(
        bool(good),
        f"rows of {study.name}",
        f"none in {rows_path}",
        "run it without --report, or see what its failed rows say",
    )
    text, failed = [*study.verdict(good)], len(rows) - len(good)
    if failed:
        text.append(f"{failed} runs failed, see {rows_path}")
    if absent := _absent(study, configs, rows):
        text.append(f"{absent} of {len(configs)} runs have no row yet")
    return "\n".join(text), failed


def _absent(study: Study, configs: Sequence[Any], rows: Iterable[Row]) -> int:
    ids = {row["id"] for row in rows}
    return sum(sweep.run_id(study.run, config) not in ids for config in configs)


def command(name: str, run: Callable[[], int]) -> int:
    """Call `run`, and return its exit code. An error that the user causes and an
    interrupt are printed as one line.
    """
    try:
        return run()
    except InputError as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(
            f"{name}: interrupted; the rows so far are kept, the same command goes on",
            file=sys.stderr,
        )
        return 130


def main(study: Study, arguments: Sequence[str] | None = None) -> int:
    """Run the command line of a study, and return the exit code."""
    about = sys.modules["__main__"].__doc__ if arguments is None else None
    parser = make_parser(about)
    parser.add_argument(
        "--preset",
        choices=study.presets,
        default="full",
        help="set of runs (default: full)",
    )
    parser.add_argument(
        "--where",
        choices=sweep.EXECUTORS,
        help="executor (default: here for the preset toy, else processes)",
    )
    add_flags(parser, int, workers="processes at a time; 0 for one a core (default: 1)")
    add_flags(
        parser,
        bool,
        report="run nothing; draw and print the verdict of the rows that exist",
    )
    add_flags(
        parser,
        Path,
        out="folder of rows and figure (default: that of the project; for toy a "
        "temporary one)",
    )
    parser.set_defaults(workers=1)
    options = parser.parse_args(arguments)
    toy = options.preset == "toy"
    where = options.where or ("here" if toy else "processes")

    def run():
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) if toy and options.out is None else options.out
            results, figures = (RESULTS, FIGURES) if out is None else (out, out)
            rows_path = study.rows_path(results)
            text, failed = execute(
                study,
                options.preset,
                where,
                options.workers,
                rows_path,
                figures,
                options.report,
            )
        print(text)
        if not toy or options.out:
            print(f"rows in {rows_path}, figure in {figures / study.name}.png and .svg")
        return int(failed > 0)

    return command(study.name, run)


def beside(old: Path, new: Path, out: Path) -> int:
    """Draw two existing figures side by side, with their paths as titles, and return
    the exit code 0.
    """
    from matplotlib import image

    for path in figure_paths(out):
        check_output(path, (old, new))

    def fill(figure):
        for axes, path in zip(figure.subplots(1, 2), (old, new), strict=True):
            try:
                axes.imshow(image.imread(path))
            except (OSError, ValueError, SyntaxError) as error:
                raise InputError(
                    f"figure {path}", error, "name a .png that a study drew"
                ) from error
            axes.set_axis_off()
            axes.set_title(str(path))

    write_figure(out, (14.0, 7.0), fill)
    return 0


if __name__ == "__main__":
    if len(sys.argv) != 4:
        print(
            "usage: python -m experiments.study OLD.png NEW.png BOTH.png",
            file=sys.stderr,
        )
        sys.exit(2)
    sys.exit(command("study", lambda: beside(*map(Path, sys.argv[1:]))))
