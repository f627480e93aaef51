"""Folder of shards: several processes can write the shards at the same time, and
interrupted writing can be continued.

A shard is one part of a data set, for example the ids of one file:

    00000.ids    little-endian ids, from the shard's own vocabulary
    00000.json   record: the part of the input that the shard holds, its vocabulary,
                 its number of ids, and the SHA-256 of its other files; written last
    index.json   facts about all shards; it is written once all shards are finished

A kind of data set may have further files for each shard. The first line of a .json file
is the SHA-256 of its other lines. The other files of a shard are checked when they are
first read. The ids stay in the files, which are mapped into memory.
"""

import contextlib
import mmap
import os
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import cache, cached_property, lru_cache, partial
from multiprocessing import get_context, parent_process
from pathlib import Path
from typing import Any

import numpy as np
from numpy import ndarray

from lstm_jax.base.checks import frozen
from lstm_jax.base.errors import InputError, require, system_errors
from lstm_jax.base.reading import file_digest, parsing
from lstm_jax.base.types import AnyPath, Progress, Texts
from lstm_jax.base.writing import (
    MARK,
    locked,
    read_summed,
    remove_temporaries,
    summed_json,
    write_atomically,
)

INDEX = "index.json"
UNFINISHED = "unfinished.txt"
"""Name of a file that shows that the shards of a folder are being written, or that
their writing was interrupted."""
LOCK = "shards.lock"
READ = 2**16
"""Largest number of ids that are read before the pages of the mapped files are released
from memory."""
OPEN = 160
"""Largest number of shards of a folder whose files are open at the same time."""
_SHARD_FILE = re.compile(r"[0-9]{5,}\.(json|ids|npz)|index\.json")
Record = dict[str, Any]
"""Content of a .json file, or the entry "part" of a record, which describes the part of
the input that the shard holds."""
Write = Callable[[Record, Path], Record]
"""Function that writes the files of a shard, given the part of the input and the path
of the ids, and returns facts for the record."""


@frozen
class Kind:
    """Kind of data set in shards."""

    format: str
    """Value of the entry "format" of the index."""
    command: str
    """Command that writes the shards, for error messages."""
    endings: Texts = ("ids",)
    """Endings of the files of a shard, apart from its record."""


TEXT = Kind("text 2", "lstm-jax data shard")
REVIEWS = Kind("reviews 1", "lstm-jax data shard-reviews", ("ids", "npz"))


def shard_path(folder: Path, number: int, ending: str) -> Path:
    """Return the path of one file of a shard, such as 00012.json."""
    return folder / f"{number:05}.{ending}"


def write_folder(
    folder: Path,
    kind: Kind,
    parts: Sequence[Record],
    write: Write,
    describe: Callable[[list[Record]], Record],
    workers: int,
    on_progress: Progress | None,
) -> None:
    """Write the shards of a folder that are missing or damaged, and then the index. The
    folder is created if it does not exist.
    """
    subject = f"shards {folder}"
    require(
        folder != Path(),
        "shards",
        "an empty name, or this folder",
        "name a folder for them with --out",
    )
    with locked(folder / LOCK, subject):
        with parsing(subject, "name a folder that can be written"):
            remove_temporaries(folder)
            names = os.listdir(folder)
        taken = sorted(filter(_SHARD_FILE.fullmatch, names))
        found = {
            name: record
            for name in taken
            if name.endswith(".json") and (record := _read_record(folder / name))
        }
        own = found or UNFINISHED in names or not taken
        require(
            own,
            subject,
            f"holds other files: {', '.join(taken[:3])}",
            "name a new folder",
        )
        wanted = {
            shard_path(folder, number, "json").name: part
            for number, part in enumerate(parts)
        }
        same = all(
            record["part"] == wanted.get(name)
            for name, record in found.items()
            if name != INDEX
        )
        require(
            same,
            subject,
            "are of another text or another cleaning",
            "name a new folder",
        )
        records = [found.get(name, {}) for name in wanted]
        write_atomically(
            folder / UNFINISHED,
            f"{MARK}: shards are being written here. To continue, repeat the call.\n",
            force=False,
        )
        digests = [
            [_digest(shard_path(folder, number, ending)) for ending in kind.endings]
            for number in range(len(records))
        ]
        missing = [
            number
            for number, record in enumerate(records)
            if record.get("sha256") != digests[number]
        ]
        tasks = [
            partial(_write_shard, folder, kind, write, number, parts[number])
            for number in missing
        ]
        for done, (number, record) in enumerate(
            _results(tasks, workers), len(parts) - len(missing) + 1
        ):
            records[number] = record
            if on_progress:
                on_progress(done, len(parts))
        write_atomically(
            folder / INDEX, summed_json({"format": kind.format} | describe(records))
        )
        (folder / UNFINISHED).unlink(missing_ok=True)


def _results(tasks: list[partial], workers: int) -> Iterator:
    """Call functions, in several processes if there are several workers, and yield each
    result when it is there.
    """
    if workers <= 1 or len(tasks) <= 1:
        yield from (task() for task in tasks)
        return
    with ProcessPoolExecutor(workers, get_context("spawn"), _end_with_parent) as pool:
        try:
            with system_errors("process that writes shards", "give fewer workers"):
                futures = [*map(pool.submit, tasks)]
            for future in as_completed(futures):
                yield future.result()
        except BrokenProcessPool as error:
            raise InputError(
                "process that writes shards",
                "was killed",
                "give fewer workers, or make more memory free",
            ) from error
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _write_shard(
    folder: Path, kind: Kind, write: Write, number: int, part: Record
) -> tuple[int, Record]:
    content = write(part, shard_path(folder, number, "ids"))
    record = (
        {"part": part}
        | content
        | {
            "sha256": [
                file_digest(shard_path(folder, number, ending))
                for ending in kind.endings
            ]
        }
    )
    write_atomically(shard_path(folder, number, "json"), summed_json(record))
    return number, record


def _end_with_parent():
    """Start a thread that ends this process as soon as the parent process has ended,
    even if a signal has killed the parent.
    """
    parent = parent_process()
    assert parent is not None

    def wait():
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def _read_record(path: Path) -> Record:
    with contextlib.suppress(OSError):
        return read_summed(path.read_bytes()) or {}
    return {}


def _digest(path: Path) -> str:
    with contextlib.suppress(InputError):
        return file_digest(path)
    return ""


@dataclass
class Shard:
    """Ids of a shard in its own vocabulary, which are converted to the joint vocabulary
    of all shards when they are read.
    """

    count: int
    joint: ndarray
    """Array in which joint[k] is the id in the joint vocabulary for the id k of the
    shard."""
    ids: Callable[[], ndarray]
    """Function that returns the ids, mapped into memory."""
    check: Callable[[], object] = lambda: None
    """Function that raises InputError if the file of the ids is damaged. It is called
    before ids are read."""

    def take(self, at: ndarray) -> ndarray:
        self.check()
        ids = self.ids()
        found = self.joint[ids[at]]
        if isinstance(ids.base, mmap.mmap):
            ids.base.madvise(mmap.MADV_DONTNEED)
        return found


class MappedIds:
    """One-dimensional array of the ids of several shards, one shard after the other, in
    their joint vocabulary.

    It has those operations of a NumPy array that training needs: `len`, slices, arrays
    of indices, iteration, `take`, `dtype`, `itemsize` and `nbytes`. It consists of the
    ids `begin` to `end` - 1, counted over the ids of all shards.
    """

    def __init__(self, shards: Sequence[Shard], dtype):
        self.shards, self.dtype = shards, np.dtype(dtype)
        self.offsets = np.cumsum([0, *(shard.count for shard in shards)])
        self.begin, self.end = 0, int(self.offsets[-1])

    @property
    def itemsize(self) -> int:
        return self.dtype.itemsize

    @property
    def nbytes(self) -> int:
        """Number of bytes of ids in memory, which is always 0 because the ids stay in
        files.
        """
        return 0

    def __len__(self) -> int:
        return self.end - self.begin

    def __getitem__(self, places: slice | ndarray) -> ndarray:
        if isinstance(places, slice):
            return self.take(np.arange(*places.indices(len(self))))
        # raises the errors of an array
        _ = np.broadcast_to(np.int8(0), len(self))[places]
        places = np.asarray(places)
        # a narrow dtype does not hold len(self)
        places = (
            np.flatnonzero(places) if places.dtype == bool else places.astype(np.int64)
        )
        return self.take(np.where(places < 0, places + len(self), places))

    def __iter__(self) -> Iterator:
        for begin in range(0, len(self), READ):
            yield from self[begin : begin + READ]

    def take(self, places: ndarray, mode: str = "clip") -> ndarray:
        """Return the ids at the indices `places`, as a NumPy array of the same shape."""
        at = np.clip(places, 0, len(self) - 1).reshape(-1) + self.begin
        found = np.empty(at.shape, self.dtype)
        for begin in range(0, len(at), READ):
            part = at[begin : begin + READ]
            owner = np.searchsorted(self.offsets, part, side="right") - 1
            for number in np.unique(owner):
                own = owner == number
                found[begin : begin + READ][own] = self.shards[number].take(
                    part[own] - self.offsets[number]
                )
        return found.reshape(np.shape(places))


@frozen
class ShardFolder:
    """Opened folder of shards."""

    path: Path
    kind: Kind
    index: Record
    """Facts about all shards."""
    records: list[Record]
    """Record of each shard, with what the index says about it."""
    fingerprint: str
    """SHA-256 of the index."""

    @cached_property
    def _mapped(self) -> Callable[..., ndarray]:
        return lru_cache(OPEN)(np.memmap)

    def shard(self, number: int, joint: ndarray, dtype) -> Shard:
        """Return a shard, whose ids are mapped into memory and are checked when they
        are first read.
        """
        path, count, dtype = (
            shard_path(self.path, number, "ids"),
            self.records[number]["count"],
            np.dtype(dtype).newbyteorder("<"),
        )
        self._require(
            path.is_file() and path.stat().st_size == dtype.itemsize * count, path
        )
        return Shard(
            count,
            joint,
            partial(self._mapped, path, dtype, "r"),
            cache(partial(self.check, number, "ids")),
        )

    def check(self, number: int, ending: str) -> Path:
        """Return the path of one file of a shard after checking its checksum."""
        path, digest = (
            shard_path(self.path, number, ending),
            self.records[number]["sha256"][self.kind.endings.index(ending)],
        )
        self._require(_digest(path) == digest != "", path)
        return path

    def _require(self, good: bool, path: Path):
        require(
            good,
            f"shard {path}",
            "missing or damaged",
            f"write them again with {self.kind.command}",
        )


def open_folder(folder: AnyPath, *kinds: Kind) -> ShardFolder:
    """Open a folder of shards of one of the given kinds. Only the index and the records
    are read.
    """
    folder = Path(folder)
    commands = " or ".join(kind.command for kind in kinds)
    path = folder / INDEX
    require(
        os.path.isfile(path),
        f"shards {folder}",
        "no index.json",
        f"name a folder that {commands} has finished",
    )
    index = _read_record(path)
    kind = next((kind for kind in kinds if kind.format == index.get("format")), None)
    if kind is None:
        found = f"of the format {index['format']!r}" if "format" in index else "damaged"
        raise InputError(
            f"index {path}",
            found,
            f"write them again with {commands}, or name another folder",
        )
    records = []
    for number, shard in enumerate(index["shards"]):
        path = shard_path(folder, number, "json")
        record = _read_record(path)
        same = record and record | shard == shard | record
        require(
            same,
            f"shard {path}",
            "missing, damaged or of other data",
            f"write them again with {kind.command}",
        )
        records.append(record | shard)
    return ShardFolder(folder, kind, index, records, file_digest(folder / INDEX))


def verify_shards(folder: AnyPath) -> int:
    """Check all shards of a text or of reviews against the checksums that were stored
    when they were written, and return their number.

    Raises:
        InputError: if the folder holds no finished shards, or if a shard is missing or
            damaged.
    """
    found = open_folder(folder, TEXT, REVIEWS)
    for number in range(len(found.records)):
        for ending in found.kind.endings:
            found.check(number, ending)
    return len(found.records)
