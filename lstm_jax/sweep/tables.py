"""Conversion of the rows of a sweep to a table, which can be written as a CSV file."""

import csv
import io
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from lstm_jax.files.writing import write_atomically


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return a nested mapping as a flat dict: {"model": {"units": 8}} becomes {"model.units": 8}.

    Args:
        values: the nested mapping.
        prefix: text that is put before each key of the result.
    """
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= flatten(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {prefix + name: value}
    return flat


def table(rows: Iterable[Mapping[str, Any]]) -> tuple[list[str], list[list[Any]]]:
    """Return the rows of a sweep as a table, which is a pair (names of the columns, list of lines).

    A line is the list of the values of one row, one value for each column. If the row has no value for a column, the line contains "".
    The columns are id, status, the fields of the config, the results, error and seconds.
    """
    lines = [
        {"id": row["id"], "status": row["status"]}
        | flatten(row["config"])
        | flatten(row.get("result", {}))
        | {"error": row.get("error", ""), "seconds": row["seconds"]}
        for row in rows
    ]
    names = [*dict.fromkeys(name for line in lines for name in line if name not in ("error", "seconds")), "error", "seconds"]
    return names, [[line.get(name, "") for name in names] for line in lines]


def write_table(rows: Iterable[Mapping[str, Any]], path: str | Path) -> None:
    """Write the table of the rows (see `table`) to a CSV file."""
    names, lines = table(rows)
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([names, *lines])
    write_atomically(Path(path), text.getvalue().encode())
