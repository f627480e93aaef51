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
    """Call `measure` on each item in a pool of threads. When a call ends, yield the pair (key of its item, finished future)."""
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
    """Append results to a file as they arrive, and show a progress bar."""
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
    """Measure the items that have no row in a file yet, append their rows, and return all rows of the file."""
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
