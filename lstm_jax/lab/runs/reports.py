"""What a training reports: callbacks that write the metrics of each epoch to files or
to a console, and a progress bar with messages.

Example: `fit(..., callbacks=[metrics_file("metrics.jsonl")])`.
"""

import contextlib
import itertools
import os
import re
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from lstm_jax.base.errors import system_errors
from lstm_jax.base.types import AnyPath
from lstm_jax.base.writing import write_atomically
from lstm_jax.lab.files.text import json_text
from lstm_jax.lab.machine.console import say
from lstm_jax.lab.machine.interrupts import noted_signals
from lstm_jax.training.fit import Callback, Watch


def metrics_file(path: AnyPath) -> Callback:
    """Return a callback that writes the metrics of all epochs to the file `path`, as
    one line of JSON per epoch.

    After each epoch it writes the whole file anew, so that a resumed run repeats no
    line. A metric that is not finite has the value null.
    """

    def write(record):
        write_atomically(
            Path(path), "".join(json_text(row) + "\n" for row in record.rows)
        )

    return write


def tensorboard(folder: AnyPath) -> Callback:
    """Return a callback that writes the metrics of each epoch as TensorBoard scalars to
    an event file in `folder`.

    A training begins a new file, also when it is resumed. The file of a resumed
    training begins with an event that makes TensorBoard drop all events of older files
    from this step on, so that a repeated epoch is shown once.
    """
    folder = Path(folder)
    path: Path | None = None
    last = 0

    def write(record):
        nonlocal path, last
        from tensorboard.compat.proto import event_pb2, summary_pb2
        from tensorboard.summary.writer.record_writer import RecordWriter

        protocol: Any = event_pb2
        summaries: Any = summary_pb2
        now, events = time.time(), []
        if path is None or len(record.rows) == 1 or record.step <= last:
            later = [
                int(match[1]) + 1
                for old in folder.glob("events.out.tfevents.*")
                if (match := re.search(r"tfevents\.(\d+)\.", old.name))
            ]
            # the name is the order in which TensorBoard reads the files
            stamp = max([int(now), *later])
            path = (
                folder
                / f"events.out.tfevents.{stamp:010}.{os.uname().nodename}.{time.time_ns()}"
            )
            events = [protocol.Event(wall_time=now, file_version="brain.Event:2")]
            if record.resumed:
                start = protocol.SessionLog(status=protocol.SessionLog.START)
                events.append(
                    protocol.Event(wall_time=now, step=record.step, session_log=start)
                )
        last = record.step
        for name, value in record.row.items():
            if isinstance(value, int | float) and name not in ("epoch", "step"):
                scalar = summaries.Summary.Value(tag=name, simple_value=value)
                events.append(
                    protocol.Event(
                        wall_time=now,
                        step=record.step,
                        summary=summaries.Summary(value=[scalar]),
                    )
                )
        with system_errors(f"writing {path}", "free some space or name another folder"):
            folder.mkdir(parents=True, exist_ok=True)
            with path.open("ab") as file:
                for event in events:
                    RecordWriter(file).write(event.SerializeToString())

    return write


def print_row(console: Console, epochs: int = 0) -> Callback:
    """Return a callback that prints a table of metrics, one line after each epoch.

    The first column is the number of the epoch, and the last one the seconds since the
    line before. Between them, each loss, accuracy, AUC and number of bits per character
    of the training and validation part in `EpochRecord.row` has a column. The heading
    is printed before the first line, and again if the columns change. If the table is
    wider than the console, the word "accuracy" is abbreviated.

    In a terminal, a training of more than 20 `epochs` prints at most one line a second,
    and at its end the last and the best epoch. A star marks an epoch that is the best
    so far.
    """
    shown: list[str] = []
    done: set[int] = set()
    brief = epochs > 20 and console.is_terminal
    printed = waited = 0.0

    def show(record):
        nonlocal printed, waited
        waited += record.row["seconds"]
        if brief and not record.last and time.monotonic() < printed + 1:
            return
        names = [
            name
            for name in record.row
            if name.endswith(_SHOWN) and not name.startswith("test_")
        ]
        splits, metrics = (
            [name.partition("_")[part] for name in names] for part in (0, 2)
        )
        if (
            sum(max(6, len(metric)) + 2 for metric in metrics)
            + 14
            + 15 * bool(record.best_epoch)
            > console.width
        ):
            metrics = ["acc." if metric == "accuracy" else metric for metric in metrics]
        widths = [max(6, len(metric)) for metric in metrics]

        def write(first, cells, last, mark="", align=">"):
            middle = (
                f"{cell:{align}{width}}"
                for cell, width in zip(cells, widths, strict=True)
            )
            line = "  ".join([f"{first:>5}", *middle, f"{last:>7}", mark]).rstrip()
            console.print(line, highlight=False, markup=False, soft_wrap=True)

        if names != shown:
            shown[:] = names
            write(
                "",
                (
                    "" if split == before else split
                    for before, split in itertools.pairwise(["", *splits])
                ),
                "",
                align="<",
            )
            write(
                "epoch",
                metrics,
                "seconds",
                "* best so far" if record.best_epoch else "",
            )
        best = record.best_epoch
        done.add(record.epoch)
        write(
            record.epoch,
            (_number(record.row[name]) for name in names),
            f"{waited:.1f}",
            "*" * (record.epoch == best),
        )
        if brief and record.last and best and best not in done:
            write(
                best,
                (_number(record.rows[best - 1].get(name)) for name in names),
                "",
                "* the best",
            )
        printed, waited = time.monotonic(), 0.0

    return show


_SHOWN = ("_loss", "_bits", "_accuracy", "_auc")
"""Endings of the names of the metrics that are printed after each epoch."""


def _number(value) -> str:
    """Format a metric as text with four decimals, or with fewer if the text would be
    longer than six characters.
    """
    if not isinstance(value, (int, float)):
        return "-"
    texts = [f"{value:.{decimals}f}" for decimals in (4, 3, 2, 1, 0)]
    return next((text for text in texts if len(text) <= 6), texts[-1])


@contextlib.contextmanager
def progress(console: Console | None = None) -> Iterator[Watch]:
    """Yield a `Watch` that shows a progress bar and messages on a console, and that
    asks the training to save its state and stop after a SIGINT or SIGTERM.

        with progress() as watch:
            lstm_jax.fit(..., watch=watch)

    A second SIGINT raises `KeyboardInterrupt`. If the console is not a terminal, there
    is no bar.
    """
    console = console or Console()
    tasks: dict[int, TaskID] = {}

    with noted_signals() as asked, progress_bar(console) as bar:

        def steps(epoch, epochs, done, total):
            if epoch not in tasks:
                tasks[epoch] = bar.add_task(f"epoch {epoch}/{epochs}", total=total)
            bar.update(tasks[epoch], completed=done)
            if done == total:
                bar.remove_task(tasks[epoch])

        yield Watch(partial(say, console), steps, lambda: asked.number)


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:.1f} steps/s" if task.speed else "")


def progress_bar(console: Console) -> Progress:
    """Return a progress bar for the steps of an epoch. If the console is not a
    terminal, the bar shows nothing.
    """
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        _Rate(),
        TimeRemainingColumn(),
    )
    return Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    )
