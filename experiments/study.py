"""What the studies share: presets, rows, figure and verdict of a question, on the planner of `lstm_jax.sweep`.

python -m experiments.memory --preset toy              # seconds
python -m experiments.memory                           # full, its rows and figure beside this file
python -m experiments.memory --report                  # figure and verdict of the rows that are there
"""

import argparse
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lstm_jax import sweep
from lstm_jax.errors import InputError, require
from lstm_jax.files.writing import check_output
from lstm_jax.inspection.figures import figure_paths, write_figure

HERE = Path(__file__).parent
RESULTS, FIGURES = HERE / "results", HERE / "figures"
Rows = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Study:
    """name: of its files; run: config -> figures; presets: toy and full, the configs of each; draw(rows, path of a .png): the figure;
    verdict(rows): what the rows say, in a few lines."""

    name: str
    run: sweep.Run
    presets: Mapping[str, Sequence[Any]]
    draw: Callable[[Rows, Path], object]
    verdict: Callable[[Rows], str]


def finished(rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Config and figures of the runs that did not fail, as one flat dict each."""
    return [sweep.flat(row["config"]) | row["result"] for row in rows if row["status"] == sweep.DONE]


def grouped(rows: Iterable[Mapping[str, Any]], by: Sequence[str], figure: str) -> dict[tuple, list[float]]:
    """Values of the fields `by` -> the figure of all rows that share them (their seeds)."""
    found: dict[tuple, list[float]] = defaultdict(list)
    for row in rows:
        found[tuple(row[name] for name in by)].append(row[figure])
    return dict(found)


def interval(values: Sequence[float], seed: int = 0, draws: int = 2000) -> tuple[float, float, float]:
    """Mean, and the 95 % interval of the mean by the percentile bootstrap (Efron 1979)."""
    rng, array = np.random.default_rng(seed), np.asarray(values, float)
    means = rng.choice(array, (draws, len(array))).mean(axis=1)
    return float(array.mean()), float(np.quantile(means, 0.025)), float(np.quantile(means, 0.975))


def execute(study: Study, preset: str, where: sweep.Where, workers: int, rows_path: Path, figures: Path, report: bool = False) -> str:
    """Run what is missing of a preset, draw, and give the verdict.

    Raises:
        InputError: if the preset has no row that did not fail.
    """
    configs = study.presets[preset]
    if not report:
        sweep.run(study.run, configs, rows_path, where, workers)
    there = sweep.rows(study.run, configs, rows_path)
    good = finished(there)
    require(bool(good), f"rows of {study.name}", f"none in {rows_path}", "run it without --report, or see what its failed rows say")
    study.draw(good, figures / f"{study.name}.png")
    failed = len(there) - len(good)
    lines = [study.verdict(good)] + ([f"{failed} runs failed, see {rows_path}"] if failed else [])
    if len(there) < len(configs):
        lines.append(f"{len(configs) - len(there)} of {len(configs)} runs have no row yet")
    return "\n".join(lines)


def main(study: Study, arguments: Sequence[str] | None = None) -> int:
    """The command line of a study; its exit code, 2 for bad input."""
    about = sys.modules["__main__"].__doc__ if arguments is None else None
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=list(study.presets), default="full")
    parser.add_argument("--where", choices=["here", "processes", "slurm"], help="processes if not given; for the preset toy here")
    parser.add_argument("--workers", type=int, default=1, help="processes at a time; 0 for one a core")
    parser.add_argument("--report", action="store_true", help="run nothing")
    parser.add_argument("--out", type=Path, help="folder for rows and figure, if not those of the project")
    options = parser.parse_args(arguments)
    where = options.where or ("here" if options.preset == "toy" else "processes")
    toy = options.preset == "toy" and options.out is None
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) if toy else options.out
        rows_path, figures = (RESULTS / f"{study.name}.jsonl", FIGURES) if out is None else (out / f"{study.name}.jsonl", out)
        try:
            print(execute(study, options.preset, where, options.workers, rows_path, figures, options.report))
        except InputError as error:
            print(f"{study.name}: {error}", file=sys.stderr)
            return 2
        except KeyboardInterrupt:
            print(f"{study.name}: interrupted; the rows so far are kept, the same command goes on", file=sys.stderr)
            return 130
    if not toy:
        print(f"rows in {rows_path}, figure in {figures / study.name}.png and .svg")
    return 0


def beside(old: Path, new: Path, out: Path) -> object:
    """Draw two figures side by side, with their paths above.

    Raises:
        InputError: if one cannot be read, or the result cannot be written.
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
