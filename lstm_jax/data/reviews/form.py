"""Types that describe the forms in which reviews can be given, such as a table or an archive. `sources.py` lists the forms."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lstm_jax.data.reviews.texts import TextSplit


class Found(NamedTuple):
    """Result of `Form.find`, the location of reviews: one file or folder, and all files from which the reviews are read."""

    path: Path
    """The file or folder that holds the reviews."""
    files: dict[str, Path]
    """Dict with the path of every file that the reviews are read from, for example `{"train": Path("reviews/train.csv")}`. The keys depend
    on the form of the reviews."""


class Ranks(NamedTuple):
    """N reviews as word ranks, which are concatenated in one array. The most frequent word has the rank 1."""

    ranks: np.ndarray
    """One-dimensional int32 array of the word ranks of all reviews, concatenated."""
    offsets: np.ndarray
    """(N + 1,) int64: review n is `ranks[offsets[n]:offsets[n + 1]]`."""
    labels: np.ndarray
    """(N,) int32: 0 negative, 1 positive."""


@dataclass(frozen=True)
class ReadOptions:
    """Options of the functions that read reviews. A function ignores the options that do not apply to the form that it reads."""

    text_column: str = "text"
    """Name of the column of the texts in a table."""
    label_column: str = "label"
    """Name of the column of the labels in a table."""
    verify: bool = True
    """Whether a file named aclImdb_v1.tar.gz is checked against the published size and checksum."""


@dataclass(frozen=True)
class Form:
    """Form in which reviews can be given, for example a table. Its functions recognise and read reviews of this form.

    A form that holds texts has the function `read`, and a form that holds word ranks has the function `read_ranks`.
    """

    name: str
    """Name of the form, which is part of the key of a cache file. If it changed, all reviews of this form would be encoded anew."""
    find: Callable[[Path], Found | None]
    """Function that takes an existing path and returns the location of the reviews there, or None if there are none of this form."""
    read: Callable[[Found, ReadOptions], dict[str, TextSplit]] | None = None
    """Function that takes the location of the reviews and returns a dict from the name of each split to its texts. If this field is None,
    the form does not hold texts."""
    read_ranks: Callable[[Path], dict[str, Ranks]] | None = None
    """Function that takes a path and returns a dict from the name of each split to its word ranks. If this field is None, the form does not
    hold word ranks."""
    keyword: str = ""
    """Word, such as "tfds", that the user gives in place of a path to choose this form. A form with a keyword has a function `find` that
    ignores its argument. If the keyword is empty, the form is recognised by the path."""
    takes_test_file: bool = False
    """Whether the user may give the test split as a second file."""
    description: str = ""
    """Name of the form in error messages and in the documentation. It is empty if `keyword` or `endings` say enough."""
    endings: tuple[str, ...] = ()
    """Endings of the names of files of this form, which error messages list."""
    content: str = ""
    """Phrase that describes the content of a source of this form in the documentation."""
    example: tuple[str, str] | None = None
    """Name and content of a small text file of this form. The documentation shows it. The tests read it, and read damaged copies of it."""
