"""Arrays of ids for data sets that are larger than the memory. The ids stay in memory-mapped files, and are read when they are used."""

import mmap
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lstm_jax.errors import require

READ = 2**16
"""Largest number of ids that are read before the pages of the mapped files are released from memory; see `_give_back`."""

OTHER_FILES = 512
"""Number of open files that a process may need in addition to the mapped files."""


@dataclass
class Shard:
    """Ids of a shard in its own vocabulary, which are converted to the joint vocabulary of all shards when they are read."""

    ids: np.ndarray
    joint: np.ndarray
    """Array in which joint[k] is the id in the joint vocabulary for the id k of the shard."""
    check: Callable[[], object] | None = None
    """Function that raises InputError if the file of the ids is damaged. It is called before the ids are first read."""

    def take(self, at: np.ndarray) -> np.ndarray:
        """Return the ids at the indices `at` in the joint vocabulary."""
        if check := self.check:  # another thread may set it to None meanwhile
            check()
            self.check = None
        found = self.joint[self.ids[at]]
        _give_back(self.ids)
        return found


class MappedIds:
    """One-dimensional array of ids that are stored in several memory-mapped files, called shards, one shard after the other.

    Each shard has a vocabulary of its own, to which its stored ids belong. When ids are read, they are converted to the joint vocabulary of
    all shards.

    This class has those operations of a NumPy array that training needs: `len`, slices, arrays of indices, iteration, `take`, `dtype`,
    `itemsize` and `nbytes`.

    Args:
        shards: the shards, in the order of their ids in this array.
        dtype: dtype of the ids in the joint vocabulary.
        begin: index of the first id of this array, counted over the ids of all shards.
        end: index after the last id of this array, also counted over the ids of all shards. If None, the array ends with the last shard.
    """

    def __init__(self, shards: Sequence[Shard], dtype: Any, begin: int = 0, end: int | None = None):
        self.shards, self.dtype = shards, np.dtype(dtype)
        self.offsets = np.cumsum([0, *(len(shard.ids) for shard in shards)])
        self.begin, self.end = begin, int(self.offsets[-1]) if end is None else end

    @property
    def itemsize(self) -> int:
        return self.dtype.itemsize

    @property
    def nbytes(self) -> int:
        """Number of bytes of ids in memory, which is always 0 because the ids stay in files."""
        return 0

    def __len__(self) -> int:
        return self.end - self.begin

    def __getitem__(self, places: slice | np.ndarray) -> np.ndarray:
        """Return the ids at the indices `places` as a NumPy array."""
        if isinstance(places, slice):
            return self.take(np.arange(*places.indices(len(self))))
        places = np.asarray(places)
        if places.dtype.kind == "i" or (places.dtype.itemsize < 8 and places.dtype.kind == "u"):
            places = places.astype(np.int64)  # a narrow dtype does not hold len(self)
        if places.dtype == bool:
            if places.shape != (len(self),):
                raise IndexError(f"a bool array of shape {places.shape} for {len(self)} ids")
            return self.take(np.flatnonzero(places))
        if places.size and not -len(self) <= places.min() <= places.max() < len(self):
            raise IndexError(f"indices {places.min()} to {places.max()} for {len(self)} ids")
        return self.take(np.where(places < 0, places + len(self), places))

    def __iter__(self) -> Iterator[Any]:
        for begin in range(0, len(self), READ):
            yield from self[begin : begin + READ]

    def take(self, places: np.ndarray, mode: str = "clip") -> np.ndarray:
        """Return the ids at the indices `places`, as a NumPy array of the same shape."""
        del mode
        require(len(self) > 0 or np.size(places) == 0, "ids", "none", "take them from a part that has some")
        at = np.clip(places, 0, len(self) - 1).reshape(-1) + self.begin
        found = np.empty(at.shape, self.dtype)
        for begin in range(0, len(at), READ):
            part = at[begin : begin + READ]
            owner = np.searchsorted(self.offsets, part, side="right") - 1
            for number in np.unique(owner):
                own = owner == number
                found[begin : begin + READ][own] = self.shards[number].take(part[own] - self.offsets[number])
        return found.reshape(np.shape(places))


def allow_open_files(count: int) -> None:
    """Make sure that this process may open enough files to map `count` files into memory."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = count + OTHER_FILES
    if soft != resource.RLIM_INFINITY and soft < needed:
        unlimited = hard == resource.RLIM_INFINITY
        remedy = "raise the hard limit (ulimit -Hn), or divide the data among fewer files"
        require(unlimited or needed <= hard, "open files", f"{needed} needed, {hard} allowed", remedy)
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))


def _give_back(ids: np.ndarray) -> None:
    if isinstance(ids.base, mmap.mmap):
        ids.base.madvise(mmap.MADV_DONTNEED)
