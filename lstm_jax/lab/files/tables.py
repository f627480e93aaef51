"""Reading of tables, and of the texts in one column of a table.

A table is a JSON-lines or CSV file, which may be compressed by xz. The texts of a
column are also read from a JSON file, which holds a list
of records, a list of strings, or columns as pandas writes them: `{"article": {"0":
text, ...}}`.
"""

import csv
import itertools
import json
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from lstm_jax.base import reading
from lstm_jax.base.errors import InputError, parsing, require
from lstm_jax.base.reading import open_input
from lstm_jax.lab.files.reading import (
    XzStream,
    decode_utf8,
    encode_utf8,
    expanded,
    read_input,
    require_no_archive,
    require_utf8,
)

ENDINGS = (".jsonl", ".jsonl.xz", ".csv", ".csv.xz")
# largest field in characters; the default of Python's csv module is 128 Ki
FIELD_LIMIT = 1 << 30
TEXT_FLAG = "--text-column"
TEXT_NAMES = ("text", "article", "body", "content")
JSON_FORMS = (
    'give [{"text": ...}, ...] or {"text": {"0": ..., ...}}; name it .jsonl if '
    "each line is an object"
)

Row = dict[str, Any]
"""Dict from the name of each column to the value in this row."""
Columns = Mapping[str, str]
"""Dict from the name of each column that a table must have to the flag that names it.
"""
NumberedRows = Iterator[tuple[int, Row]]
"""Rows of a table, each with the number of its line."""


def is_table(path: Path) -> bool:
    """Return whether `table_rows` reads a file, by the ending of its name."""
    return path.name.lower().endswith(ENDINGS)


def has_columns(path: Path) -> bool:
    """Return whether `read_text_column` reads a file, by the ending of its name."""
    return path.name.lower().endswith((*ENDINGS, ".json"))


def table_rows(path: Path, wanted: Columns, limited: bool = True) -> NumberedRows:
    """Yield a pair (line number, values) for each row of a CSV or JSON-lines file."""
    subject = f"file {path.absolute()}"
    remedy = "give a complete file that can be read"
    with parsing(subject, remedy), open_input(path, subject, remedy, limited) as file:
        rows = _csv_rows if ".csv" in path.name.lower()[-7:] else _json_rows
        yield from rows(path, _lines(path, file), wanted)


def _lines(path: Path, file: IO[bytes]):
    if path.suffix.lower() == ".xz":
        file = expanded(XzStream(file), path.stat().st_size, f"file {path}")
    most = reading.most_bytes()
    for number, line in enumerate(iter(lambda: file.readline(most + 1), b""), 1):
        here = f"line {number} of {path}"
        require(len(line) <= most, here, f"more than {most:,} bytes", reading.MORE)
        if number == 1:
            require_no_archive(line, path)
            require_utf8(line, here)
        with parsing(here, "save the file as UTF-8"):
            text = line.decode("utf-8-sig" if number == 1 else "utf-8")
        yield text


def as_number(text: str) -> float | None:
    """Return the number that a text stands for, or None if it stands for none."""
    try:
        return None if "_" in text else float(text)
    except ValueError:
        return None


def _require_columns(columns: Collection[str], wanted: Columns, here: str):
    for column, flag in wanted.items():
        require(
            column in columns,
            f"column {column!r} in {here}",
            f"there are {', '.join(columns)}",
            f"name one with {flag}",
        )


def _json_rows(path: Path, lines: Iterable[str], wanted: Columns) -> NumberedRows:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        here = f"line {number} of {path}"
        remedy = "each line is one JSON object"
        with parsing(here, remedy):
            row = json.loads(line)
        require(isinstance(row, dict), here, line, remedy)
        _require_columns(row, wanted, here)
        yield number, row


def _csv_rows(path: Path, lines: Iterator[str], wanted: Columns) -> NumberedRows:
    header = next(lines, "")
    if not header:
        return
    csv.field_size_limit(max(FIELD_LIMIT, csv.field_size_limit()))
    reader = csv.reader(itertools.chain([header], lines), strict=True)
    try:
        first = next(csv.reader([header])) or [""]
        for mark, shown in ((";", "semicolons"), ("\t", "tabs")):
            converted = (
                f"pandas.read_csv({path.name!r}, sep={mark!r}, "
                "decimal=',').to_csv('new.csv', index=False)"
            )
            require(
                mark not in first[0] or (wanted and wanted.keys() <= {*first}),
                f"columns of {path}",
                f"separated by {shown}",
                f"give commas, and points in numbers: {converted}",
            )
        names = next(reader)
        while names and not names[-1].strip():
            names.pop()
        require(
            names, f"line 1 of {path}", "empty", "give the names of the columns there"
        )
        _require_columns(names, wanted, f"line 1 of {path}")
        require(
            len({*names}) == len(names),
            f"columns of {path}",
            f"{', '.join(names)}",
            "give each column a name of its own",
        )
        for fields in reader:
            if any(more := fields[len(names) :]):
                raise csv.Error(f"{len(more)} fields too many")
            if fields:
                yield reader.line_num, dict(zip(names, fields, strict=False))
    except csv.Error as error:
        raise InputError(
            f"line {max(1, reader.line_num)} of {path}",
            error,
            "put texts in quotes, one field a column",
        ) from error


def read_text_column(path: Path, column: str = "", keep: bool = False) -> list[str]:
    """Return the texts in one column of a table, in the order of its rows. If `column`
    is empty, the column is guessed.

    Rows whose text is empty, null or absent are left out or, with `keep`, an empty text
    is kept, and a null or absent one is an error.
    """
    if path.name.lower().endswith(".json"):
        rows = _json_table(path)
    else:
        rows = {
            f"line {number}": row
            for number, row in table_rows(path, {column: TEXT_FLAG} if keep else {})
        }
    names = sorted({name for row in rows.values() for name in row})
    if not names:
        return []
    name = column or _guess(names, rows.values(), path)
    require(
        name in names,
        f"column {name!r} of {path}",
        f"there are {names}",
        f"name one with {TEXT_FLAG}",
    )
    texts = []
    for number, row in rows.items():
        here = f"{name!r} in {number} of {path}"
        value: Any = row.get(name)
        if keep or not is_missing(value):
            require(
                isinstance(value, str),
                here,
                repr(value),
                f"give a string, or name another column with {TEXT_FLAG}",
            )
            encode_utf8(value, here, "save the text as UTF-8")
            texts.append(value)
    return texts


def is_missing(value) -> bool:
    """Return whether a cell has no value. A NaN, which pandas writes for missing
    values, differs from itself.
    """
    return value is None or value == "" or value != value


def _guess(names: list[str], rows: Collection[Row], path: Path) -> str:
    def holds_texts(name: str):
        present = [row[name] for row in rows if not is_missing(row.get(name))]
        return all(isinstance(value, str) for value in present) and any(
            as_number(value) is None for value in present
        )

    texts = names if len(names) == 1 else list(filter(holds_texts, names))
    if len(texts) > 1:
        texts = [name for name in texts if name.lower() in TEXT_NAMES]
    require(
        len(texts) == 1,
        f"column of the texts of {path}",
        f"one of {names}",
        f"name it with {TEXT_FLAG}",
    )
    return texts[0]


def _json_table(path: Path) -> dict[str, Row]:
    content = decode_utf8(read_input(path), path)
    with parsing(f"JSON {path}", JSON_FORMS):
        raw = json.loads(content)
    if isinstance(raw, dict) and all(
        isinstance(column, dict) for column in raw.values()
    ):
        numbers = dict.fromkeys(row for column in raw.values() for row in column)
        return {
            f"row {row}": {
                name: column[row] for name, column in raw.items() if row in column
            }
            for row in numbers
        }
    records = (
        [{"text": record} if isinstance(record, str) else record for record in raw]
        if isinstance(raw, list)
        else [raw]
    )
    good = isinstance(raw, list) and all(isinstance(record, dict) for record in records)
    require(good, f"JSON {path}", "neither records nor columns", JSON_FORMS)
    return {f"record {number}": record for number, record in enumerate(records, 1)}
