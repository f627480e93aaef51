"""Character corpora that are larger than the memory. The ids of a text stay in
memory-mapped files (shards), one for each part of the text.

Each shard has its own vocabulary, which its record holds. It can therefore be written
before the text of the other shards has been read. The index of the folder holds the
joint vocabulary. `shard_folder` describes the files.
"""

import copy
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lstm_jax.base.checks import checked, frozen
from lstm_jax.base.errors import require
from lstm_jax.base.reading import READABLE, decode_utf8, parsing, require_no_archive
from lstm_jax.base.types import AnyPath, Progress
from lstm_jax.base.writing import write_atomically
from lstm_jax.lab.files.shard_folder import (
    TEXT,
    MappedIds,
    Record,
    Shard,
    open_folder,
    write_folder,
)
from lstm_jax.lab.generation.config import Clean as Recipe
from lstm_jax.lab.generation.config import Unit
from lstm_jax.lab.generation.data.characters import BYTES, Characters
from lstm_jax.lab.generation.data.cleaning import clean, unix_line_ends
from lstm_jax.lab.generation.data.sources import DESCRIPTION, Paths, source_files

SHARD_BYTES = 32 * 2**20
"""Size, in bytes, of the part of a text file that becomes one shard."""
SEPARATOR = " "
"""Character between two articles. If the recipe removes white space at the ends of a
text, this character also stands between two shards of an article, unless the text was
divided within a word."""
SPACE = re.compile(rb"[ \t\n]")
"""Bytes after which a text may be divided. The carriage return is left out, since the
two bytes of a Windows line end must stay together."""
_SEARCHED = 2**16


def write_shards(
    paths: Paths,
    folder: Path,
    recipe: Recipe = "source",
    unit: Unit = "character",
    workers: int = 1,
    on_progress: Progress | None = None,
    shard_bytes: int = SHARD_BYTES,
) -> "ShardedText":
    """Encode text files as ids, write the ids to a folder of shards, and return the
    text as a `ShardedText`.

    A shard holds the ids of one part of a file. The ids of the returned text equal the
    training split that `prepare_corpus` returns for the same files, recipe and unit
    with `validation=0`.

    If an earlier call for the same folder was interrupted, the intact shards that it
    has written are kept.

    Args:
        paths: text files, and folders of text files. Each file is an article, and
            articles are joined as in `prepare_corpus`.
        folder: folder of the shards. It is created if it does not exist.
        recipe: recipe by which `clean` cleans the articles.
        unit: unit of the text: "character" or "byte".
        workers: number of processes that write shards at the same time.
        on_progress: function that is called with the number of finished shards and the
            number of all shards.
        shard_bytes: size, in bytes, of the part of a file that becomes one shard.

    Raises:
        InputError: if a path leads to no text file, or all files are empty; if a file
            cannot be read, is an archive, changes while it is read or, with the unit
            "character", is not UTF-8; if the folder cannot be written, or another
            process writes shards to it; or if it holds shards of another text or of
            other options, or foreign files with the names of shard files.
    """
    checked("clean", recipe, Recipe)
    checked("unit", unit, Unit)
    parts = []
    for path in source_files(paths):
        size, modified = path.stat().st_size, path.stat().st_mtime_ns
        for begin in range(0, size, shard_bytes):
            part = {
                "path": str(path),
                "begin": begin,  # `_division` moves begin and end
                "end": min(begin + shard_bytes, size),
                "size": size,
                "modified": modified,
                "recipe": recipe,
                "unit": unit,
            }
            parts.append(part)
    require(parts, "text", "empty", DESCRIPTION)
    write_folder(folder, TEXT, parts, _write_shard, _describe, workers, on_progress)
    return read_shards(folder)


def _describe(records: list[Record]) -> Record:
    """Return the content of the index. "apart" is true for a shard if a separator
    stands before it.
    """
    unit, recipe = records[0]["part"]["unit"], records[0]["part"]["recipe"]
    shards, known, article = [], set(), 0
    filled = set()  # articles that have an id so far
    within = False  # whether the last id lies within a word that goes on
    # whether there is white space, or the begin of an article, between the last id so
    # far and the next shard
    between = True
    for record in records:
        begins, ends = record["edges"] or (True, False)  # a shard without text has None
        starts_article = record["part"]["begin"] == 0
        article += starts_article
        between = (
            between
            or starts_article
            or (recipe.startswith("source") and not (within and begins))
        )
        apart = bool(filled and between and record["count"])
        shards.append(
            {name: record[name] for name in ("characters", "count", "sha256")}
            | {"apart": apart}
        )
        known.update(record["characters"], SEPARATOR * apart)
        if record["count"]:
            filled.add(article)
            between, within = False, ends
    characters = BYTES if unit == "byte" else sorted(known)
    return {
        "unit": unit,
        "recipe": recipe,
        "characters": characters,
        "articles": len(filled),
        "shards": shards,
    }


def _write_shard(part: Record, path: Path) -> Record:
    raw, recipe = _read(part), part["recipe"]
    text = clean(raw, recipe)
    # whether they lie within words
    edges = [bool(clean(edge, recipe)) for edge in (raw[:1], raw[-1:])] if raw else None
    characters = Characters.of(text)
    ids = characters.encode(text)
    write_atomically(
        path, ids.astype(ids.dtype.newbyteorder("<"), copy=False).tobytes()
    )
    return {"characters": characters.characters, "count": len(ids), "edges": edges}


def _read(part: Record) -> Any:
    path, size = part["path"], part["size"]
    with parsing(f"file {path}", READABLE), open(path, "rb") as file:
        begin, end = (
            _division(file, part["begin"], size),
            _division(file, part["end"], size),
        )
        file.seek(begin)
        content, found = file.read(end - begin), os.fstat(file.fileno())
        same = (found.st_size, found.st_mtime_ns) == (size, part["modified"])
        require(
            same,
            f"file {path}",
            "changed while it was read",
            "read it when nothing writes to it, into a new folder",
        )
    if part["unit"] == "byte":
        require_no_archive(content if begin == 0 else b"", path)
        return content
    text = decode_utf8(content, path, begin=begin)
    return text if part["recipe"] == "exact" else unix_line_ends(text)


def _division(file, place: int, size: int) -> int:
    if place in (0, size):
        return place
    file.seek(place)
    ahead = file.read(_SEARCHED)
    if space := SPACE.search(ahead):
        return place + space.end()
    if place + len(ahead) >= size:
        return size
    return place + next(
        (number for number, byte in enumerate(ahead) if byte & 0xC0 != 0x80), 0
    )


@frozen
class Index:
    """Facts about a text in shards: the recipe of its cleaning, the number of its
    articles, and the SHA-256 of the index file.
    """

    recipe: str
    articles: int
    fingerprint: str


class ShardedText(MappedIds):
    """Ids of a text, or of a part of the text, that stay in memory-mapped files
    (shards) and are read when they are used.

    It has those operations of a NumPy array that training needs. The attribute
    `characters` is the joint vocabulary of all shards, and `index` has facts about the
    whole text, such as the number of its articles.
    """

    def __init__(self, shards: Sequence[Shard], characters: Characters, index: Index):
        super().__init__(shards, characters.dtype)
        self.characters, self.index = characters, index

    def part(self, begin: int, end: int) -> "ShardedText":
        """Return the ids `begin` to `end` - 1 of this text as a `ShardedText`, without
        reading them.
        """
        found = copy.copy(self)
        found.begin, found.end = self.begin + begin, self.begin + end
        return found


def read_shards(folder: AnyPath) -> ShardedText:
    """Open a folder of shards, and return its text.

    The ids of the text stay in memory-mapped files. The checksum of a shard is verified
    when it is first read.

    Raises:
        InputError: if the folder holds no finished shards of a text, if a shard is
            missing or cut off, or if a record is damaged or belongs to another text.
    """
    opened, shards = open_folder(folder, TEXT), []
    unit = opened.index["unit"]
    characters = Characters(tuple(opened.index["characters"]), unit)
    for number, record in enumerate(opened.records):
        if record["apart"]:
            shards.append(
                Shard(1, characters.encode(SEPARATOR), lambda: np.zeros(1, np.uint8))
            )
        own = Characters(tuple(record["characters"]), unit)
        joint = np.asarray(
            [characters.char_to_id[character] for character in own.characters],
            characters.dtype,
        )
        shards.append(opened.shard(number, joint, own.dtype))
    return ShardedText(
        shards,
        characters,
        Index(opened.index["recipe"], opened.index["articles"], opened.fingerprint),
    )
