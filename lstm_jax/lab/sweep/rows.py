"""Append-only files with one row (a JSON object) per line, and functions that measure
the items that have no row yet.

A file whose name ends in .gz is compressed by gzip. Floats that are not finite are
written as NaN, Infinity and -Infinity. Python's json module reads these words, although
they are not valid JSON. If null were written instead, a reader of the file could not
tell a diverged result (Infinity) from an undefined one (NaN).
"""

import contextlib
import fcntl
import gzip
import json
import os
import subprocess
import sys
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import closing
from pathlib import Path
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Column
from rich.text import Text

from lstm_jax.base.errors import parsing, require, system_errors
from lstm_jax.base.types import Values as Row
from lstm_jax.base.writing import NO_LOCKS, write_atomically


@contextlib.contextmanager
def folder_lock(folder: Path) -> Iterator[None]:
    """Wait for the lock of an existing folder, and hold it during a with-statement."""
    number = os.open(folder, os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(number, fcntl.LOCK_EX)
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
        yield
    finally:
        os.close(number)


Measured = Generator[tuple[Sequence[Row], str], None, None]
"""Rows of each item that has been measured, and the line to print for it."""
Item = TypeVar("Item")


def _require_rows(path: Path):
    if path.exists():
        heads = (b"", b"\x1f") if path.suffix == ".gz" else (b"", b"{", b"\n")
        require(
            path.is_file(),
            f"rows {path}",
            "not a file",
            "name a file of rows, or a new one",
        )
        with path.open("rb") as file:
            require(
                file.read(1) in heads,
                f"rows {path}",
                "not rows of JSON",
                "name a file of rows, or a new one",
            )


def _read(path: Path) -> bytes:
    content = path.read_bytes() if path.exists() else b""
    if path.suffix != ".gz" or not content:
        return content
    with parsing(f"rows {path}", "name a file that is complete, or a new one"):
        return gzip.decompress(content)


def read_rows(
    path: Path, check: Callable[[Any, str], Row] | None = None
) -> Iterator[Row]:
    """Yield the rows of a file that has one row (a JSON object) per line. If the file
    does not exist, yield nothing.
    """
    with system_errors(f"rows {path}", "name a file that can be read, or a new one"):
        _require_rows(path)
        content = _read(path)
    for number, line in enumerate(content.splitlines(), 1):
        try:
            row = json.loads(line.decode())
        except ValueError:
            if line.strip():
                print(f"{path}, line {number}: torn, skipped", file=sys.stderr)
            continue
        yield check(row, f"{path}, line {number}") if check else row


def append_rows(path: Path, *rows: Row) -> None:
    """Append rows to a file in a single write. The file and its folder are created if
    they do not exist.
    """
    with system_errors(
        f"rows {path}", "free some space, or name a file that can be written"
    ):
        # `Path.resolve` raises another kind of error if links form a loop
        real = Path(os.path.realpath(path))
        real.parent.mkdir(parents=True, exist_ok=True)
        with folder_lock(real.parent):
            _require_rows(path)
            content = "".join(json.dumps(row) + "\n" for row in rows).encode()
            if path.suffix == ".gz":
                before = _read(path)
                between = b"\n" if before and not before.endswith(b"\n") else b""
                write_atomically(
                    real, gzip.compress(before + between + content, mtime=0)
                )
                return
            with real.open("ab+") as file:
                if file.tell():
                    file.seek(-1, os.SEEK_END)
                    # a killed process has left half a line
                    content = content if file.read(1) == b"\n" else b"\n" + content
                file.write(content)


def record(
    path: Path, title: str, total: int, outcomes: Measured, tally: object = None
) -> None:
    """Append results to a file as they arrive, print their lines, and show a progress
    bar on a terminal.
    """
    if total:
        append_rows(path)
    console = Console(soft_wrap=True)
    shown = (
        TextColumn("{task.fields[tally]}", table_column=Column(no_wrap=True))
        if tally
        else MofNCompleteColumn()
    )
    columns = (
        TextColumn(title, markup=False),
        BarColumn(None),
        shown,
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with (
        closing(outcomes),
        Progress(*columns, console=console, disable=not console.is_terminal) as display,
    ):
        task = display.add_task(title, total=total, tally=tally)
        for rows, line in outcomes:
            if rows:
                append_rows(path, *rows)
            console.print(Text(line))  # brackets in the line are no markup
            display.advance(task)


def run_missing(
    path: Path,
    wanted: Mapping[Any, Item],
    key_of: Callable[[Row], Any],
    measure: Callable[[Item], Sequence[Row]],
    title: str,
    describe: Callable[[Item, Sequence[Row]], str],
    check: Callable[[Any, str], Row] | None = None,
    workers: int = 1,
) -> list[Row]:
    """Measure the items that have no row in a file yet, append their rows, and return
    all rows of the file.
    """
    done = {key_of(row) for row in read_rows(path, check)}
    missing = {key: item for key, item in wanted.items() if key not in done}
    failed = 0

    def outcomes():
        nonlocal failed
        with ThreadPoolExecutor(workers) as pool:
            running = {pool.submit(measure, item): item for item in missing.values()}
            try:
                for future in as_completed(running):
                    try:
                        rows = future.result()
                        yield rows, describe(running[future], rows)
                    except subprocess.CalledProcessError as error:
                        failed += 1
                        yield (
                            (),
                            f"{running[future]}: failed, ended with code "
                            f"{error.returncode}",
                        )
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise

    record(path, title, len(missing), outcomes())
    if failed:
        print(
            f"{failed} {title} failed; their messages are above, and the same "
            "command runs them again"
        )
    return list(read_rows(path, check))
