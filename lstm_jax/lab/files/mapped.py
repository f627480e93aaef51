"""Folder of arrays that are larger than the memory.

    NAME.npy      ids, which are mapped into memory when they are read
    NAME.npz      smaller arrays, which are read as a whole
    index.json    facts about the data and the SHA-256 of each array; written last

The first line of index.json is the SHA-256 of its other lines. Opening a folder checks
all of its files.
"""

import contextlib
import mmap
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy import ndarray
from numpy.lib.format import dtype_to_descr, write_array_header_1_0

from lstm_jax.base.checks import frozen
from lstm_jax.base.errors import InputError, parsing, require
from lstm_jax.base.types import AnyPath, Values
from lstm_jax.base.writing import (
    MARK,
    locked,
    read_summed,
    summed_json,
    write_atomically,
)
from lstm_jax.lab.files.reading import file_digest

INDEX = "index.json"
UNFINISHED = "unfinished.txt"
"""Name of a file in a folder that is being written, or whose writing was interrupted."""
LOCK = "shards.lock"
READ = 1024
"""Number of ids that are read before the pages of the mapped file leave the memory: the
kernel may map megabytes of the file around each id.
"""
TEXT, REVIEWS = "text 3", "reviews 2"
COMMANDS = {TEXT: "lstm-jax data shard", REVIEWS: "lstm-jax data shard-reviews"}
"""Dict from the format of a folder to the command that writes it."""


class MappedIds:
    """One-dimensional array of ids in a file. It is read where it is indexed, and what
    was read does not stay in memory.

    `ids` is the mapped array or a part of it, and `file` the mapped file. Ids of `end`,
    the size of the vocabulary, or more are read as the id `unknown`.
    """

    nbytes = 0
    """Number of bytes in memory."""

    def __init__(self, ids: ndarray, file: mmap.mmap, end: int, unknown: int = 0):
        self.ids = ids
        self.file = file
        self.end = end
        self.unknown = unknown

    @property
    def dtype(self) -> np.dtype:
        return self.ids.dtype

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, where: slice | ndarray) -> ndarray:
        return self._read(where) if isinstance(where, slice) else self.take(where)

    def take(self, places: ndarray, mode: str = "clip") -> ndarray:
        """Return the ids at the indices `places`, as an array of the same shape.
        Indices beyond the ends are clipped.
        """
        flat = np.clip(places, 0, len(self) - 1).ravel()
        found = np.empty(flat.shape, self.dtype)
        for begin in range(0, len(flat), READ):
            found[begin : begin + READ] = self._read(flat[begin : begin + READ])
        return found.reshape(np.shape(places))

    def _read(self, where: slice | ndarray) -> ndarray:
        found = np.array(self.ids[where])
        self.file.madvise(mmap.MADV_DONTNEED)
        found[found >= self.end] = self.unknown
        return found

    def part(self, begin: int, end: int) -> "MappedIds":
        """Return the ids `begin` to `end` - 1, without reading them."""
        return MappedIds(self.ids[begin:end], self.file, self.end, self.unknown)


def write_ids(path: Path, dtype: Any, pieces: Iterable[ndarray]) -> None:
    """Write a one-dimensional array of ids, which comes in pieces, as a .npy file."""
    kind = np.dtype(dtype).newbyteorder("<")

    def write(file):
        def write_header(count: int):
            # NumPy leaves room in the header for any count
            file.seek(0)
            header = {
                "descr": dtype_to_descr(kind),
                "fortran_order": False,
                "shape": (count,),
            }
            write_array_header_1_0(file, header)

        count = 0
        write_header(count)
        for piece in pieces:
            file.write(piece.astype(kind, copy=False).tobytes())
            count += len(piece)
        write_header(count)

    write_atomically(path, write)


def write_folder(
    folder: Path, kind: str, write: Callable[[Path], tuple[list[str], Values]]
) -> None:
    """Write a folder of arrays, which is created if it does not exist.

    If an earlier call for this folder was interrupted, everything is written again. A
    folder with other files is refused.

    Args:
        folder: the folder.
        kind: `TEXT` or `REVIEWS`.
        write: function that writes the arrays into the folder, and returns the names of
            their files and the facts for the index.
    """
    subject = f"shards {folder}"
    remedy = "name a folder for them with --out"
    require(folder != Path(), "shards", "an empty name, or this folder", remedy)
    with locked(folder / LOCK, subject):
        with parsing(subject, "name a folder that can be written"):
            names = sorted({*os.listdir(folder)} - {LOCK})
        require(
            not names or UNFINISHED in names,
            subject,
            f"holds other files: {', '.join(names[:3])}",
            "name a new folder, or remove this one",
        )
        note = "arrays are being written here. After an interrupt, repeat the call.\n"
        write_atomically(folder / UNFINISHED, f"{MARK}: {note}", force=False)

        files, facts = write(folder)
        digests = {name: file_digest(folder / name) for name in files}
        index = {"format": kind, "files": digests} | facts
        write_atomically(folder / INDEX, summed_json(index))
        (folder / UNFINISHED).unlink()


@frozen
class Folder:
    """Opened folder of arrays."""

    path: Path
    index: Values
    """Facts about the data."""
    fingerprint: str
    """SHA-256 of the index, which has the SHA-256 of all other files."""

    def ids(self, name: str, end: int, unknown: int = 0) -> MappedIds:
        """Map the ids of a .npy file; see `MappedIds`."""
        ids: Any = np.load(self.path / name, mmap_mode="r")
        return MappedIds(ids.view(ndarray), ids.base, end, unknown)


def open_folder(folder: AnyPath, *kinds: str) -> Folder:
    """Open a folder of one of the given kinds, after checking all of its files."""
    folder = Path(folder)
    path = folder / INDEX
    commands = " or ".join(COMMANDS[kind] for kind in kinds)
    require(
        os.path.isfile(path),
        f"shards {folder}",
        "no index.json",
        f"name a folder that {commands} has finished",
    )
    index = {}
    with contextlib.suppress(OSError):
        index = read_summed(path.read_bytes()) or {}
    kind = index.get("format", "")
    if kind not in kinds:
        found = f"of the format {kind!r}" if kind else "damaged"
        remedy = f"write a new folder with {commands}, or name another one"
        raise InputError(f"index {path}", found, remedy)
    for name, digest in index["files"].items():
        file = folder / name
        found = ""
        with contextlib.suppress(InputError):
            found = file_digest(file)
        remedy = f"write a new folder with {COMMANDS[kind]}"
        require(found == digest, f"shard {file}", "missing or damaged", remedy)
    return Folder(folder, index, file_digest(path))


def verify_shards(folder: AnyPath) -> int:
    """Check all files of a text or of reviews against the checksums that were stored
    when they were written, and return their number.

    Raises:
        InputError: if the folder is not finished, or if a file is missing or damaged.
    """
    return len(open_folder(folder, *COMMANDS).index["files"])
