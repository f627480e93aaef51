"""Epochs of a run so far: their rows and the best one; the JSON part of a checkpoint."""

import math
from dataclasses import dataclass, replace
from typing import Any


@dataclass(frozen=True)
class History:
    """Rows of the epochs done, one each; best_epoch: from 1, 0 for none; seconds: time trained."""

    rows: tuple[dict[str, Any], ...] = ()
    best_epoch: int = 0
    best_value: float = float("inf")
    seconds: float = 0.0

    def with_row(self, row: dict[str, Any], monitor: str, seconds: float) -> tuple["History", bool]:
        """Return the history with the row of one more epoch, and whether that epoch is the best one so far.

        Without a monitored metric the newest epoch is the best one. The first epoch stays the best until a better one comes, even if its
        metric is nan.
        """
        unset = not self.best_epoch or math.isnan(self.best_value)
        better = not monitor or unset or row[monitor] < self.best_value
        new = replace(self, rows=(*self.rows, row), seconds=seconds)
        return replace(new, best_value=row[monitor], best_epoch=len(new.rows)) if monitor and better else new, better

    def out_of_patience(self, patience: int) -> bool:
        """Return whether the last `patience` epochs brought no better one; 0 for unlimited patience."""
        return bool(patience and len(self.rows) - self.best_epoch >= patience)

    def to_json(self) -> dict[str, Any]:
        """Return the history as JSON, which has no infinity: no best value is null."""
        best = self.best_value if self.best_epoch else None
        return {"rows": list(self.rows), "best_epoch": self.best_epoch, "best_value": best, "seconds": self.seconds}

    @staticmethod
    def from_json(raw: dict[str, Any]) -> "History":
        """Read what `to_json` returned."""
        best = float("inf") if raw["best_value"] is None else raw["best_value"]
        return History(tuple(raw["rows"]), raw["best_epoch"], best, raw["seconds"])
