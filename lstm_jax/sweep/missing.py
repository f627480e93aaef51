"""Measurements whose rows are kept in a file: run what the file lacks, skip what it has."""

import subprocess
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any, TypeVar

from lstm_jax.sweep import progress
from lstm_jax.sweep.rows import append_rows, read_rows

Row = dict[str, Any]
Item = TypeVar("Item")


def run_missing(
    path: Path,
    wanted: Mapping[Any, Item],
    key_of: Callable[[Row], Any],
    measure: Callable[[Item], Sequence[Row]],
    title: str,
    describe: Callable[[Item, Sequence[Row]], str],
    check: Callable[[Any, str], Row] = lambda row, place: row,
    workers: int = 1,
) -> list[Row]:
    """Measure the wanted items that have no row yet, in order, and return every row of the file.

    The rows of an item are appended together as soon as it ends, so that an interrupted call continues where it stopped. An item whose
    process fails leaves no row, and the next call runs it again.

    Args:
        path: JSON lines, only ever appended; made if absent.
        wanted: items by key.
        key_of: key of the item that a row belongs to; None for a row that belongs to none.
        measure: rows of an item. It runs in a thread.
        title: label of the progress bar.
        describe: line printed when an item ends.
        check: check(row, its place) -> row, applied to each row that is read.
        workers: items that run at a time.

    Raises:
        Exception: any other than `subprocess.CalledProcessError` that `measure` raises; the items not yet started are dropped.
    """
    done = {key_of(row) for row in read_rows(path, check)}
    missing = [item for key, item in wanted.items() if key not in done]
    failed = 0
    with progress.bar(title, len(missing)) as advance, ThreadPoolExecutor(workers) as pool:
        running: dict[Future[Sequence[Row]], Item] = {pool.submit(measure, item): item for item in missing}
        try:
            for future in as_completed(running):
                item = running[future]
                try:
                    rows = future.result()
                except subprocess.CalledProcessError as error:
                    advance(f"{item}: failed, ended with code {error.returncode}")
                    failed += 1
                    continue
                append_rows(path, *rows)
                advance(describe(item, rows))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    if failed:
        print(f"{failed} {title} failed; their messages are above, and the same command runs them again")
    return list(read_rows(path, check))
