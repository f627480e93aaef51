"""Command line of the studies: it runs a preset with `lstm_jax.sweep`, keeps its rows, draws a figure and prints a verdict.

A study is a file in this folder that ends with `STUDY = study.Study(...)` and `sys.exit(study.main(STUDY))`. No other file lists it.

    python -m experiments.memory --preset toy      # seconds, in a temporary folder
    python -m experiments.memory                   # the full study; rows in results/, figure in figures/
    python -m experiments.memory --report          # figure and verdict of the rows that exist
    python -m experiments.study OLD.png NEW.png BOTH.png      # two figures side by side
"""

import argparse
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lstm_jax import sweep
from lstm_jax.errors import InputError, require
from lstm_jax.files.writing import check_output
from lstm_jax.inspection.figures import figure_paths, write_figure

HERE = Path(__file__).parent
RESULTS, FIGURES = HERE / "results", HERE / "figures"
Rows = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Study:
    """A question and the runs that answer it."""

    name: str
    """Name of the module, which the file of rows and the figure also have."""
    run: sweep.Run
    """Function run(config) that executes one run and returns its results by name."""
    presets: Mapping[str, Sequence[Any]]
    """Configs of each preset. Every study has the presets "toy" and "full"."""
    draw: Callable[[Rows, Path], object]
    """Function draw(rows, path) that draws the figure of the rows; the path ends in .png."""
    verdict: Callable[[Rows], str]
    """Function verdict(rows) that returns the answer that the rows give, in a few lines of text."""
    needs: str = ""
    """Package that the runs import besides the dependencies of the library, or ""."""


def finished(rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the rows of the runs that succeeded; each is a flat dict of the fields of the config and the results."""
    return [sweep.flatten(row["config"]) | row["result"] for row in rows if row["status"] == sweep.DONE]


def grouped(rows: Iterable[Mapping[str, Any]], fields: Sequence[str], metric: str) -> dict[tuple, list[float]]:
    """Return the values of a metric for each combination of values of some fields.

    Args:
        rows: flat rows.
        fields: names of the fields whose values form the key of a group.
        metric: name of the metric.

    Returns:
        Values of the fields -> metric of each row with these values, usually one for each seed.
    """
    groups: dict[tuple, list[float]] = defaultdict(list)
    for row in rows:
        groups[tuple(row[name] for name in fields)].append(row[metric])
    return dict(groups)


def execute(study: Study, preset: str, where: str, workers: int, rows_path: Path, figures: Path, report: bool = False) -> str:
    """Execute the runs of a preset that have no row yet, draw the figure and return the verdict.

    Args:
        study: study.
        preset: name of the preset.
        where: executor, see `lstm_jax.sweep`.
        workers: number of processes that run at the same time; 0 means one for each core.
        rows_path: file of rows.
        figures: folder of the figure.
        report: whether only the rows that exist are reported, and nothing is run.

    Raises:
        InputError: if no run of the preset has succeeded.
    """
    configs = study.presets[preset]
    if not report:
        sweep.run(study.run, configs, rows_path, where, workers)
    rows = sweep.existing_rows(study.run, configs, rows_path)
    good = finished(rows)
    require(bool(good), f"rows of {study.name}", f"none in {rows_path}", "run it without --report, or see what its failed rows say")
    study.draw(good, figures / f"{study.name}.png")
    lines, failed = [study.verdict(good)], len(rows) - len(good)
    if failed:
        lines.append(f"{failed} runs failed, see {rows_path}")
    if len(rows) < len(configs):
        lines.append(f"{len(configs) - len(rows)} of {len(configs)} runs have no row yet")
    return "\n".join(lines)


def main(study: Study, arguments: Sequence[str] | None = None) -> int:
    """Run the command line of a study and return the exit code: 0, 2 for bad input, or 130 when interrupted."""
    options = _parse(study, arguments)
    toy = options.preset == "toy"
    where = options.where or ("here" if toy else "processes")
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) if toy and options.out is None else options.out
        rows_path, figures = (RESULTS / f"{study.name}.jsonl", FIGURES) if out is None else (out / f"{study.name}.jsonl", out)
        try:
            print(execute(study, options.preset, where, options.workers, rows_path, figures, options.report))
        except InputError as error:
            print(f"{study.name}: {error}", file=sys.stderr)
            return 2
        except KeyboardInterrupt:
            print(f"{study.name}: interrupted; the rows so far are kept, the same command goes on", file=sys.stderr)
            return 130
    if not toy or options.out:
        print(f"rows in {rows_path}, figure in {figures / study.name}.png and .svg")
    return 0


def _parse(study: Study, arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the options of the command line of a study; its help text begins with the docstring of the study."""
    about = sys.modules["__main__"].__doc__ if arguments is None else None
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=list(study.presets), default="full", help="set of runs (default: full)")
    parser.add_argument("--where", choices=list(sweep.EXECUTORS), help="executor (default: here for the preset toy, else processes)")
    parser.add_argument("--workers", type=int, default=1, help="processes at a time; 0 for one a core (default: 1)")
    parser.add_argument("--report", action="store_true", help="run nothing; draw and print the verdict of the rows that exist")
    parser.add_argument("--out", type=Path, help="folder of rows and figure (default: that of the project; for toy a temporary one)")
    return parser.parse_args(arguments)


def beside(old: Path, new: Path, out: Path) -> object:
    """Draw two figures side by side, with their paths as titles.

    Args:
        old: path of the figure on the left.
        new: path of the figure on the right.
        out: path of the result.

    Raises:
        InputError: if `old` or `new` cannot be read, or if `out` must not be written.
    """
    from matplotlib import image

    for path in figure_paths(out):
        check_output(path, (old, new))
    pictures = []
    for path in (old, new):
        try:
            pictures.append(image.imread(path))
        except (OSError, ValueError, SyntaxError) as error:
            raise InputError(f"figure {path}", error, "name a .png that a study drew") from error

    def fill(figure: Any) -> None:
        for axes, path, picture in zip(figure.subplots(1, 2), (old, new), pictures, strict=True):
            axes.imshow(picture)
            axes.set_axis_off()
            axes.set_title(str(path))

    return write_figure(out, (14.0, 14.0 * max(p.shape[0] / p.shape[1] for p in pictures) / 2 + 0.5), fill)


if __name__ == "__main__":
    if len(sys.argv) != 4:
        print("usage: python -m experiments.study OLD.png NEW.png BOTH.png", file=sys.stderr)
        sys.exit(2)
    try:
        beside(*map(Path, sys.argv[1:]))
    except InputError as error:
        print(f"study: {error}", file=sys.stderr)
        sys.exit(2)
