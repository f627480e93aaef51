"""Append-only rows of JSON."""

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


def read(path: Path, check: Callable[[Any, str], dict[str, Any]] = lambda row, place: row) -> Iterator[dict[str, Any]]:
    """Rows of a file, none if it is absent; a torn line, as a killed process leaves one, is passed over and said on standard error.

    Args:
        check: check(row, its place) -> row, see `bench.schema.check`.
    """
    if not path.exists():
        return
    for number, line in enumerate(path.read_text().splitlines(), 1):
        try:
            row = json.loads(line)
        except ValueError:
            if line.strip():
                print(f"{path}, line {number}: torn, passed over", file=sys.stderr)
            continue
        yield check(row, f"{path}, line {number}")


def append(path: Path, *rows: dict[str, Any]) -> None:
    """Add rows at the end, handed to the system in one piece before this returns."""
    path.parent.mkdir(parents=True, exist_ok=True)
    torn = path.exists() and path.stat().st_size > 0 and not path.read_bytes().endswith(b"\n")
    with path.open("a") as file:
        file.write(("\n" if torn else "") + "".join(json.dumps(row) + "\n" for row in rows))
        file.flush()
