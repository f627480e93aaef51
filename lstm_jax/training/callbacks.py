"""Callbacks at the end of an epoch: functions that get a small frozen record, and no access to the training loop.

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
    """State of a run at the end of an epoch."""

    epoch: int
    """Number of the epoch, counted from 1."""
    step: int
    """Number of steps done since the start of the run."""
    row: dict[str, Any]
    """Metrics of this epoch: epoch, step, train_loss, train_accuracy, seconds, ... and the metrics that `evaluate` returned."""
    rows: tuple[dict[str, Any], ...]
    """Rows of all epochs up to this one, including those before a resumption."""
    params: Any = field(repr=False)
    """Parameters, which are valid only during the call, because the next step reuses their memory."""
    seed: int = 0


Callback = Callable[[EpochRecord], object]


def metrics_file(path: Path) -> Callback:
    """Return a callback that writes the rows of all epochs to `path`, one JSON line per epoch.

    It writes the whole file each time, so that a resumed run repeats no line.
    """

    def write(record: EpochRecord) -> None:
        write_atomically(path, "".join(json.dumps(row) + "\n" for row in record.rows))

    return write


def tensorboard(folder: Path) -> Callback:
    """Return a callback that writes each number of a row as a TensorBoard scalar at its step, into one file per run."""
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
    """Return a callback that prints one line per epoch."""

    def show(record: EpochRecord) -> None:
        numbers = {k: v for k, v in record.row.items() if isinstance(v, (int, float))}
        endings = ("_loss", "_bits", "_accuracy", "_auc")
        shown = [f"{k.replace('_', ' ')} {v:.4f}" for k, v in numbers.items() if k.endswith(endings)]
        console.print(f"epoch {record.epoch}: {', '.join(shown)} ({record.row['seconds']:.1f} s)", highlight=False)

    return show
