"""Tables of the rows of a sweep: if the names of columns collide, prefixes keep their values apart."""

import csv
from pathlib import Path
from typing import Any

from lstm_jax import sweep


def row(number: int, config: dict[str, Any], result: dict[str, Any] | None) -> dict[str, Any]:
    ended = {"status": "failed", "error": "no"} if result is None else {"status": "done", "result": result}
    return {"id": str(number), "config": config, "seconds": 0.5} | ended


def test_results_named_as_other_columns(tmp_path: Path) -> None:
    """A result with the name of another column gets a column with the prefix "result.", and the other column keeps its name and values."""
    result = {"error": 0.25, "seconds": 7.5, "status": "x", "id": "y", "units": -1, "model": {"depth": 3}, "loss": 2.0}
    rows = [row(1, {"units": 8, "model": {"depth": 1}}, result), row(2, {"units": 9, "model": {"depth": 2}}, None)]
    sweep.write_table(rows, tmp_path / "table.csv")
    renamed = [f"result.{name}" for name in ("error", "seconds", "status", "id", "units", "model.depth")]
    assert list(csv.reader((tmp_path / "table.csv").read_text().splitlines())) == [
        ["id", "status", "units", "model.depth", *renamed, "loss", "error", "seconds"],
        ["1", "done", "8", "1", "0.25", "7.5", "x", "y", "-1", "3", "2.0", "", "0.5"],
        ["2", "failed", "9", "2", "", "", "", "", "", "", "", "no", "0.5"],
    ]


def test_names_that_collide() -> None:
    """A prefix of a column is repeated until no other column has the name."""
    names, lines = sweep.table(
        [
            row(1, {"id": 5, "seconds": 6, "rate": 0.1}, {"error": 1, "result.error": 2, "config.id": 3, "rate": 4}),
            row(2, {}, {"seconds": 7}),
        ]
    )
    results = ["result.result.error", "result.error", "result.config.id", "result.rate", "result.seconds"]
    assert names == ["id", "status", "config.id", "config.seconds", "rate", *results, "error", "seconds"]
    assert lines == [["1", "done", 5, 6, 0.1, 1, 2, 3, 4, "", "", 0.5], ["2", "done", *[""] * 7, 7, "", 0.5]]
