"""Measurements that are kept as rows of a file: items that already have a row are skipped, the others are measured."""

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
    """Call `measure` on each item in a thread, `workers` at a time, and yield (key, future) when a call ends.

    If the caller stops early, the items that have not started are dropped.
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
    """Append the rows of each outcome to a file as it arrives, print its line, and advance a progress bar.

    Args:
        path: file of rows.
        title: label of the progress bar.
        total: number of outcomes.
        outcomes: generator of (rows to append, line to print). It is closed at the end, also after an error.
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

    All rows of an item are appended together when its measurement ends, so a repeated call continues where an interrupted one stopped. If
    the process of an item fails (`measure` raises `subprocess.CalledProcessError`), the item gets no row, and the next call repeats it.

    Args:
        path: file of rows, one JSON object per line; rows are only ever appended. It is created if it does not exist.
        wanted: items by key.
        key_of: key_of(row) -> key of the item that the row belongs to, or None if the row belongs to no item.
        measure: measure(item) -> rows of the item. It is called in a thread.
        title: label of the progress bar.
        describe: describe(item, its rows) -> line that is printed when the item ends.
        check: check(row, "FILE, line N") -> row; it is applied to each row that is read.
        workers: number of items that are measured at the same time.

    Raises:
        Exception: if `measure` raises an exception other than `subprocess.CalledProcessError`; the items that have not started are dropped.
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
