"""Append-only rows of JSON."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


def read(path: Path) -> Iterator[dict[str, Any]]:
    """Rows of a file, none if it is absent; a torn last line is passed over."""
    if path.exists():
        for line in path.read_text().splitlines():
            try:
                yield json.loads(line)
            except ValueError:
                continue


def append(path: Path, row: dict[str, Any]) -> None:
    """Add a row at the end, handed to the disk before this returns."""
    path.parent.mkdir(parents=True, exist_ok=True)
    torn = path.exists() and not path.read_bytes().endswith(b"\n") and path.stat().st_size > 0
    with path.open("a") as file:
        file.write(("\n" if torn else "") + json.dumps(row) + "\n")
        file.flush()
