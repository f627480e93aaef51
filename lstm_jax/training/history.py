"""Rows of the epochs of a run so far, and its best epoch; a checkpoint stores them as JSON."""

import math
from dataclasses import dataclass, replace
from typing import Any


@dataclass(frozen=True)
class History:
    """Rows of the finished epochs, and the best epoch.

    `best_epoch` counts from 1 and is 0 if there is no best epoch; `best_value` is its monitored metric; `seconds` is the time trained so
    far.
    """

    rows: tuple[dict[str, Any], ...] = ()
    best_epoch: int = 0
    best_value: float = float("inf")
    seconds: float = 0.0

    def with_row(self, row: dict[str, Any], monitor: str, seconds: float) -> tuple["History", bool]:
        """Return the history with the row of one more epoch, and whether that epoch is the best one so far.

        If `monitor` is empty, each new epoch counts as the best one. Otherwise the best epoch has the smallest value of that metric. The
        first epoch counts as the best one even if its metric is nan; the next epoch then replaces it.
        """
        unset = not self.best_epoch or math.isnan(self.best_value)
        better = not monitor or unset or row[monitor] < self.best_value
        new = replace(self, rows=(*self.rows, row), seconds=seconds)
        return replace(new, best_value=row[monitor], best_epoch=len(new.rows)) if monitor and better else new, better

    def out_of_patience(self, patience: int) -> bool:
        """Return whether the last `patience` epochs did not improve on the best epoch; if `patience` is 0, return False."""
        return bool(patience and len(self.rows) - self.best_epoch >= patience)

    def to_json(self) -> dict[str, Any]:
        """Return the history as a dict for JSON; since JSON has no infinity, `best_value` is None if there is no best epoch."""
        best = self.best_value if self.best_epoch else None
        return {"rows": list(self.rows), "best_epoch": self.best_epoch, "best_value": best, "seconds": self.seconds}

    @staticmethod
    def from_json(raw: dict[str, Any]) -> "History":
        """Return the history from a dict that `to_json` returned."""
        best = float("inf") if raw["best_value"] is None else raw["best_value"]
        return History(tuple(raw["rows"]), raw["best_epoch"], best, raw["seconds"])
