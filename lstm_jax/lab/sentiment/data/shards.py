"""Data sets of reviews that are larger than the memory. Each table of reviews becomes a
shard, whose ids stay in a memory-mapped file.

Besides the files of `shard_folder`, each shard has a file NNNNN.npz with the number of
ids, the label, the movie and a hash of the words of each review. In the file of ids,
the id 0 marks the start of each review. The record of a shard holds its words with
their counts, and its movies. The index holds the joint vocabulary of the training
tables. An opened folder takes 32 bytes of memory for each review, and 4 bytes for each
word of each shard's vocabulary.
"""

import hashlib
from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

import numpy as np
from numpy import ndarray

from lstm_jax.base.checks import frozen
from lstm_jax.base.errors import require
from lstm_jax.base.reading import locate, parsing
from lstm_jax.base.types import AnyPath, Progress
from lstm_jax.base.writing import write_atomically
from lstm_jax.lab.files.shard_folder import (
    REVIEWS,
    MappedIds,
    Record,
    open_folder,
    write_folder,
)
from lstm_jax.lab.files.tables import ENDINGS, is_table
from lstm_jax.lab.sentiment.data.form import check_classes
from lstm_jax.lab.sentiment.data.splits import EncodedReviews, EncodedSplit
from lstm_jax.lab.sentiment.data.tables import table_reviews
from lstm_jax.lab.sentiment.data.vocabulary import (
    FIRST_WORD,
    START,
    UNKNOWN,
    Vocabulary,
    content_hashes,
    ranked_words,
    tokenize,
)

COLUMNS = {"lengths": "i", "labels": "i", "groups": "i", "hashes": "Q"}
"""Arrays in the .npz file of a shard, and their types as `array.array` names them."""
DESCRIPTION = f"name tables, or folders of tables ({', '.join(ENDINGS)})"


def write_review_shards(
    paths: Sequence[str],
    folder: Path,
    test_paths: Sequence[str] = (),
    text_column: str = "text",
    label_column: str = "label",
    workers: int = 1,
    on_progress: Progress | None = None,
) -> EncodedReviews:
    """Encode the reviews of some tables as ids, write the ids to a folder of shards,
    and return the reviews.

    Each table becomes one shard, and is read row by row, so that it need not fit in
    memory. The ids in the result equal those that `encode_reviews` returns for the same
    reviews. If an earlier call for the same folder was interrupted, the intact shards
    that it has written are kept.

    Args:
        paths: tables with training reviews, and folders of such tables.
        folder: folder of the shards; for this, `workers` and `on_progress`, see
            `write_shards`.
        test_paths: tables with test reviews, and folders of such tables.
        text_column: name of the column of the texts.
        label_column: name of the column of the labels.
        workers: number of processes.
        on_progress: function of the progress.

    Raises:
        InputError: if a path leads to no table, or none has training reviews; if a
            table is in both splits, cannot be read or has no reviews; if a split lacks
            reviews of a class; or if the folder cannot be written, holds shards of
            other reviews, or another process writes to it.
    """
    tables = {"train": _tables(paths), "test": _tables(test_paths)}
    trained, tested = ({path.resolve() for path in own} for own in tables.values())
    require(
        not trained & tested,
        "reviews",
        min(trained & tested, default=""),
        "a table of both splits: name it for one of them",
    )
    require(trained, "reviews", "no table", DESCRIPTION)
    parts = [
        {
            "path": str(path),
            "split": split,
            "size": path.stat().st_size,
            "modified": path.stat().st_mtime_ns,
            "text_column": text_column,
            "label_column": label_column,
        }
        for split, own in tables.items()
        for path in own
    ]
    write_folder(folder, REVIEWS, parts, _write_shard, _describe, workers, on_progress)
    return read_review_shards(folder)


def _describe(records: list[Record]) -> Record:
    counts = Counter()
    for record in records:
        if record["part"]["split"] == "train":
            words = (
                word.encode("utf-8", "surrogateescape") for word in record["words"]
            )
            counts.update(dict(zip(words, record["counts"], strict=True)))
    shards = [
        {"split": record["part"]["split"], "sha256": record["sha256"]}
        for record in records
    ]
    return {"words": ranked_words(counts), "shards": shards}


def _tables(names: Sequence[str]) -> list[Path]:
    found = []
    for name in names:
        path = locate(name, "reviews", DESCRIPTION)
        inside = (
            sorted(
                file for file in path.rglob("*") if file.is_file() and is_table(file)
            )
            if path.is_dir()
            else [path]
        )
        require(inside and all(map(is_table, inside)), "reviews", path, DESCRIPTION)
        found += inside
    return found


def _write_shard(part: Record, path: Path) -> Record:
    words, counts, movies = {}, Counter(), {}
    columns = {name: array(kind) for name, kind in COLUMNS.items()}

    def write_ids(file: IO[bytes]):
        for review in table_reviews(
            Path(part["path"]), part["text_column"], part["label_column"], limited=False
        ):
            tokens = tokenize(review.text)
            counts.update(tokens)
            ids = [0, *(words.setdefault(word, len(words) + 1) for word in tokens)]
            file.write(np.asarray(ids, "<i4").tobytes())
            group = movies.setdefault(review.group, len(movies)) if review.group else -1
            row = len(ids), review.label, group, content_hashes([b" ".join(tokens)])[0]
            for column, value in zip(columns.values(), row, strict=True):
                column.append(value)

    write_atomically(path, write_ids)
    require(
        columns["labels"],
        f"table {part['path']}",
        "no reviews",
        "leave it out, or give at least one review",
    )
    write_atomically(path.with_suffix(".npz"), lambda file: np.savez(file, **columns))  # pyright: ignore[reportArgumentType]
    return {
        "words": [word.decode("utf-8", "surrogateescape") for word in words],
        "counts": [*counts.values()],
        "movies": list(movies),
        "count": sum(columns["lengths"]),
    }


# former names of reviews in files
ShardedSplit = EncodedSplit
ShardedReviews = Reviews = EncodedReviews


@frozen
class PaddedReviews:
    """Array (N, maxlen) of padded reviews that is not in memory: the method `take`
    reads the requested rows from memory-mapped files.

    An instance can replace a NumPy array in
    `lstm_jax.training.examples.Examples.arrays`. `pad_ragged` describes the fields
    `maxlen`, `padding` and `truncating`.
    """

    split: EncodedSplit
    maxlen: int
    padding: str = "pre"
    truncating: str = "pre"

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.split), self.maxlen

    @property
    def nbytes(self) -> int:
        """Number of bytes of ids in memory, which is always 0 because the ids stay in
        files.
        """
        return 0

    def take(self, rows: ndarray, axis: int = 0, mode: str = "clip") -> ndarray:
        """Return the R reviews whose indices are in `rows` (R,), padded or cut to an
        int32 array (R, maxlen).

        Indices are clipped to 0 .. N - 1, where N is the number of reviews. The
        arguments `axis` and `mode` are ignored.
        """
        return self.split.select(np.clip(rows, 0, len(self.split) - 1)).padded(
            self.maxlen, self.padding, self.truncating
        )

    def blocks(self) -> Iterator[ndarray]:
        """Yield all padded reviews as int32 arrays (R, maxlen) of R reviews. R is
        `BLOCK` (4096), or less in the last array.
        """
        for block in self.split.blocks():
            yield block.padded(self.maxlen, self.padding, self.truncating)


def read_review_shards(folder: AnyPath, num_words: int | None = None) -> EncodedReviews:
    """Open a folder of shards, and return its reviews. The ids of the reviews stay in
    memory-mapped files.

    Args:
        folder: folder that `write_review_shards` has written.
        num_words: number of ids; see `Vocabulary.capped`.

    Raises:
        InputError: if the folder holds no finished shards, if a shard is missing, is
            damaged or does not match the index of the folder, if a split has no
            positive or no negative reviews, or if `num_words` is below 4 and not 0.
    """
    opened = open_folder(folder, REVIEWS)
    words = Vocabulary(tuple(opened.index["words"]), FIRST_WORD, "frequency").capped(
        num_words
    )
    shards, movies, found = [], {}, []
    for number, record in enumerate(opened.records):
        joint = np.asarray(
            [START, *(words.index.get(word, UNKNOWN) for word in record["words"])],
            np.int32,
        )
        shards.append(opened.shard(number, joint, np.int32))
        path = opened.check(number, "npz")
        with parsing(f"shard {path}", "write them again"), np.load(path) as file:
            lengths, labels, groups, hashes = (file[name] for name in COLUMNS)
        known_movies = np.asarray(
            [*(movies.setdefault(name, len(movies)) for name in record["movies"]), -1],
            np.int32,
        )
        found.append(
            (
                lengths,
                labels,
                known_movies[groups],
                hashes,
                np.full(len(labels), record["split"]),
            )
        )
    lengths, labels, groups, hashes, split_of = map(
        np.concatenate, zip(*found, strict=True)
    )
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    reviews = EncodedSplit(
        MappedIds(shards, np.int32),
        offsets,
        labels,
        groups,
        hashes,
        np.arange(len(labels)),
    )
    splits = {
        name: reviews.select(split_of == name) for name in sorted({*split_of.tolist()})
    }
    for name, split in splits.items():
        check_classes(split.labels, f"{name} split of {folder}")
    fingerprint = hashlib.sha256(
        f"{opened.fingerprint} {words.num_words}".encode()
    ).hexdigest()
    return EncodedReviews(splits["train"], splits.get("test"), words, fingerprint)
