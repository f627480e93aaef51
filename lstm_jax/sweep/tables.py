"""Conversion of the rows of a sweep to a table, which can be written as a CSV file."""

import csv
import io
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from lstm_jax.files.writing import write_atomically

_FIRST, _LAST = ("id", "status"), ("error", "seconds")
"""Names of the columns that stand before (`_FIRST`) and after (`_LAST`) the columns of the config fields and of the results."""


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
    The columns are id, status, the fields of the config, the results, error and seconds. If a field has the name id, status, error or
    seconds, its column is named `config.NAME`. If a result has one of these four names or the name of a field, its column is named
    `result.NAME`.
    """
    parts = [(row, flatten(row["config"]), flatten(row.get("result", {}))) for row in rows]
    fields = _columns(dict.fromkeys(name for _, config, _ in parts for name in config), "config.", {*_FIRST, *_LAST})
    results = _columns(dict.fromkeys(name for *_, result in parts for name in result), "result.", {*_FIRST, *_LAST, *fields.values()})
    names = [*_FIRST, *fields.values(), *results.values(), *_LAST]
    lines = [
        {name: row.get(name, "") for name in (*_FIRST, *_LAST)}
        | {fields[name]: value for name, value in config.items()}
        | {results[name]: value for name, value in result.items()}
        for row, config, result in parts
    ]
    return names, [[line.get(name, "") for name in names] for line in lines]


def _columns(names: Collection[str], prefix: str, taken: set[str]) -> dict[str, str]:
    """Return a dict from each field or result to the name of its column, which no other column has."""
    columns: dict[str, str] = {}
    for name in names:
        column = name
        while column in taken or column in columns.values() or (column != name and column in names):
            column = prefix + column
        columns[name] = column
    return columns


def write_table(rows: Iterable[Mapping[str, Any]], path: str | Path) -> None:
    """Write the table of the rows (see `table`) to a CSV file."""
    names, lines = table(rows)
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([names, *lines])
    write_atomically(Path(path), text.getvalue().encode())
