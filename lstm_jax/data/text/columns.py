"""Reading of the texts in one column of a table.

A table is a CSV file, a JSON-lines file, or a JSON file. A JSON file holds a list of records, a list of strings, or columns as pandas
writes them: `{"article": {"0": text, ...}}`.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from lstm_jax.data.tables import is_table, parse_json, parse_number, table_rows
from lstm_jax.data.text_files import decode_utf8
from lstm_jax.errors import InputError, require
from lstm_jax.files.reading import parsing, read_input

TEXT_NAMES = ("text", "article", "body", "content")
JSON_FORMS = 'give [{"text": ...}, ...] or {"text": {"0": ..., ...}}; name it .jsonl if each line is an object'

Columns = dict[str, dict[str, Any]]
"""Dict from the name of each column to a dict that maps the name of each row to the value in this row and column, for example
`{"text": {"line 2": "Once ...", "line 3": ...}}`. Error messages show the names of the rows."""


def has_columns(path: Path) -> bool:
    """Return whether a file is a table, which means that its name ends in .csv, .csv.xz, .jsonl, .jsonl.xz or .json."""
    return is_table(path) or path.name.lower().endswith(".json")


def read_text_column(path: Path, column: str = "", keep: bool = False) -> list[str]:
    """Return the texts in one column of a table, in the order of its rows.

    Rows whose text is empty, null or absent are left out or, with `keep`, an empty text is kept, and a null or absent one is an error.
    """
    columns = _read_columns(path)
    if not columns:
        return []
    name = column or _guess(columns, path)
    require(name in columns, f"column {name!r} of {path}", f"there are {sorted(columns)}", "name one with --text-column")
    texts = []
    absent = {row for values in columns.values() for row in values} - set(columns[name]) if keep else set()
    require(not absent, f"column {name!r} of {path}", f"absent in {min(absent, default='')}", "give a text in each row")
    for row, value in columns[name].items():
        if _is_missing(value) and not keep:
            continue
        here = f"{name!r} in {row} of {path}"
        require(isinstance(value, str), here, repr(value), "give a string, or name another column with --text-column")
        try:
            texts.append(value if value.isascii() else value.encode().decode())
        except UnicodeEncodeError as error:
            raise InputError(here, error, "save the text as UTF-8") from error
    return texts


def _is_missing(value: Any) -> bool:
    return value is None or value == "" or value != value  # a NaN differs from itself; pandas uses it for missing values


def _guess(columns: Columns, path: Path) -> str:
    if len(columns) == 1:
        (name,) = columns
        remedy = "separate the columns by commas, or name this one with --text-column"
        require(not set(";\t") & set(name), f"columns of {path}", f"only one, {name!r}", remedy)
        return name
    texts = [name for name, column in columns.items() if _holds_texts(column.values())]
    if len(texts) != 1:
        texts = [name for name in texts if name.lower() in TEXT_NAMES]
    require(len(texts) == 1, f"column of the texts of {path}", f"one of {sorted(columns)}", "name it with --text-column")
    return texts[0]


def _holds_texts(values: Iterable[Any]) -> bool:
    present = [value for value in values if not _is_missing(value)]
    return all(isinstance(value, str) for value in present) and not all(map(_is_number, present))


def _is_number(text: str) -> bool:
    try:
        parse_number(text)
    except ValueError:
        return False
    return True


def _read_columns(path: Path) -> Columns:
    if path.name.lower().endswith(".json"):
        return _json_columns(path)
    return _by_column((f"line {number}", row) for number, row in table_rows(path))


def _json_columns(path: Path) -> Columns:
    content = decode_utf8(read_input(path), path)
    with parsing(f"JSON {path}", JSON_FORMS):
        raw = parse_json(content)
    if isinstance(raw, list):
        records = [{"text": record} if isinstance(record, str) else record for record in raw]
        if all(isinstance(record, dict) for record in records):
            return _by_column((f"record {number}", record) for number, record in enumerate(records, 1))
    elif isinstance(raw, dict) and all(isinstance(column, dict) for column in raw.values()):
        return {name: {f"row {row}": value for row, value in column.items()} for name, column in raw.items()}
    raise InputError(f"JSON {path}", "neither records nor columns", JSON_FORMS)


def _by_column(rows: Iterable[tuple[str, dict[str, Any]]]) -> Columns:
    columns: Columns = {}
    for number, row in rows:
        for name, value in row.items():
            columns.setdefault(name, {})[number] = value
    return columns
