"""Reading of tables. A table is a JSON-lines or CSV file, which may be compressed by xz."""

import contextlib
import csv
import itertools
import json
import threading
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from lstm_jax.data.text_files import require_no_archive, require_utf8
from lstm_jax.errors import InputError, require
from lstm_jax.files import reading
from lstm_jax.files.reading import XzStream, expanded, open_input, parsing

ENDINGS = (".jsonl", ".jsonl.xz", ".csv", ".csv.xz")
FIELD_LIMIT = 1 << 30  # largest field in characters; the default of Python's csv module is 128 Ki


def is_table(path: Path) -> bool:
    """Return whether a file is a table, which means that its name ends in .jsonl, .jsonl.xz, .csv or .csv.xz, in upper or lower case."""
    return path.name.lower().endswith(ENDINGS)


def table_rows(path: Path, wanted: Mapping[str, str] | None = None, limited: bool = True) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield a pair (line number, values) for each row of a CSV or JSON-lines file."""
    csv_file = ".csv" in path.name.lower()[-7:]
    subject, remedy = f"file {path.absolute()}", "give a complete file that can be read"
    with parsing(subject, remedy), open_input(path, subject, remedy, limited) as file:
        lines = _lines(path, file)
        yield from _csv_rows(path, lines, wanted or {}) if csv_file else _json_rows(path, lines, wanted or {})


def _lines(path: Path, file: IO[bytes]) -> Iterator[str]:
    if path.suffix.lower() == ".xz":
        file = expanded(XzStream(file), path.stat().st_size, f"file {path}")
    most = reading.most_bytes()
    for number, line in enumerate(iter(lambda: file.readline(most + 1), b""), 1):
        require(len(line) <= most, f"line {number} of {path}", f"more than {most:,} bytes", reading.MORE)
        if number == 1:
            require_no_archive(line, path)
            require_utf8(line, f"line 1 of {path}")
        try:
            yield line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise InputError(f"line {number} of {path}", error, "save the file as UTF-8") from error


def parse_number(text: str) -> float:
    """Return the number that a text stands for."""
    if "_" in text:
        raise ValueError(text)
    return float(text)


def parse_json(text: str | bytes) -> Any:
    """Return the Python value of a JSON text. NaN, Infinity and -Infinity are accepted too, as by `json.loads`."""
    try:
        return json.loads(text, object_pairs_hook=_object)
    except RecursionError as error:
        raise ValueError(f"nested too deep: {error}") from error


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        raise ValueError(f"the name {_twice(name for name, _ in pairs)!r} is there twice")
    return made


def _twice(names: Iterable[str]) -> str | None:
    return next((name for name, count in Counter(names).items() if count > 1), None)


def _require_columns(columns: Collection[str], wanted: Mapping[str, str], here: str) -> None:
    for column, flag in wanted.items():
        require(column in columns, f"column {column!r} in {here}", f"there are {', '.join(columns)}", f"name one with {flag}")


def _json_rows(path: Path, lines: Iterable[str], wanted: Mapping[str, str]) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = parse_json(line)
        except ValueError as error:
            raise InputError(f"line {number} of {path}", error, "each line is one JSON object") from error
        require(isinstance(row, dict), f"line {number} of {path}", line, "each line is one JSON object")
        _require_columns(row, wanted, f"line {number} of {path}")
        yield number, row


def _csv_rows(path: Path, lines: Iterator[str], wanted: Mapping[str, str]) -> Iterator[tuple[int, dict[str, Any]]]:
    header = next(lines, "")
    if not header:
        return
    with _long_fields():
        reader = csv.reader(itertools.chain([header], lines), strict=True)
        try:
            for mark, shown in ((",", ""), (";", "semicolons"), ("\t", "tabs")):
                if wanted.keys() <= set(next(csv.reader([header], delimiter=mark), ())):
                    converted = f"pandas.read_csv({path.name!r}, sep={mark!r}, decimal=',').to_csv('new.csv', index=False)"
                    remedy = f"give commas, and points in numbers: {converted}"
                    require(mark == ",", f"columns of {path}", f"separated by {shown}", remedy)
                    break
            names = next(reader)
            while names and not names[-1].strip():
                names.pop()
            require(bool(names), f"line 1 of {path}", "empty", "give the names of the columns there")
            _require_columns(names, wanted, f"line 1 of {path}")
            twice = _twice(names)
            require(twice is None, f"columns of {path}", f"{twice!r} twice", "give each column a name of its own")
            for fields in reader:
                if any(more := fields[len(names) :]):
                    raise csv.Error(f"{len(more)} fields too many")
                if fields:
                    yield reader.line_num, dict(zip(names, fields, strict=False))
        except csv.Error as error:
            raise InputError(f"line {max(1, reader.line_num)} of {path}", error, "put texts in quotes, one field a column") from error


_readers: list[int] = []
"""List with one entry for each CSV file that is being read. All entries have the same value, which is the value of
`csv.field_size_limit()` before the first of these files was read."""
_lock = threading.Lock()


@contextlib.contextmanager
def _long_fields() -> Iterator[None]:
    """Raise `csv.field_size_limit` to `FIELD_LIMIT` during a with-statement."""
    with _lock:
        before = _readers[0] if _readers else csv.field_size_limit()
        _readers.append(before)
        csv.field_size_limit(max(FIELD_LIMIT, before))
    try:
        yield
    finally:
        with _lock:
            _readers.pop()
            if not _readers:
                csv.field_size_limit(before)
