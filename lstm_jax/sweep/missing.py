"""Measurements whose rows are kept in a file: run what the file lacks, skip what it has."""

import subprocess
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import closing
from pathlib import Path
from typing import Any, TypeVar

from lstm_jax.sweep import progress
from lstm_jax.sweep.rows import append_rows, read_rows

Row = dict[str, Any]
Key = TypeVar("Key")
Item = TypeVar("Item")
Result = TypeVar("Result")


def in_threads(
    measure: Callable[[Item], Result], items: Mapping[Key, Item], workers: int
) -> Generator[tuple[Key, Future[Result]], None, None]:
    """Run `measure` on the items in threads, `workers` at a time, and yield (key, future) as they end.

    If the caller stops early, the items not yet started are dropped.
    """
    with ThreadPoolExecutor(workers) as pool:
        running = {pool.submit(measure, item): key for key, item in items.items()}
        try:
            for future in as_completed(running):
                yield running[future], future
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def record(path: Path, title: str, total: int, outcomes: Generator[tuple[Sequence[Row], str], None, None]) -> None:
    """Append the rows of each outcome as it arrives, print its line, and advance a progress bar.

    Args:
        path: file of rows.
        title: label of the progress bar.
        total: number of outcomes.
        outcomes: yields (rows, line); closed at the end, also after an error.
    """
    with closing(outcomes), progress.bar(title, total) as advance:
        for rows, line in outcomes:
            if rows:
                append_rows(path, *rows)
            advance(line)


def run_missing(
    path: Path,
    wanted: Mapping[Any, Item],
    key_of: Callable[[Row], Any],
    measure: Callable[[Item], Sequence[Row]],
    title: str,
    describe: Callable[[Item, Sequence[Row]], str],
    check: Callable[[Any, str], Row] = lambda row, location: row,
    workers: int = 1,
) -> list[Row]:
    """Measure the wanted items that have no row yet, in order, and return every row of the file.

    The rows of an item are appended together as soon as it ends, so that an interrupted call continues where it stopped. An item whose
    process fails leaves no row, and the next call runs it again.

    Args:
        path: JSON lines, only ever appended; made if absent.
        wanted: items by key.
        key_of: key of the item that a row belongs to; None for a row of no item.
        measure: rows of an item. It runs in a thread.
        title: label of the progress bar.
        describe: line printed when an item ends.
        check: check(row, its file and line) -> row, applied to each row that is read.
        workers: items that run at a time.

    Raises:
        Exception: any other than `subprocess.CalledProcessError` that `measure` raises; the items not yet started are dropped.
    """
    done = {key_of(row) for row in read_rows(path, check)}
    missing = {key: item for key, item in wanted.items() if key not in done}
    failed = 0

    def outcomes() -> Generator[tuple[Sequence[Row], str], None, None]:
        nonlocal failed
        with closing(in_threads(measure, missing, workers)) as ended:
            for key, future in ended:
                try:
                    rows = future.result()
                    yield rows, describe(missing[key], rows)
                except subprocess.CalledProcessError as error:
                    failed += 1
                    yield (), f"{missing[key]}: failed, ended with code {error.returncode}"

    record(path, title, len(missing), outcomes())
    if failed:
        print(f"{failed} {title} failed; their messages are above, and the same command runs them again")
    return list(read_rows(path, check))
