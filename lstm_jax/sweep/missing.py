"""Functions that measure each of many items, for example each benchmark, and append the results of each item as rows to a file.

An item that already has a row in the file is not measured again.
"""

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
    measure: Callable[[Item], Result], items: Mapping[Key, Item], workers: int, stop: Callable[[], None] = lambda: None
) -> Generator[tuple[Key, Future[Result]], None, None]:
    """Call `measure` on each item in a pool of threads. When a call ends, yield the pair (key of its item, finished future).

    If the caller closes the generator early, or an interrupt ends it, the generator calls `stop`, cancels the calls that have not started,
    and waits for the running calls.

    Args:
        measure: function that takes an item.
        items: dict from the key of each item to the item.
        workers: number of threads, and thus of calls that run at the same time.
        stop: function that makes the running calls end soon. The default does nothing.
    """
    with ThreadPoolExecutor(workers) as pool:
        try:
            running = {pool.submit(measure, item): key for key, item in items.items()}
            for future in as_completed(running):
                yield running[future], future
        except BaseException:
            stop()
            pool.shutdown(cancel_futures=True)
            raise


def record(
    path: Path, title: str, total: int, outcomes: Generator[tuple[Sequence[Row], str], None, None], tally: progress.Tally | None = None
) -> None:
    """Append results to a file as they arrive, and show a progress bar.

    For each pair (rows, line) that `outcomes` yields, the rows are appended to the file, the line is printed, and the bar advances. Unless
    `total` is 0, the file is created before the first result is computed. An error in writing thus appears before a result could be lost.

    Args:
        path: file with one row (a JSON object) per line.
        title: label of the progress bar.
        total: number of pairs that `outcomes` yields.
        outcomes: generator that yields a pair (rows, line) for each result. This function closes the generator at the end, also after an
            error.
        tally: numbers that are shown beside the progress bar, if given.

    Raises:
        InputError: if the file cannot be written.
    """
    if total:
        append_rows(path)
    with closing(outcomes), progress.bar(title, total, tally) as advance:
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
    """Measure the items that have no row in a file yet, append their rows, and return all rows of the file.

    All rows of an item are appended together when its measurement ends. After an interruption, the same call therefore measures only the
    items that are still missing. If `measure` raises `subprocess.CalledProcessError`, the item gets no row, and the next call measures it
    again.

    Args:
        path: file with one row (a JSON object) per line. Rows are only appended. The file is created if it does not exist.
        wanted: dict from the key of each item to the item. Items are measured in this order.
        key_of: function that takes a row and returns the key of its item, or None if the row belongs to no item.
        measure: function that takes an item and returns its rows. It is called in a thread.
        title: label of the progress bar.
        describe: function that takes an item and its rows, and returns the line that is printed after the measurement of the item.
        check: function that takes a row and its location "FILE, line N", and returns the row. It is called for each row that is read, and
            may raise `InputError`.
        workers: number of items that are measured at the same time.

    Raises:
        InputError: if the file cannot be written. This is checked before the first measurement.
        Exception: if `measure` raises an exception other than `subprocess.CalledProcessError`. Items that have not started are then not
            measured.
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
