"""Callbacks at the end of an epoch: functions of a small frozen record, which never get the trainer.

fit(..., callbacks=[lambda record: print(record.row["train_loss"])])
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
    """From 1."""
    step: int
    """Steps done since the start of the run."""
    row: dict[str, Any]
    """Metrics of this epoch: epoch, step, train_loss, train_accuracy, seconds, ... and those of `evaluate`."""
    rows: tuple[dict[str, Any], ...]
    """Rows of all epochs, this one last; a resumed run has the earlier ones too."""
    params: Any = field(repr=False)
    """Parameters, valid during the call only: the next step reuses their memory."""
    seed: int = 0


Callback = Callable[[EpochRecord], object]


def metrics_file(path: Path) -> Callback:
    """Write the rows to `path` as JSON lines, one per epoch; the whole file each time, so that a resumed run repeats no line."""

    def write(record: EpochRecord) -> None:
        write_atomically(path, "".join(json.dumps(row) + "\n" for row in record.rows))

    return write


def tensorboard(folder: Path) -> Callback:
    """Write each number of a row as a TensorBoard scalar at its step, into one file per run."""
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
    """Print one line per epoch."""

    def show(record: EpochRecord) -> None:
        numbers = {k: v for k, v in record.row.items() if isinstance(v, (int, float))}
        endings = ("_loss", "_bits", "_accuracy", "_auc")
        shown = [f"{k.replace('_', ' ')} {v:.4f}" for k, v in numbers.items() if k.endswith(endings)]
        console.print(f"epoch {record.epoch}: {', '.join(shown)} ({record.row['seconds']:.1f} s)", highlight=False)

    return show
