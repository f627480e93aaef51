"""Callbacks, which are functions that the training loop calls after each epoch with a record of the epoch (`EpochRecord`).

Example: `fit(..., callbacks=[lambda record: print(record.row["train_loss"])])`.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from lstm_jax.files.writing import write_atomically
from lstm_jax.training.events import append_scalars, cut_off, events_file


@dataclass(frozen=True)
class EpochRecord:
    """Record of a run at the end of an epoch. The training loop calls each callback with this record."""

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
    """Parameters of the model. They are valid only during the call, because the next training step reuses their memory."""
    seed: int = 0


Callback = Callable[[EpochRecord], object]


def metrics_file(path: Path) -> Callback:
    """Return a callback that writes the metrics of all epochs to the file `path`, as one line of JSON per epoch.

    After each epoch it writes the whole file anew, so that a resumed run repeats no line.
    """

    def write(record: EpochRecord) -> None:
        write_atomically(path, "".join(json.dumps(row) + "\n" for row in record.rows))

    return write


def tensorboard(folder: Path) -> Callback:
    """Return a callback that writes the metrics of each epoch as TensorBoard scalars to an event file in `folder`.

    A resumed run continues the event file of the interrupted run.
    """
    path: Path | None = None

    def write(record: EpochRecord) -> None:
        nonlocal path
        if path is None:
            path = events_file(folder)
            cut_off(path, record.step)
        numbers = {name: value for name, value in record.row.items() if isinstance(value, (int, float)) and name not in ("epoch", "step")}
        append_scalars(path, record.step, numbers)

    return write


def print_row(console: Console) -> Callback:
    """Return a callback that prints one line of metrics after each epoch."""

    def show(record: EpochRecord) -> None:
        numbers = {k: v for k, v in record.row.items() if isinstance(v, (int, float))}
        endings = ("_loss", "_bits", "_accuracy", "_auc")
        shown = [f"{k.replace('_', ' ')} {v:.4f}" for k, v in numbers.items() if k.endswith(endings)]
        console.print(f"epoch {record.epoch}: {', '.join(shown)} ({record.row['seconds']:.1f} s)", highlight=False)

    return show
