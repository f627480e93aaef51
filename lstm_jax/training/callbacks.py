"""What happens at the end of an epoch: functions of a small frozen record, which never get the trainer.

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
    """The end of an epoch."""

    epoch: int
    """From 1."""
    step: int
    """Steps done since the start of the run."""
    row: dict[str, Any]
    """This epoch's figures: epoch, step, train_loss, train_accuracy, seconds, ... and what `evaluate` gave."""
    rows: tuple[dict[str, Any], ...]
    """Those of all epochs, this one last; a resumed run has the earlier ones too."""
    params: Any = field(repr=False)
    """The parameters, valid during the call only: the next step takes their memory."""
    seed: int = 0


Callback = Callable[[EpochRecord], object]


def metrics_file(path: Path) -> Callback:
    """Keep `path` as JSON lines, one an epoch; written whole each time, so that a resumed run leaves no line twice."""

    def write(record: EpochRecord) -> None:
        write_atomically(path, "".join(json.dumps(row) + "\n" for row in record.rows))

    return write


def tensorboard(folder: Path) -> Callback:
    """Write each number of a row as a TensorBoard scalar at its step, into one file a run."""
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
    """One line an epoch."""

    def show(record: EpochRecord) -> None:
        numbers = {k: v for k, v in record.row.items() if isinstance(v, (int, float))}
        told = ("_loss", "_bits", "_accuracy", "_auc")
        shown = [f"{k.replace('_', ' ')} {v:.4f}" for k, v in numbers.items() if k.endswith(told)]
        console.print(f"epoch {record.epoch}: {', '.join(shown)} ({record.row['seconds']:.1f} s)", highlight=False)

    return show
