"""Reading of the Large Movie Review Dataset (Maas et al., ACL 2011) from the archive
`aclImdb_v1.tar.gz` or its extracted folder.
"""

import codecs
import gzip
import os
import re
import tarfile
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from lstm_jax.base.errors import require
from lstm_jax.base.reading import (
    expanded,
    file_digest,
    open_input,
    parsing,
    read_input,
    require_utf8,
)
from lstm_jax.base.types import Progress
from lstm_jax.base.writing import download
from lstm_jax.lab.sentiment.data.form import (
    CLASSES,
    Found,
    Review,
    TextSplits,
    text_split,
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

    This project knows only these 32 bits of the correct checksum. The check detects a
    broken download, but not a deliberate change.

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

    The size and the checksum of a downloaded archive are verified before the file gets
    its final name. An archive that is there already is not verified.

    Args:
        folder: the folder.
        on_bytes: function that is called after each MiB with the number of bytes
            received so far and that of all, or 0 if it is unknown.

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
                name = PurePosixPath(member.name)
                plain = member.isdir() or (member.isreg() and not member.issparse())
                safe = (
                    not name.is_absolute()
                    and ".." not in name.parts
                    and plain
                    and member.size >= 0
                )
                require(
                    safe,
                    f"member of {path}",
                    member.name,
                    "an archive of reviews holds plain files and folders only; "
                    + AGAIN,
                )
                own = name.as_posix().removeprefix("aclImdb/")
                if (
                    own != name.as_posix()
                    and _is_read(own, f"{name} in {path}")
                    and (content := archive.extractfile(member))
                ):
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
