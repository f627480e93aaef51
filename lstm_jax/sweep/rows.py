"""Append-only files with one row (a JSON object) per line. A file whose name ends in .gz is compressed by gzip.

Floats that are not finite are written as NaN, Infinity and -Infinity. Python's json module reads these words, although they are not valid
JSON. If null were written instead, a reader of the file could not tell a diverged result (Infinity) from an undefined one (NaN).
"""

import gzip
import json
import os
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from lstm_jax.errors import InputError, require, system_errors
from lstm_jax.files.locks import folder_lock
from lstm_jax.files.writing import write_atomically


def _require_rows(path: Path) -> None:
    """Raise `InputError` if the path exists but is not a regular file, or if the first byte of the file cannot begin a row."""
    if not path.exists():
        return
    require(path.is_file(), f"rows {path}", "not a file", "name a file of rows, or a new one")
    with path.open("rb") as file:
        head = file.read(1)
    heads = (b"", b"\x1f") if path.suffix == ".gz" else (b"", b"{", b"\n")
    require(head in heads, f"rows {path}", "not rows of JSON", "name a file of rows, or a new one")


def _read(path: Path) -> bytes:
    """Return the bytes of a file of rows."""
    content = path.read_bytes()
    if path.suffix != ".gz" or not content:
        return content
    try:
        return gzip.decompress(content)
    except (EOFError, OSError, zlib.error) as error:
        raise InputError(f"rows {path}", error, "name a file that is complete, or a new one") from error


def read_rows(path: Path, check: Callable[[Any, str], dict[str, Any]] = lambda row, location: row) -> Iterator[dict[str, Any]]:
    """Yield the rows of a file that has one row (a JSON object) per line. If the file does not exist, yield nothing."""
    with system_errors(f"rows {path}", "name a file that can be read, or a new one"):
        if not path.exists():
            return
        _require_rows(path)
        content = _read(path)
    for number, line in enumerate(content.splitlines(), 1):
        try:
            row = json.loads(line.decode())
        except ValueError:
            if line.strip():
                print(f"{path}, line {number}: torn, skipped", file=sys.stderr)
            continue
        yield check(row, f"{path}, line {number}")


def append_rows(path: Path, *rows: dict[str, Any]) -> None:
    """Append rows to a file in a single write. The file and its folder are created if they do not exist."""
    with system_errors(f"rows {path}", "free some space, or name a file that can be written"):
        real = Path(os.path.realpath(path))  # `Path.resolve` raises another kind of error if links form a loop
        real.parent.mkdir(parents=True, exist_ok=True)
        with folder_lock(real.parent):
            _require_rows(path)
            _append(path, real, "".join(json.dumps(row) + "\n" for row in rows))


def _append(path: Path, real: Path, text: str) -> None:
    """Append text to a file of rows, which is compressed if `path` ends in .gz."""
    if path.suffix == ".gz":
        before = _read(path) if path.exists() else b""
        between = b"\n" if before and not before.endswith(b"\n") else b""
        write_atomically(real, gzip.compress(before + between + text.encode(), mtime=0))
        return
    with real.open("ab+") as file:
        if file.tell():
            file.seek(-1, os.SEEK_END)
            text = text if file.read(1) == b"\n" else "\n" + text  # a killed process has left half a line
        file.write(text.encode())
