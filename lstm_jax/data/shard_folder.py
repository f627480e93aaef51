"""Folder of shards: several processes can write the shards at the same time, and interrupted writing can be continued.

A shard is one part of a data set, for example the ids of one file:

    00000.ids    little-endian ids, from the shard's own vocabulary
    00000.json   record: the part of the input that the shard holds, its vocabulary, its number of ids, and the SHA-256 of its other files;
                 it is written last
    index.json   facts about all shards; it is written once all shards are finished

A kind of data set may have further files for each shard. The first line of a .json file is the SHA-256 of its other lines. The other files
of a shard are checked when they are first read.
"""

import hashlib
import os
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from multiprocessing import get_context, parent_process
from pathlib import Path
from typing import Any

import numpy as np

from lstm_jax.data.download import file_digest
from lstm_jax.data.mapped import Shard, allow_open_files
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
_SHARD_FILE = re.compile(r"[0-9]{5,}\.(json|ids|npz)")
Progress = Callable[[int, int], None]
"""Function that is called with the number of finished shards and the number of all shards."""


@dataclass(frozen=True)
class Kind:
    """Kind of data set in shards."""

    format: str
    """Value of the entry "format" of the index."""
    command: str
    """Command that writes the shards, for error messages."""
    endings: tuple[str, ...] = ("ids",)
    """Endings of the files of a shard, apart from its record."""

    @property
    def again(self) -> str:
        """Advice to the user if a shard is damaged."""
        return f"write them again with {self.command}"


TEXT = Kind("text 2", "lstm-jax data shard")
REVIEWS = Kind("reviews 1", "lstm-jax data shard-reviews", ("ids", "npz"))


def shard_path(folder: Path, number: int, ending: str) -> Path:
    """Return the path of one file of a shard, such as 00012.json for the number 12 and the ending "json"."""
    return folder / f"{number:05}.{ending}"


def write_folder(
    folder: Path,
    kind: Kind,
    parts: Sequence[Any],
    write: Callable[[Any, Path], dict[str, Any]],
    describe: Callable[[list[dict[str, Any]]], dict[str, Any]],
    workers: int,
    on_progress: Progress | None,
) -> None:
    """Write the shards of a folder that are missing or damaged, and then the index. The folder is created if it does not exist."""
    require(folder != Path(), "shards", "an empty name, or this folder", "name a folder for them with --out")
    with parsing(f"shards {folder}", "name a folder that can be written"):
        folder.mkdir(parents=True, exist_ok=True)
    with locked(folder / LOCK, f"shards {folder}"):
        records = _write_missing(folder, kind, parts, write, workers, on_progress)
        write_atomically(folder / INDEX, summed_json({"format": kind.format} | describe(records)))
        (folder / UNFINISHED).unlink(missing_ok=True)


def _write_missing(
    folder: Path, kind: Kind, parts: Sequence[Any], write: Callable, workers: int, on_progress: Progress | None
) -> list[dict[str, Any]]:
    with parsing(f"shards {folder}", "name a folder that can be written"):
        remove_temporaries(folder)
        names = {path.name for path in folder.iterdir()}
    numbers = {int(name[:-5]) for name in names if _SHARD_FILE.fullmatch(name) and name.endswith(".json")}
    records = {number: _record(folder, number) for number in sorted(numbers | {*range(len(parts))})}
    taken = sorted(name for name in names if name == INDEX or _SHARD_FILE.fullmatch(name))
    own = UNFINISHED in names or any(records.values()) or bool(_summed(folder / INDEX))
    require(own or not taken, f"shards {folder}", f"holds other files: {', '.join(taken[:3])}", "name a new folder")
    for number, found in records.items():
        same = found is None or (number < len(parts) and found["part"] == asdict(parts[number]))
        require(same, f"shards {folder}", "are of another text or another cleaning", "name a new folder")
    write_atomically(folder / UNFINISHED, f"{MARK}: shards are being written here. To continue, repeat the call.\n", force=False)
    missing = {number: part for number, part in enumerate(parts) if not _is_intact(folder, kind, number, records[number])}
    for count, (number, made) in enumerate(_written(folder, kind, missing, write, workers), len(parts) - len(missing) + 1):
        records[number] = made
        if on_progress:
            on_progress(count, len(parts))
    return [found for number in range(len(parts)) if (found := records[number]) is not None]


def _written(folder: Path, kind: Kind, parts: dict[int, Any], write: Callable, workers: int) -> Iterator[tuple[int, dict[str, Any]]]:
    """Write the shards with the numbers in `parts`, and yield the number and the record of each shard when it is finished."""
    if workers <= 1 or len(parts) <= 1:
        for number, part in parts.items():
            yield _write_shard(folder, kind, number, part, write)
        return
    with ProcessPoolExecutor(workers, get_context("spawn"), _end_with_parent) as pool:
        try:
            with system_errors("process that writes shards", "give fewer workers"):
                tasks = [pool.submit(_write_shard, folder, kind, number, part, write) for number, part in parts.items()]
            for task in as_completed(tasks):
                yield task.result()
        except BrokenProcessPool as error:
            raise InputError("process that writes shards", "was killed", "give fewer workers, or make more memory free") from error
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _write_shard(folder: Path, kind: Kind, number: int, part: Any, write: Callable) -> tuple[int, dict[str, Any]]:
    content = write(part, shard_path(folder, number, "ids"))
    found = {"part": asdict(part)} | content | {"sha256": _digests(folder, kind, number)}
    write_atomically(shard_path(folder, number, "json"), summed_json(found))
    return number, found


def _end_with_parent() -> None:
    """Start a thread that ends this process as soon as the parent process has ended, even if a signal has killed the parent."""
    parent = parent_process()
    assert parent is not None

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def _record(folder: Path, number: int) -> dict[str, Any] | None:
    return _summed(shard_path(folder, number, "json"))


def _summed(path: Path) -> dict[str, Any] | None:
    """Return the dict that `summed_json` has encoded in a file, or None if the file is missing or damaged."""
    try:
        return read_summed(path.read_bytes())
    except OSError:
        return None


def _digests(folder: Path, kind: Kind, number: int) -> list[str]:
    return [file_digest(shard_path(folder, number, ending)) for ending in kind.endings]


def _is_intact(folder: Path, kind: Kind, number: int, found: dict[str, Any] | None) -> bool:
    try:
        return found is not None and _digests(folder, kind, number) == found["sha256"]
    except InputError:
        return False


@dataclass(frozen=True)
class ShardFolder:
    """Opened folder of shards."""

    path: Path
    kind: Kind
    index: dict[str, Any]
    """Facts about all shards. The entry "shards" has a dict for each shard."""
    records: list[dict[str, Any]]
    """Record of each shard."""
    fingerprint: str
    """SHA-256 of the index."""

    def shard(self, number: int, joint: np.ndarray, dtype: Any) -> Shard:
        """Return a shard, whose ids are mapped into memory and are checked when they are first read."""
        path, found, dtype = shard_path(self.path, number, "ids"), self.records[number], np.dtype(dtype).newbyteorder("<")
        whole = path.is_file() and path.stat().st_size == dtype.itemsize * found["count"]
        require(whole, f"shard {path}", "missing or cut off", self.kind.again)
        ids = np.memmap(path, dtype, "r") if found["count"] else np.zeros(0, dtype)
        return Shard(ids, joint, lambda: self.check(number, "ids"))

    def check(self, number: int, ending: str) -> Path:
        """Return the path of one file of a shard after checking its checksum."""
        path, wanted = shard_path(self.path, number, ending), self.records[number]["sha256"][self.kind.endings.index(ending)]
        try:
            same = file_digest(path) == wanted
        except InputError:
            same = False
        require(same, f"shard {path}", "missing or damaged", self.kind.again)
        return path


def open_folder(folder: str | Path, kind: Kind | None = None) -> ShardFolder:
    """Open a folder of shards. Only the index and the records are read."""
    folder = Path(folder)
    command = kind.command if kind else f"{TEXT.command} or {REVIEWS.command}"
    try:
        content = (folder / INDEX).read_bytes()
    except OSError as error:
        raise InputError(f"shards {folder}", "no index.json", f"name a folder that {command} has finished") from error
    index, subject = read_summed(content), f"index {folder / INDEX}"
    if index is None:
        raise InputError(subject, "damaged", f"write them again with {command}")
    kinds = {known.format: known for known in ((kind,) if kind else (TEXT, REVIEWS))}
    require(index.get("format") in kinds, subject, f"of the format {index.get('format')!r}", f"name a folder that {command} has written")
    kind = kinds[index["format"]]
    records = []
    for number, shard in enumerate(index["shards"]):
        found = _record(folder, number)
        if found is None or any(found[name] != shard[name] for name in found.keys() & shard.keys()):
            path = shard_path(folder, number, "json")
            raise InputError(f"shard {path}", "missing, damaged or of other data", kind.again)
        records.append(found)
    allow_open_files(len(records))
    return ShardFolder(folder, kind, index, records, hashlib.sha256(content).hexdigest())


def verify_shards(folder: str | Path) -> int:
    """Check all shards of a text or of reviews against the checksums that were stored when they were written, and return their number.

    Raises:
        InputError: if the folder holds no finished shards, or if a shard is missing or damaged.
    """
    found = open_folder(folder)
    for number in range(len(found.records)):
        for ending in found.kind.endings:
            found.check(number, ending)
    return len(found.records)
