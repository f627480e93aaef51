"""Labelled reviews, and the forms in which they can be given, such as a table or an
archive. `sources.py` lists the forms.
"""

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy import ndarray

from lstm_jax.base.checks import frozen
from lstm_jax.base.errors import require
from lstm_jax.base.types import Texts

CLASSES = ("neg", "pos")


@frozen
class TextSplit:
    """N labelled texts of a split. Entry n of each field belongs to text n."""

    texts: tuple[bytes, ...]
    """N texts as bytes, usually in UTF-8. NUL bytes and bytes that are not valid UTF-8
    are kept."""
    labels: ndarray
    """(N,) int32: 0 negative, 1 positive."""
    names: Texts
    """N names, such as `pos/0_9.txt` for id 0 and rating 9 in the Large Movie Review
    Dataset. With the vocabulary "keras", `prepare` sorts by these names."""
    groups: Texts | None = None
    """N movie ids, or None if no movie is known. The movie id is "" for a review whose
    movie is unknown."""

    def __len__(self) -> int:
        return len(self.texts)


TextSplits = dict[str, TextSplit]
"""Reviews under the names of their splits, "train" and "test"."""


class Review(NamedTuple):
    """One labelled review; `TextSplit` describes the fields."""

    text: bytes
    label: int
    name: str
    group: str = ""


def text_split(reviews: Iterable[Review]) -> TextSplit:
    """Return reviews as a split, in their order."""
    texts, labels, names, groups = tuple(zip(*reviews, strict=True)) or ((), (), (), ())
    return TextSplit(
        texts, np.asarray(labels, np.int32), names, groups if any(groups) else None
    )


def review_name(
    label: int, row: int, identity: object = None, rating: object = None
) -> str:
    """Return the name of a review, such as `pos/0_9.txt` for id 0 and rating 9."""
    name = (
        f"{row:09d}" if identity is None or rating is None else f"{identity}_{rating}"
    )
    return f"{CLASSES[label]}/{name}.txt"


def check_splits(splits: TextSplits, source: object) -> None:
    """Check that there is a training split, and that every split has reviews of both
    classes.
    """
    require(
        "train" in splits,
        f"source {source}",
        f"splits {sorted(splits)}",
        "give one that holds training reviews",
    )
    for name, split in splits.items():
        check_classes(split.labels, f"{name} split of {source}")


def check_classes(
    labels: ndarray, subject: str, remedy: str = "give reviews of both classes"
) -> None:
    """Check that there are labels of both classes."""
    negative, positive = (labels == 0).sum(), (labels == 1).sum()
    require(
        min(negative, positive),
        subject,
        f"{positive} positive and {negative} negative reviews",
        remedy,
    )


class Found(NamedTuple):
    """Location of reviews."""

    path: Path
    """The file or folder that holds the reviews."""
    files: dict[str, Path]
    """The files that the reviews are read from, for example `{"train":
    Path("reviews/train.csv")}`. The keys depend on the form."""


def find_file(key: str, name: str, endings: str | Texts, path: Path) -> Found | None:
    """Return the location of a file: `path` itself, if it has one of the endings, or
    the file `name` in the folder `path`.
    """
    inside = path / name if path.is_dir() else path
    good = os.path.isfile(inside) if path.is_dir() else path.name.endswith(endings)
    return Found(inside, {key: inside}) if good else None


@frozen
class Form:
    """Form in which reviews can be given, for example a table. Its functions recognise
    and read reviews of this form.
    """

    name: str
    """Name of the form, which is part of the key of a cache file. If it changed, all
    reviews of this form would be encoded anew."""
    find: Callable[[Path], Found | None]
    """Function that takes an existing path and returns the location of the reviews
    there, or None if there are none of this form."""
    read: Callable[[Found, str, str, bool], TextSplits] | None = None
    """Function read(found, text_column, label_column, verify) that returns the texts of
    each split, or None for Keras' word ranks, which `read_keras_npz` reads. It ignores
    the options that do not apply to its form."""
    keyword: str = ""
    """Word, such as "tfds", that the user gives in place of a path to choose this form.
    A form with a keyword has a function `find` that ignores its argument. If the
    keyword is empty, the form is recognised by the path."""
    takes_test_file: bool = False
    """Whether the user may give the test split as a second file."""
    description: str = ""
    """Name of the form in error messages and in the documentation. It is empty if
    `keyword` or `endings` say enough."""
    endings: Texts = ()
    """Endings of the names of files of this form, which error messages list."""
    content: str = ""
    """Phrase that describes the content of a source of this form in the documentation.
    """
    example: tuple[str, str] | None = None
    """Name and content of a small text file of this form. The documentation shows it.
    The tests read it."""
