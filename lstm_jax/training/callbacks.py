"""Callbacks: functions that the training loop calls after each epoch. Their only argument is the record of the epoch (`EpochRecord`).

Example: `fit(..., callbacks=[lambda record: print(record.row["train_loss"])])`.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from lstm_jax.files.json_text import json_text
from lstm_jax.files.writing import write_atomically
from lstm_jax.training.events import append_scalars, cut_off, events_file


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
            path, last = events_file(folder, record.resumed, record.step if first else math.inf), record.step
        if record.step <= last:
            cut_off(path, record.step)
        last = record.step
        numbers = {name: value for name, value in record.row.items() if isinstance(value, (int, float)) and name not in ("epoch", "step")}
        append_scalars(path, record.step, numbers)

    return write


def print_row(console: Console) -> Callback:
    """Return a callback that prints a table of metrics, one line after each epoch.

    The first column is the number of the epoch, and the last one is its duration in seconds. Between them, each loss, accuracy, AUC and
    number of bits per character in `EpochRecord.row` has a column. The heading is printed before the first line, and again if the columns
    change. If the table is wider than the console, the word "accuracy" is abbreviated.
    """
    shown: list[str] = []

    def show(record: EpochRecord) -> None:
        names = [name for name in record.row if name.endswith(_SHOWN)]
        splits = [tuple(name.split("_", 1)) for name in names]
        widths = _widths([metric for _, metric in splits])
        if sum(widths) + 2 * len(widths) + 14 > console.width:
            splits = [(split, _SHORT.get(metric, metric)) for split, metric in splits]
            widths = _widths([metric for _, metric in splits])
        lines = []
        if names != shown:
            shown[:] = names
            own = ("" if n and splits[n - 1][0] == split else split for n, (split, _) in enumerate(splits))
            groups = [f"{name:<{width}}" for name, width in zip(own, widths, strict=True)]
            lines.append("  ".join([" " * 5, *groups]))
            lines.append(
                "  ".join(["epoch", *(f"{metric:>{width}}" for (_, metric), width in zip(splits, widths, strict=True)), "seconds"])
            )
        numbers = [f"{_number(record.row[name]):>{width}}" for name, width in zip(names, widths, strict=True)]
        lines.append("  ".join([f"{record.epoch:>5}", *numbers, f"{record.row['seconds']:>7.1f}"]))
        for line in lines:
            console.print(line.rstrip(), highlight=False, markup=False, soft_wrap=True)

    return show


_SHOWN = ("_loss", "_bits", "_accuracy", "_auc")
"""Endings of the names of the metrics that are printed after each epoch."""
_SHORT = {"accuracy": "acc."}


def _widths(metrics: list[str]) -> list[int]:
    return [max(6, len(metric)) for metric in metrics]


def _number(value: Any) -> str:
    """Format a metric as text with four decimals, or with fewer if the text would be longer than six characters."""
    if not isinstance(value, (int, float)):
        return "-"
    texts = [f"{value:.{decimals}f}" for decimals in (4, 3, 2, 1, 0)]
    return next((text for text in texts if len(text) <= 6), texts[-1])
