"""Metrics of the finished epochs of a run, and its best epoch. A checkpoint stores them as JSON."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np

from lstm_jax.errors import InputError, require


@dataclass(frozen=True)
class History:
    """Metrics of the finished epochs of a run, and its best epoch.

    `rows` has one dict of metrics for each epoch. The best epoch is the one with the smallest value of the monitored metric, or with the
    largest value if `with_row` is called with `largest`. `best_epoch` is the number of the best epoch, counted from 1. `best_value` is the
    value of the monitored metric in the best epoch. If there is no best epoch, `best_epoch` is 0 and `best_value` is infinity. `seconds` is
    the training time so far.
    """

    rows: tuple[dict[str, Any], ...] = ()
    best_epoch: int = 0
    best_value: float = float("inf")
    seconds: float = 0.0

    def with_row(self, row: dict[str, Any], monitor: str, seconds: float, largest: bool = False) -> tuple["History", bool]:
        """Return a pair: the history with one more epoch, and whether this epoch is the best one so far."""
        worst = not self.best_epoch or (math.isnan(self.best_value) and not math.isnan(row[monitor]))
        better = not monitor or worst or (row[monitor] > self.best_value if largest else row[monitor] < self.best_value)
        new = replace(self, rows=(*self.rows, row), seconds=seconds)
        return replace(new, best_value=row[monitor], best_epoch=len(new.rows)) if monitor and better else new, better

    def out_of_patience(self, patience: int) -> bool:
        """Return whether the best epoch lies at least `patience` epochs before the newest one."""
        return bool(patience and len(self.rows) - self.best_epoch >= patience)

    def to_json(self) -> dict[str, Any]:
        """Return the history as a dict that JSON can represent."""
        best = self.best_value if self.best_epoch else None
        return {"rows": list(self.rows), "best_epoch": self.best_epoch, "best_value": best, "seconds": self.seconds}

    @staticmethod
    def from_json(raw: Any) -> "History":
        """Return the history that a dict from `to_json` represents."""
        rows, epoch, value, seconds = (raw.get(name) for name in ("rows", "best_epoch", "best_value", "seconds"))
        whole = isinstance(rows, list) and all(isinstance(row, dict) and isinstance(row.get("step"), int) for row in rows)
        whole = whole and isinstance(epoch, int) and 0 <= epoch <= len(rows) and isinstance(seconds, int | float)
        require(whole and isinstance(value, int | float | None), "history in a checkpoint", "damaged", "name another run")
        return History(tuple(rows), epoch, float("inf") if value is None else value, seconds)


def plain_metrics(found: Any) -> dict[str, Any]:
    """Return a dict of metrics in which each scalar of JAX or NumPy is replaced by a Python number, and each other array by a list."""
    remedy = "return a dict from names to numbers"
    require(isinstance(found, Mapping), "metrics", type(found).__name__, remedy)
    for name in found:
        require(isinstance(name, str), "name of a metric", repr(name), remedy)
    metrics = {name: _plain(value) for name, value in found.items()}
    for name, value in metrics.items():
        try:
            json.dumps(value)
        except (TypeError, ValueError) as error:
            raise InputError(f"metric {name}", error, "return numbers, texts, or lists and dicts of them") from error
    return metrics


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return np.asarray(value).tolist() if isinstance(value, jax.Array | np.ndarray | np.generic) else value
