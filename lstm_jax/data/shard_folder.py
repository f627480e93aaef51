"""Folder of shards: several processes can write the shards at the same time, and interrupted writing can be continued.

A shard is one part of a data set. It consists of one or more data files and a record NNNNN.json, where NNNNN is the number of the shard.
The record is written last. Its first line is the SHA-256 of its other lines, so that damage is noticed. The other lines describe the data
files, and the part of the input that the shard holds.
"""

import contextlib
import os
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict
from multiprocessing import get_context, parent_process
from pathlib import Path
from typing import Any

from lstm_jax.errors import InputError, require, system_errors
from lstm_jax.files.locks import locked
from lstm_jax.files.reading import parsing
from lstm_jax.files.writing import MARK, read_summed, remove_temporaries, summed_json, write_atomically

INDEX = "index.json"
"""Name of the index, a file that is written once all shards are finished."""
UNFINISHED = "unfinished.txt"
"""Name of a file that shows that the shards of a folder are being written, or that their writing was interrupted."""
LOCK = "shards.lock"
"""Name of the lock file that exists while a process writes shards."""
_SHARD_FILE = re.compile(r"[0-9]{5,}\.(json|npy|ids|npz)")
Progress = Callable[[int, int], None]
"""Function that is called with the number of finished shards and the number of all shards."""


def shard_path(folder: Path, number: int, ending: str) -> Path:
    """Return the path of one file of a shard, such as 00012.json for the number 12 and the ending "json"."""
    return folder / f"{number:05}.{ending}"


@contextlib.contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Hold the lock of a folder of shards during a with-statement. The folder is created if it does not exist.

    Raises:
        InputError: if another process holds the lock, or if the folder or the lock file cannot be written.
    """
    with parsing(f"shards {folder}", "name a folder that can be written"):
        folder.mkdir(parents=True, exist_ok=True)
    with locked(folder / LOCK, f"shards {folder}"):
        yield


def write_missing(
    folder: Path,
    parts: Sequence[Any],
    write: Callable[[Path, Sequence[Any], int], int],
    intact: Callable[[Path, int, dict[str, Any]], bool],
    workers: int,
    on_progress: Progress | None,
) -> list[dict[str, Any]]:
    """Write the shards of a folder that are missing or damaged, and return the records of all shards.

    A shard is one part of a data set. It consists of data files and a record, which is a JSON file that describes them.

    Args:
        folder: the folder, whose lock the caller holds; see `writing`.
        parts: one dataclass instance for each shard. The instance describes the input of the shard, for example a file.
        write: function write(folder, parts, number) that writes the data files of the shard for `parts[number]`, then calls `write_record`,
            and returns `number`.
        intact: function intact(folder, number, record) that reads the data files of a shard, and returns whether they have the checksums in
            `record`.
        workers: number of processes that write shards at the same time.
        on_progress: None, or a function that is called after each written shard with the number of finished shards and the number of all
            shards.

    Raises:
        InputError: in one of these cases.

            - The folder cannot be written.
            - The folder holds shards that were written for other `parts`.
            - The folder holds foreign files: a file has the name of a shard file or of the index (see `INDEX`), but there is no intact
              record, no intact index and no file `UNFINISHED`.
            - `write` raises an InputError.
            - A process that writes shards is killed.
    """
    with parsing(f"shards {folder}", "name a folder that can be written"):
        remove_temporaries(folder)
        numbers = {*range(len(parts)), *_numbers(folder, "json")}
        records = {number: record(folder, number) for number in sorted(numbers)}
        taken = [path.name for path in folder.iterdir() if path.name == INDEX or _SHARD_FILE.fullmatch(path.name)]
    own = (folder / UNFINISHED).exists() or any(records.values()) or bool(_summed(folder / INDEX))
    require(own or not taken, f"shards {folder}", f"holds other files: {', '.join(sorted(taken)[:3])}", "name a new folder")
    for number, found in records.items():
        same = found is None or (number < len(parts) and found["part"] == asdict(parts[number]))
        require(same, f"shards {folder}", "are of another text or another cleaning", "name a new folder")
    write_atomically(folder / UNFINISHED, f"{MARK}: shards are being written here. To continue, repeat the call.\n", force=False)
    missing = [n for n in range(len(parts)) if (found := records[n]) is None or not intact(folder, n, found)]
    for count, _ in enumerate(_written(folder, parts, write, missing, workers), len(parts) - len(missing) + 1):
        if on_progress:
            on_progress(count, len(parts))
    records |= {number: record(folder, number) for number in missing}
    return [found for number in range(len(parts)) if (found := records[number]) is not None]


def _written(folder: Path, parts: Sequence[Any], write: Callable, numbers: Sequence[int], workers: int) -> Iterator[int]:
    """Write the shards with the given numbers, and yield the number of each shard when it is finished.

    Args:
        folder: folder of the shards.
        parts: one dataclass instance for each shard; see `write_missing`.
        write: function write(folder, parts, number) that writes one shard and returns its number.
        numbers: numbers of the shards to write.
        workers: number of processes that write shards at the same time.
    """
    if workers <= 1 or len(numbers) <= 1:
        for number in numbers:
            yield write(folder, parts, number)
        return
    with ProcessPoolExecutor(workers, get_context("spawn"), _end_with_parent) as pool:
        try:
            with system_errors("process that writes shards", "give fewer workers"):
                tasks = [pool.submit(write, folder, parts, number) for number in numbers]
            for task in as_completed(tasks):
                yield task.result()
        except BrokenProcessPool as error:
            raise InputError("process that writes shards", "was killed", "give fewer workers, or make more memory free") from error
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _end_with_parent() -> None:
    """Start a thread that ends this process as soon as the parent process has ended, even if a signal has killed the parent.

    Without this thread, a process of a pool does not notice that its parent was killed. It waits for work for ever, and keeps the standard
    output of the command open.
    """
    parent = parent_process()
    assert parent is not None

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def write_record(folder: Path, number: int, part: Any, content: dict[str, Any]) -> None:
    """Write the record of a shard, the JSON file that describes its data files. All data files must have been written before.

    Args:
        folder: folder of the shards.
        number: number of the shard.
        part: dataclass instance that describes the part of the input that the shard holds.
        content: dict of further entries of the record, such as the checksums of the data files.
    """
    write_atomically(shard_path(folder, number, "json"), summed_json({"part": asdict(part)} | content))


def record(folder: Path, number: int) -> dict[str, Any] | None:
    """Return the record of a shard, the JSON file that describes it, as a dict. Return None if the record is missing or damaged.

    The entry "part" describes the part of the input that the shard holds. The other entries are the `content` given to `write_record`.
    """
    return _summed(shard_path(folder, number, "json"))


def _summed(path: Path) -> dict[str, Any] | None:
    """Return the dict that `summed_json` has encoded in a file, or None if the file is missing or damaged."""
    try:
        return read_summed(path.read_bytes())
    except OSError:
        return None


def write_index(folder: Path, content: dict[str, Any]) -> None:
    """Write the index of a folder, the file index.json with facts about all shards. All shards must have been written before.

    `content` is the index as a dict. Its entry "format" names the format of the shards. Afterwards the file `UNFINISHED` is removed.
    """
    write_atomically(folder / INDEX, summed_json(content))
    (folder / UNFINISHED).unlink(missing_ok=True)


def _numbers(folder: Path, ending: str) -> list[int]:
    """Return the numbers of the shards in a folder that have a file with the given ending. Files with other names are ignored."""
    return sorted(int(path.stem) for path in folder.glob(f"*.{ending}") if path.stem.isascii() and path.stem.isdecimal())


def read_index(folder: Path, kind: str, command: str) -> tuple[dict[str, Any], bytes]:
    """Return a pair: the content of the index file of a folder (index.json) as a dict, and the bytes of this file.

    Args:
        folder: the folder.
        kind: expected value of the entry "format" in the index, which names the format of the shards.
        command: command that writes such a folder, for error messages.

    Raises:
        InputError: if there is no index, if the index is damaged, or if its entry "format" differs from `kind`.
    """
    try:
        content = (folder / INDEX).read_bytes()
    except OSError as error:
        raise InputError(f"shards {folder}", "no index.json", f"name a folder that {command} has finished") from error
    index, subject = read_summed(content), f"index {folder / INDEX}"
    if index is None:
        raise InputError(subject, "damaged", f"write them again with {command}")
    require(index.get("format") == kind, subject, f"of the format {index.get('format')!r}", f"name a folder that {command} has written")
    return index, content


def verify(folder: Path, ending: str, intact: Callable[[Path, int, dict[str, Any]], bool], command: str) -> None:
    """Read all shards of a folder, and check the checksums of their data files.

    The expected checksums are in the record of each shard, a JSON file.

    Args:
        folder: the folder.
        ending: ending of the name of each shard's file of ids, such as "npy".
        intact: function intact(folder, number, record) that reads the data files of a shard, and returns whether they have the checksums in
            `record`.
        command: command that writes such a folder, for error messages.

    Raises:
        InputError: if a data file of a shard is damaged, or if the record of a shard is missing or damaged.
    """
    for number in _numbers(folder, ending):
        found = record(folder, number)
        same = found is not None and intact(folder, number, found)
        require(same, f"shard {shard_path(folder, number, ending)}", "damaged", f"write them again with {command}")
