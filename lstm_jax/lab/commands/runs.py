"""The commands `inspect`, `export onnx`, `run accept`, `runs` and `runs compare` of
`lstm-jax`, which take runs of any task.
"""

import csv
import json
import os
import sys
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from lstm_jax.base.checks import Count, frozen
from lstm_jax.base.errors import require
from lstm_jax.base.writing import check_output
from lstm_jax.lab.commands.common import Command, Positional, load_run, say, warn
from lstm_jax.lab.files.text import counted, json_text


@frozen
class Inspect(Command):
    """Write an HTML page that shows step by step what a trained network does.

    The page shows gates, states and outputs, and what the outputs depend on.
    """

    run: Path = Path("runs/sentiment")
    """Folder of a trained run."""
    text: tuple[str, ...] = ()
    """Reviews or texts to show. If neither --text nor --file is given, examples of
    three kinds are chosen from the run's held-out data, for example those where the
    network is surest and those where it is most wrong."""
    file: Path | None = None
    """File to show. For a sentiment run, it is a table or contains one review per line.
    For a text-generation run, it contains a text. For a forecasting run, it contains a
    series, whose last entries are shown."""
    examples: Count = 2
    """Number of examples to choose of each of the three kinds that the help of --text
    describes. Unused if --text or --file is given."""
    chars: Count = 200
    """Largest number of characters of each example. Only for runs of text generation.
    """
    text_column: str = ""
    """Column or key that contains the text in a .csv, .json or .jsonl file. If empty,
    the --text-column of the training is used. If that is empty, too, the column is
    guessed."""
    unknown: str = ""
    """Character that replaces characters outside the vocabulary of a run of text
    generation. If empty, such characters raise an error."""
    epochs: Count = 6
    """Largest number of epochs to show, if the run was trained with --keep-epochs."""
    out: Path = Path("inspect.html")
    """HTML page to write. A browser can show the page without a network connection."""
    force: bool = False
    """Replace the file at --out, even if another program wrote it."""

    def __call__(self, console):
        from lstm_jax.lab.config import read_task

        require(
            self.out.suffix == ".html",
            "--out",
            self.out,
            "end it in .html; a browser can print or photograph the page",
        )
        check_output(self.out, filter(None, (self.run, self.file)), self.force)
        task = read_task(self.run / "config.json")
        from lstm_jax.lab.generation.data import clean
        from lstm_jax.lab.inspection.pages import Request, make_window
        from lstm_jax.lab.inspection.window import write_page

        trained = load_run(task, self.run)
        if task == "generation":
            recipe = trained.config.data.clean
            changed = ((text, clean(text, recipe)) for text in self.text)
            warn(
                (
                    f"--text {old[:60]!r} is cleaned as in training (--clean "
                    f"{recipe}): {new[:60]!r}"
                )
                for old, new in changed
                if new != old
            )
        request = Request(
            self.text,
            self.file,
            self.examples,
            self.chars,
            self.epochs,
            self.text_column,
            self.unknown,
        )
        with console.status("tracing the network"):
            window = make_window(trained, request)
        write_page(window, self.out, self.force)
        advice = "; open it in a browser" if console.is_terminal else ""
        say(
            console,
            f"{self.out}: {counted(len(window.examples), 'example')}, "
            f"{self.out.stat().st_size:,} bytes{advice}",
        )


@frozen
class ExportOnnx(Command):
    """Write the model of a sentiment or text-generation run to an ONNX file.

    The vocabulary of the run is in the metadata of the file.
    """

    run: Path
    """Folder of a trained run."""
    file: Path
    """ONNX file to write."""
    force: bool = False
    """Replace the file at --file, even if another program wrote it."""
    json: bool = False
    """Print a description of the file as JSON."""

    def __call__(self, console):
        from lstm_jax.convert.onnx import import_onnx
        from lstm_jax.lab.config import read_task

        check_output(self.file, (self.run,), self.force)
        import_onnx()
        task = read_task(self.run / "config.json")
        row = load_run(task, self.run).write_onnx(self.file, self.force)
        if self.json:
            print(json.dumps(row))
            return
        for kind in ("input", "output"):
            for name, described in row[f"{kind}s"].items():
                say(console, f"{kind} {name}: {described}")
        say(
            console,
            f"{row['bytes']:,} bytes, ONNX opset {row['opset']}, in {self.file}",
        )


@frozen
class AcceptRun(Command):
    """Accept the changed files of a run, so that the run can be loaded again.

    Without this command, a run whose files have changed cannot be loaded.
    """

    run: Path
    """Folder of a run."""

    def __call__(self, console):
        from lstm_jax.lab.runs.folder import RunFolder

        found = RunFolder(self.run).accept()
        for name, kind in found.items():
            say(console, f"{name}: {kind}")
        say(
            console,
            f"{self.run}: "
            + (f"{len(found)} accepted" if found else "as the run wrote it"),
        )


@frozen
class Runs(Command):
    """Print a table of the training runs in a folder: state, best metric, time, and
    what differs.

    The command runs compare sets a few of them side by side.
    """

    folder: Positional[Path] = Path("runs")
    """Folder that is searched for runs, with its subfolders."""
    where: Annotated[Sequence[str], tyro.conf.UseAppendAction] = ()
    """Condition that the runs must satisfy, such as units=128, task=forecast or
    state=finished; may be repeated."""
    sort: str = "run"
    """Column by which the runs are sorted, such as best, seconds, units or test_loss.
    Of metrics, the best value comes first."""
    csv: bool = False
    """Print all columns as comma-separated values."""
    json: bool = False
    """Print one JSON object per line, with all columns."""

    def __call__(self, console):
        from lstm_jax.lab.runs.table import runs, select, varied

        found = runs(self.folder)
        rows = select(found, self.where, self.sort)
        if self.json:
            for row in rows:
                print(json_text(row))
            return
        if self.csv:
            csv.writer(sys.stdout, lineterminator="\n").writerows(
                [found[0], *(row.values() for row in rows)]
            )
            return
        warn(row["problem"] for row in rows if row["problem"])
        tasks = {row["task"] for row in rows}
        differing = {
            name
            for task in tasks
            for name in varied([row for row in rows if row["task"] == task])
        }
        names = [name for name in found[0] if name in differing]
        lines = [
            [
                "run",
                "task",
                "state",
                "epochs",
                "best",
                "time",
                *(name.rpartition(".")[2] for name in names),
            ]
        ]
        for row in rows:
            metric = row["metric"] or ""
            epochs = (
                "-"
                if row["epochs"] is None
                else f"{row['epochs']}/{row.get('train.epochs')}"
            )
            run, task, state, best, *others = (
                _text(name, row[name])
                for name in ("run", "task", "state", "best", "seconds", *names)
            )
            lines.append(
                [
                    os.path.relpath(run, self.folder),
                    task,
                    state,
                    epochs,
                    f"{metric} {best}".strip(),
                    *others,
                ]
            )
        _print_table(console, lines)
        if console.is_terminal:
            say(console, f"{len(rows)} of {counted(len(found), 'run')}")


@frozen
class CompareRuns(Command):
    """Compare training runs: differing fields of the config, metrics, and one figure of
    learning curves.
    """

    folders: Positional[tuple[Path, ...]]
    """Folders of 2 to 8 runs."""
    out: Path = Path("runs_compare.png")
    """PNG file of the learning curves; an SVG file is written beside it."""
    force: bool = False
    """Replace the files at --out, even if another program wrote them."""

    def __call__(self, console):
        from lstm_jax.lab.inspection.figures import (
            COLOURS,
            METRICS,
            figure_paths,
            learning_curves,
        )
        from lstm_jax.lab.runs.table import read_epochs, runs, varied

        rows = runs(*self.folders)
        require(
            2 <= len(rows) <= len(COLOURS),
            "folders",
            counted(len(rows), "run"),
            f"give 2 to {len(COLOURS)} runs",
        )
        for path in figure_paths(self.out):
            check_output(path, self.folders, self.force)
        warn(row["problem"] for row in rows if row["problem"])
        differing = varied(rows)
        names = [
            name
            for name in rows[0]
            if name in differing or ("." not in name and name != "problem")
        ]
        _print_table(
            console,
            [[name, *(_text(name, row[name]) for row in rows)] for name in names],
        )
        above = os.path.commonpath(os.path.abspath(row["run"]) for row in rows)
        colours = {
            os.path.relpath(row["run"], above): colour
            for row, colour in zip(rows, COLOURS, strict=False)
        }
        curves: dict[int, dict[str, Any]] = {}
        panels: dict[str, None] = {}
        several = len({row["task"] for row in rows}) > 1
        for row, label in zip(rows, colours, strict=True):
            for number, epoch in enumerate(
                read_epochs(Path(row["run"])) if row["epochs"] else (), 1
            ):
                curve = curves.setdefault(number, {"epoch": number})
                for metric, title in METRICS.items():
                    panel = f"{title}, {row['task']}" if several else title
                    # a later one replaces the earlier ones
                    for split in ("train", "test", "validation"):
                        if f"{split}_{metric}" in epoch and not (
                            metric == "loss" and f"{split}_bits" in epoch
                        ):
                            curve[f"{label}_{panel}"], panels[panel] = (
                                epoch[f"{split}_{metric}"],
                                None,
                            )
        if curves:
            learning_curves(
                [*curves.values()],
                self.out,
                "Learning curves (held out, if any)",
                tuple(panels),
                colours,
                self.force,
            )
            say(console, " and ".join(map(str, figure_paths(self.out))))


def _print_table(console: Console, lines: Sequence[Sequence[str]]) -> None:
    """Print a table whose first line is its header. Only in a terminal are its cells
    wrapped.
    """
    header, *rest = lines
    if console.is_terminal:
        header = [name.replace("_", "_\n") for name in header]
    else:
        console.width = 1_000_000
    table = Table(
        *(Column(Text(name), overflow="fold") for name in header),
        box=None,
        padding=(0, 1, 0, 0),
    )
    for line in rest:
        table.add_row(*map(Text, line))
    console.print(table)


def _text(name: str, value: Any) -> str:
    if name == "seconds" and value is not None:
        return str(timedelta(seconds=round(value)))
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
