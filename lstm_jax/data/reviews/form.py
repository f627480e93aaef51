"""Types that describe the forms in which reviews can be given, such as a table or an archive; `sources.py` lists the forms."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lstm_jax.data.reviews.texts import TextSplit


class Found(NamedTuple):
    """The result of `Form.find`: where the reviews are."""

    path: Path
    """The file or folder that holds the reviews."""
    files: dict[str, Path]
    """Every file that decides the content of the reviews, by name."""


class Ranks(NamedTuple):
    """N reviews as word ranks (1 is the most frequent word), concatenated in one array."""

    ranks: np.ndarray
    """(ids,) int32: the ranks of all reviews."""
    offsets: np.ndarray
    """(N + 1,) int64: review n is `ranks[offsets[n]:offsets[n + 1]]`."""
    labels: np.ndarray
    """(N,) int32: 0 negative, 1 positive."""


@dataclass(frozen=True)
class ReadOptions:
    """Options of the functions that read reviews; a function ignores the options that do not apply to its form."""

    text_column: str = "text"
    """Name of the column of the texts in a table."""
    label_column: str = "label"
    """Name of the column of the labels in a table."""
    verify: bool = True
    """Whether a file named aclImdb_v1.tar.gz is checked against the published size and checksum."""


@dataclass(frozen=True)
class Form:
    """One form in which reviews can be given, such as a table, with the functions that recognise and read it.

    A form that holds texts has `read`, and a form that holds word ranks has `read_ranks`.
    """

    name: str
    """Name of the form; it is part of the cache's key."""
    find: Callable[[Path], Found | None]
    """Return the reviews of this form at an existing path, or None if there are none."""
    read: Callable[[Found, ReadOptions], dict[str, TextSplit]] | None = None
    """Return the reviews as texts, by split."""
    read_ranks: Callable[[Path], dict[str, Ranks]] | None = None
    """Return the reviews as word ranks, by split."""
    keyword: str = ""
    """Word that the user gives in place of a path to choose this form; `find` then ignores its argument. Empty if there is none."""
    takes_test_table: bool = False
    """Whether the user may give the test split as a second table."""
    description: str = ""
    """Name of the form in error messages; empty if they name only its `endings`."""
    endings: tuple[str, ...] = ()
    """File endings of the form, which error messages list."""
