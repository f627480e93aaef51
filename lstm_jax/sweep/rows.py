"""Append-only rows of JSON, one a line, in a plain or a compressed (.gz) file."""

import gzip
import json
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from lstm_jax.errors import InputError, require
from lstm_jax.files.writing import write_atomically


def _require_rows(path: Path) -> None:
    """Raise `InputError` for a device or pipe, and for a file that begins with something else than a row or what is left of one."""
    if not path.exists():
        return
    require(path.is_file(), f"rows {path}", "not a file", "name a file of rows, or a new one")
    with path.open("rb") as file:
        head = file.read(1)
    heads = (b"", b"\x1f") if path.suffix == ".gz" else (b"", b"{", b"\n")
    require(head in heads, f"rows {path}", "not rows of JSON", "name a file of rows, or a new one")


def _read(path: Path) -> bytes:
    """Return the text of a file of rows, decompressed if its name ends in .gz; raise `InputError` for a damaged file."""
    content = path.read_bytes()
    if path.suffix != ".gz" or not content:
        return content
    try:
        return gzip.decompress(content)
    except (EOFError, OSError, zlib.error) as error:
        raise InputError(f"rows {path}", error, "name a file that is complete, or a new one") from error


def read_rows(path: Path, check: Callable[[Any, str], dict[str, Any]] = lambda row, location: row) -> Iterator[dict[str, Any]]:
    """Yield the rows of a file, none if it is absent; skip a torn line, as a killed process leaves one, with a note on standard error.

    Args:
        path: JSON lines, plain or compressed (.gz).
        check: check(row, file and line) -> row; raises `InputError` for a row that does not fit.

    Raises:
        InputError: if the file holds no rows, or is damaged.
    """
    if not path.exists():
        return
    _require_rows(path)
    for number, line in enumerate(_read(path).decode().splitlines(), 1):
        try:
            row = json.loads(line)
        except ValueError:
            if line.strip():
                print(f"{path}, line {number}: torn, skipped", file=sys.stderr)
            continue
        yield check(row, f"{path}, line {number}")


def append_rows(path: Path, *rows: dict[str, Any]) -> None:
    """Append rows, in one write before this returns; a file ending in .gz is rewritten and renamed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    _require_rows(path)
    text = "".join(json.dumps(row) + "\n" for row in rows)
    if path.suffix == ".gz":
        write_atomically(path, gzip.compress((_read(path) if path.exists() else b"") + text.encode(), mtime=0))
        return
    torn = path.exists() and path.stat().st_size > 0 and not path.read_bytes().endswith(b"\n")
    with path.open("a") as file:
        file.write(("\n" if torn else "") + text)
        file.flush()
