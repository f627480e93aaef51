"""Character corpora that are larger than the memory, whose ids stay in a memory-mapped
file; `lab.files.mapped` describes the folder.
"""

import io
import string
from collections.abc import Iterator, Sequence
from pathlib import Path

from lstm_jax.base.checks import checked, frozen
from lstm_jax.base.errors import InputError, require
from lstm_jax.base.reading import open_input
from lstm_jax.base.types import AnyPath, Progress, Values
from lstm_jax.lab.files.mapped import (
    TEXT,
    MappedIds,
    open_folder,
    write_folder,
    write_ids,
)
from lstm_jax.lab.files.reading import NOT_UTF8, require_no_archive, require_utf8
from lstm_jax.lab.generation.config import Clean as Recipe
from lstm_jax.lab.generation.config import Unit
from lstm_jax.lab.generation.data.characters import Characters
from lstm_jax.lab.generation.data.sources import (
    DESCRIPTION,
    Paths,
    clean_pieces,
    source_files,
)

PIECE = 1 << 20
"""Number of characters of a file that are read at a time, besides the rest of a line."""
FILE = "text.npy"
ASCII_LOWER = {ord(letter): letter.lower() for letter in string.ascii_uppercase}


@frozen
class ShardedText:
    """Text whose ids stay in a memory-mapped file."""

    ids: MappedIds
    characters: Characters
    recipe: str
    """Recipe by which the text was cleaned."""
    articles: int
    """Number of articles that are not empty after cleaning."""
    fingerprint: str
    """SHA-256 of index.json."""


def write_shards(
    paths: Paths,
    folder: Path,
    recipe: Recipe = "source",
    unit: Unit = "character",
    on_progress: Progress | None = None,
) -> ShardedText:
    """Encode text files as ids, write the ids to a folder, and return the text.

    The ids equal the training split that `prepare_corpus` returns for the same files,
    recipe and unit with `validation=0`. The files are read piece by piece: once for the
    ids, and before that, with the unit "character", once for the vocabulary.

    Args:
        paths: text files, and folders of text files. Each file is an article.
        folder: folder to write. It is created if it does not exist.
        recipe: recipe by which `clean` cleans the articles.
        unit: unit of the text: "character" or "byte".
        on_progress: function that is called with the number of bytes that have been
            read, and the number of all bytes to read.

    Raises:
        InputError: if a path leads to no text file, or all files are empty; if a file
            cannot be read, is an archive, changes while it is read or, with the unit
            "character", is not UTF-8; if the folder cannot be written, or holds other
            files.
    """
    checked("clean", recipe, Recipe)
    checked("unit", unit, Unit)
    files = source_files(paths)
    size = sum(path.stat().st_size for path in files)
    require(size, "text", "empty", DESCRIPTION)
    passes = 1 if unit == "byte" else 2

    def pieces(first: int):
        def report(done: int):
            if on_progress:
                on_progress(first + done, passes * size)

        return _joined(files, recipe, unit, report)

    def write(folder: Path) -> tuple[list[str], Values]:
        characters = Characters.all_bytes()
        if unit == "character":
            found = set()
            for _, text in pieces(0):
                found.update(text)
            characters = Characters(tuple(sorted(found)))
        articles = 0

        def ids():
            nonlocal articles
            for number, text in pieces((passes - 1) * size):
                articles = number
                yield characters.encode(
                    text.encode("latin-1") if unit == "byte" else text
                )

        write_ids(folder / FILE, characters.dtype, ids())
        facts = {
            "unit": unit,
            "recipe": recipe,
            "characters": characters.characters,
            "articles": articles,
        }
        return [FILE], facts

    write_folder(folder, TEXT, write)
    return read_shards(folder)


def _joined(
    files: Sequence[Path], recipe: Recipe, unit: Unit, report
) -> Iterator[tuple[int, str]]:
    """Yield the cleaned text of some files in pieces, each with the number of articles
    so far.
    """
    articles = 0
    before = 0  # bytes of the files before
    for path in files:
        begins = True
        pieces = _read(path, recipe, unit, before, report)
        if unit == "byte" and recipe == "lower":
            texts = (piece.translate(ASCII_LOWER) for piece in pieces)
        else:
            texts = clean_pieces(pieces, recipe)
        for text in texts:
            if not text:
                continue
            articles += begins
            yield articles, f" {text}" if begins and articles > 1 else text
            begins = False
        before += path.stat().st_size


def _read(path: Path, recipe: Recipe, unit: Unit, before: int, report) -> Iterator[str]:
    # Latin-1 gives each byte the character of its number
    encoding = "latin-1" if unit == "byte" else "utf-8-sig"
    newline = "" if unit == "byte" or recipe == "exact" else None
    with open_input(path, limited=False) as file:
        start = file.peek(1 << 16)
        require_no_archive(start, path)
        if unit == "character":
            require_utf8(start, f"file {path}")
        text = io.TextIOWrapper(file, encoding, newline=newline)
        try:
            # lower() needs whole words
            while piece := text.read(PIECE) + text.readline(PIECE):
                yield piece
                report(before + file.tell())
        except UnicodeDecodeError as error:
            offset = file.tell() - len(error.object) + error.start
            found = f"byte 0x{error.object[error.start]:02x} at offset {offset}"
            raise InputError(
                f"file {path}", f"{found} is not UTF-8", NOT_UTF8
            ) from error
        text.detach()


def read_shards(folder: AnyPath) -> ShardedText:
    """Open the text in a folder that `write_shards` has written, after comparing the
    checksums of its files. Its ids stay in a memory-mapped file.

    Raises:
        InputError: if the folder holds no finished text, or if a file is missing or
            damaged.
    """
    opened = open_folder(folder, TEXT)
    index = opened.index
    characters = Characters(tuple(index["characters"]), index["unit"])
    return ShardedText(
        opened.ids(FILE, characters.size),
        characters,
        index["recipe"],
        index["articles"],
        opened.fingerprint,
    )
