"""Append-only rows of JSON, one a line."""

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from lstm_jax.errors import require


def _require_rows(path: Path) -> None:
    """Raise `InputError` for a device or pipe, and for a file that begins with something else than a row or what is left of one."""
    if not path.exists():
        return
    require(path.is_file(), f"rows {path}", "not a file", "name a file of rows, or a new one")
    with path.open("rb") as file:
        head = file.read(1)
    require(head in (b"", b"{", b"\n"), f"rows {path}", "not rows of JSON", "name a file of rows, or a new one")


def read_rows(path: Path, check: Callable[[Any, str], dict[str, Any]] = lambda row, place: row) -> Iterator[dict[str, Any]]:
    """Rows of a file, none if it is absent; a torn line, as a killed process leaves one, is passed over and said on standard error.

    Args:
        check: check(row, its place) -> row, see `bench.schema.check`.
    """
    if not path.exists():
        return
    _require_rows(path)
    for number, line in enumerate(path.read_text().splitlines(), 1):
        try:
            row = json.loads(line)
        except ValueError:
            if line.strip():
                print(f"{path}, line {number}: torn, passed over", file=sys.stderr)
            continue
        yield check(row, f"{path}, line {number}")


def append_rows(path: Path, *rows: dict[str, Any]) -> None:
    """Add rows at the end, handed to the system in one piece before this returns."""
    path.parent.mkdir(parents=True, exist_ok=True)
    _require_rows(path)
    torn = path.exists() and path.stat().st_size > 0 and not path.read_bytes().endswith(b"\n")
    with path.open("a") as file:
        file.write(("\n" if torn else "") + "".join(json.dumps(row) + "\n" for row in rows))
        file.flush()
