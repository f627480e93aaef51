"""Reading of tables. A table is a JSON-lines or CSV file, which may be compressed by xz."""

import contextlib
import csv
import itertools
import json
import lzma
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from lstm_jax.data.text_files import require_no_archive, require_utf8
from lstm_jax.errors import InputError, require
from lstm_jax.files import reading
from lstm_jax.files.reading import expanded, open_input, parsing

ENDINGS = (".jsonl", ".jsonl.xz", ".csv", ".csv.xz")
FIELD_LIMIT = 1 << 30  # largest field in characters; the default of Python's csv module is 128 Ki


def is_table(path: Path) -> bool:
    """Return whether a file is a table, which means that its name ends in .jsonl, .jsonl.xz, .csv or .csv.xz, in upper or lower case."""
    return path.name.lower().endswith(ENDINGS)


def table_rows(path: Path, wanted: tuple[str, ...] = (), limited: bool = True) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield a pair (line number, values) for each row of a CSV or JSON-lines file.

    The values of a row are a dict from the names of the columns to the values in this row.

    Args:
        path: the file.
        wanted: names of columns that the caller needs. They serve only to detect a CSV file whose fields are separated by semicolons or
            tabs and not by commas. A file counts as such a file if a split of its first line at semicolons or at tabs gives all these
            names, but a split at commas does not.
        limited: whether a large file is an error; see `open_input`.

    Raises:
        InputError: in one of these cases.

            - The file is absent or truncated.
            - The file holds invalid UTF-8, JSON or CSV. The message names the line.
            - Two columns of a CSV file have the same name.
            - The columns `wanted` show that semicolons or tabs separate the fields of a CSV file.
    """
    csv_file = ".csv" in path.name.lower()[-7:]
    subject, remedy = f"file {path.absolute()}", "give a complete file that can be read"
    with parsing(subject, remedy), open_input(path, subject, remedy, limited) as file:
        lines = _lines(path, file)
        yield from _csv_rows(path, lines, wanted) if csv_file else _json_rows(path, lines)


def _lines(path: Path, file: IO[bytes]) -> Iterator[str]:
    if path.suffix.lower() == ".xz":
        file = expanded(lzma.open(file), path.stat().st_size, f"file {path}")  # noqa: SIM115
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
    """Return the number that a text stands for.

    Raises:
        ValueError: if the text is no number, or has an underscore. Python's `float` would read the month 2024_01 as the number 202401.
    """
    if "_" in text:
        raise ValueError(text)
    return float(text)


def parse_json(text: str | bytes) -> Any:
    """Return the Python value of a JSON text. NaN, Infinity and -Infinity are accepted too, as by `json.loads`.

    Raises:
        ValueError: if the text is not valid JSON, an object has the same name twice, or the values are nested too deeply.
    """
    try:
        return json.loads(text, object_pairs_hook=_object)
    except RecursionError as error:
        raise ValueError(f"nested too deep: {error}") from error


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the name {next(name for name in names if names.count(name) > 1)!r} is there twice")
    return made


def _json_rows(path: Path, lines: Iterable[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = parse_json(line)
        except ValueError as error:
            raise InputError(f"line {number} of {path}", error, "each line is one JSON object") from error
        require(isinstance(row, dict), f"line {number} of {path}", line, "each line is one JSON object")
        yield number, row


def _require_commas(path: Path, header: str, wanted: tuple[str, ...]) -> None:
    """Check that commas separate the columns of a CSV file.

    Raises:
        InputError: if the first line `header`, when it is split at commas, lacks one of the columns `wanted`, but has all of them when it
            is split at semicolons or at tabs.
    """
    if not wanted or set(wanted) <= _columns(header, ","):
        return
    for mark, shown in ((";", "semicolons"), ("\t", "tabs")):
        converted = f"pandas.read_csv({path.name!r}, sep={mark!r}, decimal=',').to_csv('new.csv', index=False)"
        remedy = f"give commas, and points in numbers: {converted}"
        require(not set(wanted) <= _columns(header, mark), f"columns of {path}", f"separated by {shown}", remedy)


def _columns(header: str, mark: str) -> set[str]:
    return set(next(csv.reader([header], delimiter=mark), []))


def _csv_rows(path: Path, lines: Iterable[str], wanted: tuple[str, ...]) -> Iterator[tuple[int, dict[str, Any]]]:
    lines = iter(lines)
    header = next(lines, "")
    require(not header or header.strip() != "", f"line 1 of {path}", "empty", "give the names of the columns there")
    with _long_fields():
        reader = csv.DictReader(itertools.chain([header], lines), strict=True)
        try:
            _require_commas(path, header, wanted)
            names = reader.fieldnames or ()
            twice = [name for name in names if names.count(name) > 1]
            require(not twice, f"columns of {path}", f"{twice[0] if twice else ''!r} twice", "give each column a name of its own")
            for row in reader:
                if None in row:
                    raise csv.Error(f"{len(row[None])} fields too many")
                yield reader.line_num, row
        except csv.Error as error:
            line = max(1, reader.reader.line_num)
            raise InputError(f"line {line} of {path}", error, "put texts in quotes, one field a column") from error


_readers: list[int] = []
"""List with one entry for each CSV file that is being read. All entries have the same value, which is the value of
`csv.field_size_limit()` before the first of these files was read."""
_lock = threading.Lock()


@contextlib.contextmanager
def _long_fields() -> Iterator[None]:
    """Raise the largest allowed size of a CSV field (`csv.field_size_limit`) to `FIELD_LIMIT` (2**30 characters) during a with-statement.

    The whole process shares this limit. If several such with-statements overlap, the end of the last one restores the old limit.
    """
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
