"""Callbacks: functions that the training loop calls after each epoch. Their only argument is the record of the epoch (`EpochRecord`).

Example: `fit(..., callbacks=[lambda record: print(record.row["train_loss"])])`.
"""

import itertools
import math
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from lstm_jax.errors import InputError, system_errors
from lstm_jax.files.json_text import json_text
from lstm_jax.files.writing import write_atomically


@dataclass(frozen=True)
class EpochRecord:
    """Record of a training run at the end of an epoch, which the training loop passes to each callback."""

    epoch: int
    """Number of the epoch, counted from 1."""
    step: int
    """Number of training steps since the start of the run."""
    row: dict[str, Any]
    """Metrics of this epoch by name, such as epoch, step, train_loss, train_accuracy and seconds, and the metrics of the held-out
    splits."""
    rows: tuple[dict[str, Any], ...]
    """Metrics of all epochs up to this one. In a resumed run they include the epochs before the interruption."""
    params: Any = field(repr=False)
    """Parameters of the model. They are valid only until the callback returns, because the next training step reuses their memory."""
    seed: int = 0
    resumed: bool = False
    """Whether the training was asked to resume from checkpoints, if there are any."""


Callback = Callable[[EpochRecord], object]


def metrics_file(path: str | Path) -> Callback:
    """Return a callback that writes the metrics of all epochs to the file `path`, as one line of JSON per epoch.

    After each epoch it writes the whole file anew, so that a resumed run repeats no line. A metric that is not finite has the value null.
    """

    def write(record: EpochRecord) -> None:
        write_atomically(Path(path), "".join(json_text(row) + "\n" for row in record.rows))

    return write


def tensorboard(folder: str | Path) -> Callback:
    """Return a callback that writes the metrics of each epoch as TensorBoard scalars to an event file in `folder`.

    A new training begins a new file. A training that was asked to resume continues the newest event file in the folder: before the callback
    writes the events of a step, it removes the events of this step and of later steps from the file. In one case, a training that was asked
    to resume begins a new file, too: it has just ended its first epoch, and the newest file already has events of later steps. These events
    come from another training.
    """
    folder = Path(folder)
    path: Path | None = None
    last = 0

    def write(record: EpochRecord) -> None:
        nonlocal path, last
        first = len(record.rows) == 1
        if path is None or first:
            path, last = _events_file(folder, record.resumed, record.step if first else math.inf), record.step
        if record.step <= last:
            _cut_off(path, record.step)
        last = record.step
        numbers = {name: value for name, value in record.row.items() if isinstance(value, (int, float)) and name not in ("epoch", "step")}
        _append_scalars(path, record.step, numbers)

    return write


_OURS = ".lstm_jax"
"""Ending of the event files that this module writes."""
_FRAME = 16
"""Bytes of a record beside its event: the length of the event (8) and two checksums (4 each)."""


def _events_file(folder: Path, resumed: bool, largest: int | float) -> Path:
    """Return the path of the event file of a training."""
    found = sorted(folder.glob(f"events.out.tfevents.*{_OURS}")) or sorted(folder.glob("events.out.tfevents.*"))
    if found and resumed and all(step <= largest for _, step in _events(found[-1])):
        return found[-1]
    return folder / f"events.out.tfevents.{int(time.time()):010}.{os.uname().nodename}.{time.time_ns()}{_OURS}"


def _append_scalars(path: Path, step: int, scalars: Mapping[str, float]) -> None:
    """Append the scalars of one training step to an event file. The file and the folders above it are created if they do not exist."""
    from tensorboard.compat.proto import event_pb2, summary_pb2
    from tensorboard.summary.writer.record_writer import RecordWriter

    pb: Any = (event_pb2, summary_pb2)
    now = time.time()
    with system_errors(f"writing {path}", "free some space or name another folder"):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as file:
            events = [] if file.tell() else [pb[0].Event(wall_time=now, file_version="brain.Event:2")]
            for name, value in scalars.items():
                summary = pb[1].Summary(value=[pb[1].Summary.Value(tag=name, simple_value=value)])
                events.append(pb[0].Event(wall_time=now, step=step, summary=summary))
            for event in events:
                RecordWriter(file).write(event.SerializeToString())


def _cut_off(path: Path, step: int) -> None:
    """Truncate an event file, so that it ends before the first event that is damaged or has a step number of at least `step`."""
    kept = [end for end, _ in itertools.takewhile(lambda event: not event[1] >= step > 0, _events(path))]
    if path.exists():
        with system_errors(f"events {path}", "move the file away"):
            os.truncate(path, max(kept, default=0))


def _events(path: Path) -> list[tuple[int, int]]:
    """Return a pair (index of the first byte after the event, step) for each event of a file that comes before the first damaged one."""
    from google.protobuf.message import DecodeError
    from tensorboard.compat.proto import event_pb2
    from tensorboard.compat.tensorflow_stub import errors
    from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import PyRecordReader_New

    pb: Any = event_pb2
    found, end = [], 0
    try:
        reader = PyRecordReader_New(str(path))
        while True:
            reader.GetNext()
            event: Any = reader.record()
            end += _FRAME + len(event)
            found.append((end, pb.Event.FromString(event).step))
    except (errors.NotFoundError, errors.OutOfRangeError, errors.DataLossError):
        return found
    except (OSError, DecodeError, UnicodeError) as error:
        raise InputError(f"events {path}", getattr(error, "strerror", "") or error, "move the file away") from error


def print_row(console: Console) -> Callback:
    """Return a callback that prints a table of metrics, one line after each epoch.

    The first column is the number of the epoch, and the last one is its duration in seconds. Between them, each loss, accuracy, AUC and
    number of bits per character in `EpochRecord.row` has a column. The heading is printed before the first line, and again if the columns
    change. If the table is wider than the console, the word "accuracy" is abbreviated.
    """
    shown: list[str] = []

    def show(record: EpochRecord) -> None:
        names = [name for name in record.row if name.endswith(_SHOWN)]
        splits, metrics = ([name.partition("_")[part] for name in names] for part in (0, 2))
        if sum(max(6, len(metric)) + 2 for metric in metrics) + 14 > console.width:
            metrics = [_SHORT.get(metric, metric) for metric in metrics]
        widths = [max(6, len(metric)) for metric in metrics]
        lines = []
        if names != shown:
            shown[:] = names
            new = ("" if split == before else split for before, split in itertools.pairwise(["", *splits]))
            lines.append(["     ", *(f"{split:<{width}}" for split, width in zip(new, widths, strict=True))])
            lines.append(["epoch", *(f"{metric:>{width}}" for metric, width in zip(metrics, widths, strict=True)), "seconds"])
        numbers = (f"{_number(record.row[name]):>{width}}" for name, width in zip(names, widths, strict=True))
        lines.append([f"{record.epoch:>5}", *numbers, f"{record.row['seconds']:>7.1f}"])
        for line in lines:
            console.print("  ".join(line).rstrip(), highlight=False, markup=False, soft_wrap=True)

    return show


_SHOWN = ("_loss", "_bits", "_accuracy", "_auc")
"""Endings of the names of the metrics that are printed after each epoch."""
_SHORT = {"accuracy": "acc."}


def _number(value: Any) -> str:
    """Format a metric as text with four decimals, or with fewer if the text would be longer than six characters."""
    if not isinstance(value, (int, float)):
        return "-"
    texts = [f"{value:.{decimals}f}" for decimals in (4, 3, 2, 1, 0)]
    return next((text for text in texts if len(text) <= 6), texts[-1])


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:.1f} steps/s" if task.speed else "")


def progress_bar(console: Console) -> Progress:
    """Return a progress bar for the steps of an epoch. If the console is not a terminal, the bar shows nothing."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), _Rate(), TimeRemainingColumn())
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
