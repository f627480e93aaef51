"""One form in which reviews can be given: a row of the table in `sources.py`, and the values that its functions exchange."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lstm_jax.data.reviews.texts import TextSplit


class Found(NamedTuple):
    """A path in which a form was recognised, and each file that decides its content, by name."""

    path: Path
    files: dict[str, Path]


class Ranks(NamedTuple):
    """N reviews as word ranks from 1, laid end to end."""

    ranks: np.ndarray
    """(ids,) int32."""
    offsets: np.ndarray
    """(N + 1,) int64: review n is `ranks[offsets[n]:offsets[n + 1]]`."""
    labels: np.ndarray
    """(N,) int32: 0 negative, 1 positive."""


@dataclass(frozen=True)
class ReadOptions:
    """Options that readers of texts take; each uses those that concern it."""

    text_column: str = "text"
    """Column of the texts in a table."""
    label_column: str = "label"
    """Column of the labels in a table."""
    verify: bool = True
    """Check a file named aclImdb_v1.tar.gz against the published size and hash."""


@dataclass(frozen=True)
class Form:
    """A form of source. It holds texts, which `read` returns by split, or word ranks, which `read_ranks` returns by split."""

    name: str
    """Name of the form, part of the cache's key."""
    find: Callable[[Path], Found | None]
    """Return what is at a path that exists, or None if it is not of this form."""
    read: Callable[[Found, ReadOptions], dict[str, TextSplit]] | None = None
    read_ranks: Callable[[Path], dict[str, Ranks]] | None = None
    keyword: str = ""
    """Word given as `data` in place of a path; `find` then ignores its argument."""
    takes_test_table: bool = False
    """Whether the test split may be a second table."""
    description: str = ""
    """Phrase for error messages."""
    endings: tuple[str, ...] = ()
    """Endings of single files, for error messages."""
