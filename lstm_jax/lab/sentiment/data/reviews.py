"""Labelled reviews, the forms in which they can be given, and their reading from tables
and from the Large Movie Review Dataset (Maas et al., ACL 2011), as the archive
`aclImdb_v1.tar.gz` or its extracted folder. `sources.py` lists the forms.
"""

import codecs
import gzip
import os
import re
import tarfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy import ndarray

from lstm_jax.base.checks import frozen
from lstm_jax.base.errors import InputError, parsing, require
from lstm_jax.base.reading import open_input
from lstm_jax.base.types import Progress, Texts
from lstm_jax.lab.files.reading import (
    decode_utf8,
    download,
    encode_utf8,
    expanded,
    file_digest,
    read_input,
    require_utf8,
)
from lstm_jax.lab.files.tables import (
    ENDINGS,
    TEXT_FLAG,
    has_columns,
    is_missing,
    is_table,
    read_text_column,
    table_rows,
)

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
    """Name of the form, a part of the key of a cache file."""
    find: Callable[[Path], Found | None]
    """Function that takes an existing path and returns the location of the reviews
    there, or None if there are none of this form."""
    read: Callable[[Found, str, str, bool], TextSplits] | None = None
    """Function read(found, text_column, label_column, verify) that returns the texts of
    each split, or None for Keras' word ranks, which `read_keras_npz` reads."""
    keyword: str = ""
    """Word, such as "tfds", that the user gives in place of a path to choose this form.
    """
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


CLASS_WORDS = "0 0.0 neg negative false", "1 1.0 pos positive true"
LABELS = {
    word: label for label, words in enumerate(CLASS_WORDS) for word in words.split()
}
GROUP_KEYS = ("movie", "group")
SAVE = "save the text as UTF-8"


def find_tables(path: Path) -> Found | None:
    """Return the location of the review tables at a path, or None if there is no table
    with a training split at this path.
    """
    if not path.is_dir():
        return Found(path, {"train": path}) if is_table(path) else None
    tables = {}
    for split in ("train", "test"):
        names = [
            f"{split}{ending}"
            for ending in ENDINGS
            if os.path.isfile(path / f"{split}{ending}")
        ]
        require(len(names) < 2, f"{split} split of {path}", names, "keep one of them")
        if names:
            tables[split] = path / names[0]
    return Found(path, tables) if "train" in tables else None


def read_tables(
    found: Found, text_column: str, label_column: str, _: bool
) -> TextSplits:
    """Return the reviews in tables, as a dict from the name of each split to its
    reviews.
    """
    return {
        name: text_split(table_reviews(path, text_column, label_column))
        for name, path in found.files.items()
    }


def table_reviews(
    path: Path, text_column: str, label_column: str, limited: bool = True
) -> Iterator[Review]:
    """Yield the reviews of a table, in the order of its rows."""
    rows = table_rows(
        path, {text_column: TEXT_FLAG, label_column: "--label-column"}, limited
    )
    for count, (number, row) in enumerate(rows):
        here = f"line {number} of {path}"
        text = row.get(text_column)
        label = LABELS.get(str(row.get(label_column)).strip().lower())
        if not isinstance(text, str):
            raise InputError(f"{text_column!r} in {here}", repr(text), "give a string")
        if label is None:
            raise InputError(
                f"label {label_column!r} in {here}",
                repr(row.get(label_column)),
                "give 0 or 1",
            )
        known = {key: value for key, value in row.items() if not is_missing(value)}
        group = next((str(known[key]) for key in GROUP_KEYS if key in known), "")
        encode_utf8(group, f"movie in {here}", SAVE)
        name = review_name(label, count, known.get("id"), known.get("rating"))
        yield Review(
            encode_utf8(text, f"{text_column!r} in {here}", SAVE), label, name, group
        )


def read_texts(path: Path, text_column: str = "text") -> list[bytes]:
    """Return the reviews, without labels, of a table or of a text file with one review
    in each line.
    """
    if has_columns(path):
        return [
            text.encode() for text in read_text_column(path, text_column, keep=True)
        ]
    return (
        decode_utf8(
            read_input(path),
            path,
            "give a text in UTF-8 with one review in each line, or a table",
        )
        .encode()
        .splitlines()
    )


ARCHIVE_NAME = "aclImdb_v1.tar.gz"
ARCHIVE_URL = "http://ai.stanford.edu/~amaas/data/sentiment/aclImdb_v1.tar.gz"
ARCHIVE_BYTES = 84_125_825
ARCHIVE_SHA256_PREFIX = "c40f74a1"
AGAIN = "download it again from " + ARCHIVE_URL

# an id or a rating has at most 9 digits; the published ones have at most 5
MEMBER = re.compile(
    r"(train|test)/(?:(pos|neg)/([0-9]{1,9})_([0-9]{1,9})|urls_(pos|neg))\.txt"
)
REVIEW = re.compile(r"(train|test)/(pos|neg)/[^./][^/]*\.txt", re.IGNORECASE)
MOVIE = re.compile(rb"tt\d+")


def check_size(path: Path) -> None:
    """Raise an `InputError` unless a file has the size of the archive
    aclImdb_v1.tar.gz.
    """
    size = path.stat().st_size
    require(
        size == ARCHIVE_BYTES,
        f"size of {path}",
        f"{size} bytes instead of {ARCHIVE_BYTES}",
        AGAIN,
    )


def verify_archive(path: Path) -> None:
    """Check the size of the archive aclImdb_v1.tar.gz and the first 32 bits of its
    SHA-256.

    Raises:
        InputError: if the archive is absent, or if its size or checksum is wrong.
    """
    require(path.is_file(), f"archive {path}", "absent", AGAIN)
    check_size(path)
    digest = file_digest(path)
    require(
        digest.startswith(ARCHIVE_SHA256_PREFIX),
        f"sha256 of {path}",
        f"{digest[:16]}... instead of {ARCHIVE_SHA256_PREFIX}...",
        AGAIN,
    )


def download_archive(folder: Path, on_bytes: Progress | None = None) -> Path:
    """Download the archive of the Large Movie Review Dataset (84 MB) into a folder,
    unless it is there already, and return its path.

    `on_bytes` is called after each MiB with the number of bytes received so far and
    that of all, or 0 if it is unknown.

    Raises:
        InputError: if the download fails, or if the server sends a different file.
    """
    path = folder / ARCHIVE_NAME
    if not path.exists():
        download(
            ARCHIVE_URL,
            path,
            verify_archive,
            "give --data the path of a local copy",
            on_bytes,
        )
    return path


def read_archive(
    found: Found, _text_column: str, _label_column: str, verify: bool
) -> TextSplits:
    """Return the reviews in a .tar.gz archive, as a dict from the name of each split to
    its reviews.
    """
    path = found.path
    if verify and path.name == ARCHIVE_NAME:
        verify_archive(path)
    subject = f"archive {path}"

    def members():
        # gzip.open rather than tarfile's own "r|gz": the latter takes a truncated
        # stream for the end of the archive.
        with open_input(path, subject, AGAIN) as file, gzip.open(file) as whole:
            stream = expanded(whole, path.stat().st_size, subject)
            archive = tarfile.open(fileobj=stream, mode="r|")  # noqa: SIM115
            for member in archive:
                name = member.name.removeprefix("./")
                own = name.removeprefix("aclImdb/")
                if own != name and _is_read(own, f"{name} in {path}"):
                    plain = member.isreg() and not member.issparse()
                    found = "no plain file"
                    require(plain, f"member {name} of {path}", found, AGAIN)
                    content = archive.extractfile(member)
                    assert content is not None
                    yield own, content.read()
            # read to the end, so that gzip compares the checksum
            while stream.read(1 << 20):
                pass

    with parsing(subject, AGAIN):
        return _assemble(members(), path)


def find_folder(path: Path) -> Found | None:
    """Return the location of the extracted `aclImdb` folder at a path, or None if there
    is no such folder at this path.
    """
    for folder in (path, path / "aclImdb"):
        if os.path.isdir(folder / "train" / "pos"):
            with parsing(f"folder {folder}", "give one whose files can be read"):
                parts = (
                    folder / split / label
                    for split in ("train", "test")
                    for label in ("", "pos", "neg")
                )
                entries = sorted(
                    entry for part in parts if part.is_dir() for entry in part.iterdir()
                )
            named = {entry.relative_to(folder).as_posix(): entry for entry in entries}
            return Found(
                folder,
                {
                    name: entry
                    for name, entry in named.items()
                    if _is_read(name, str(entry))
                },
            )
    return None


def read_folder(found: Found, *_: object) -> TextSplits:
    """Return the reviews in an extracted `aclImdb` folder, as a dict from the name of
    each split to its reviews.
    """
    return _assemble(
        ((name, read_input(path)) for name, path in found.files.items()), found.path
    )


def _is_read(name: str, shown: str) -> bool:
    read = MEMBER.fullmatch(name) is not None
    misnamed = not read and REVIEW.fullmatch(name)
    require(
        not misnamed,
        f"review {shown}",
        "not named ID_RATING.txt",
        "rename it, as in 12_7.txt, or give a CSV or JSON-lines file",
    )
    return read


def _assemble(files: Iterable[tuple[str, bytes]], source: Path) -> TextSplits:
    texts, movies = {}, {}
    for name, content in files:
        split, label, identity, rating, urls_of = MEMBER.findall(name)[0]
        if urls_of:
            for row, line in enumerate(content.splitlines()):
                if movie := MOVIE.search(line):
                    movies[split, urls_of, row] = movie.group().decode()
        else:
            require_utf8(content, f"file {name} in {source}")
            texts[split, label, identity, rating] = content.removeprefix(
                codecs.BOM_UTF8
            )

    reviews = {"train": [], "test": []}
    for (split, label, identity, rating), text in texts.items():
        movie = movies.get((split, label, int(identity)), "")
        reviews[split].append(
            Review(
                text, CLASSES.index(label), f"{label}/{identity}_{rating}.txt", movie
            )
        )
    return {split: text_split(own) for split, own in reviews.items() if own}
