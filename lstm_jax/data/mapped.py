"""Ids of a data set that is larger than the memory, in mapped files of which only what is read is in memory."""

import mmap
from collections.abc import Sequence
from typing import Any

import numpy as np

from lstm_jax.errors import require

READ = 2**16
"""Largest number of ids that are read before the pages of the mapped files are given back."""

OTHER_FILES = 512
"""Number of files that a process may have open beside the mapped ones."""

Shard = tuple[np.ndarray, np.ndarray]
"""Ids of a shard in its own vocabulary, and an array that maps these ids to those of the joint vocabulary."""


class MappedIds:
    """Ids in mapped shards, which follow one another.

    They have what the training needs of a one-dimensional array: `len`, slices, arrays of indices, `take`, `dtype`, `itemsize` and
    `nbytes`.

    Args:
        shards: the shards in their order.
        dtype: dtype of the ids in the joint vocabulary.
        begin: index, among the ids of all shards, of the first one that belongs to this object.
        end: index after the last one. If None, it is the end of the last shard.
    """

    def __init__(self, shards: Sequence[Shard], dtype: Any, begin: int = 0, end: int | None = None):
        self.shards, self.dtype = shards, np.dtype(dtype)
        self.offsets = np.cumsum([0, *(len(ids) for ids, _ in shards)])
        self.begin, self.end = begin, int(self.offsets[-1]) if end is None else end

    @property
    def itemsize(self) -> int:
        return self.dtype.itemsize

    @property
    def nbytes(self) -> int:
        """Number of bytes of the ids that are in memory, which is 0."""
        return 0

    def __len__(self) -> int:
        return self.end - self.begin

    def __getitem__(self, places: slice | np.ndarray) -> np.ndarray:
        """Return the ids of a slice, or those at an array of indices, as an array. Negative indices count from the end."""
        if isinstance(places, slice):
            return self.take(np.arange(*places.indices(len(self))))
        return self.take(np.where(places < 0, places + len(self), places))

    def take(self, places: np.ndarray, mode: str = "clip") -> np.ndarray:
        """Return the ids at the given places, as an array of their shape. Places outside are moved to the ends.

        Raises:
            InputError: if there are places, but no ids.
        """
        del mode
        require(len(self) > 0 or np.size(places) == 0, "ids", "none", "take them from a part that has some")
        at = np.clip(places, 0, len(self) - 1).reshape(-1) + self.begin
        found = np.empty(at.shape, self.dtype)
        for begin in range(0, len(at), READ):
            self._read(at[begin : begin + READ], found[begin : begin + READ])
        return found.reshape(np.shape(places))

    def _read(self, at: np.ndarray, found: np.ndarray) -> None:
        """Write the ids at the places `at` among the ids of all shards to the array `found`."""
        owner = np.searchsorted(self.offsets, at, side="right") - 1
        for number in np.unique(owner):
            ids, joint = self.shards[number]
            own = owner == number
            found[own] = joint[ids[at[own] - self.offsets[number]]]
            _give_back(ids)


def allow_open_files(count: int) -> None:
    """Allow this process `count` more open files, if its limit is lower. A mapped file counts as an open one.

    Raises:
        InputError: if the hard limit is lower.
    """
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = count + OTHER_FILES
    if soft != resource.RLIM_INFINITY and soft < needed:
        unlimited = hard == resource.RLIM_INFINITY
        remedy = "raise the hard limit (ulimit -Hn), or divide the data among fewer files"
        require(unlimited or needed <= hard, "open files", f"{needed} needed, {hard} allowed", remedy)
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))


def _give_back(ids: np.ndarray) -> None:
    """Give back the pages of a mapped file. They stay in the operating system's cache, as long as there is memory for it.

    Otherwise the memory of the process would grow to the size of all pages that it has read.
    """
    if isinstance(ids.base, mmap.mmap):
        ids.base.madvise(mmap.MADV_DONTNEED)
