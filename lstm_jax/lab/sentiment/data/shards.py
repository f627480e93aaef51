"""Reviews that are larger than the memory, whose ids stay in memory-mapped files;
`lab.files.mapped` describes the folder.

Each split has a file SPLIT.npy with the ids of its reviews, and a file SPLIT.npz with
the length, the label, the movie and a hash of the words of each review. The index has
the vocabulary. An opened folder takes 32 bytes of memory for each review.
"""

import hashlib
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy import ndarray

from lstm_jax.base.checks import frozen
from lstm_jax.base.errors import require
from lstm_jax.base.types import AnyPath, Progress, Values
from lstm_jax.base.writing import write_atomically
from lstm_jax.lab.files.mapped import REVIEWS, open_folder, write_folder, write_ids
from lstm_jax.lab.files.reading import locate
from lstm_jax.lab.files.tables import ENDINGS, is_table
from lstm_jax.lab.sentiment.data.dataset import EncodedReviews, EncodedSplit
from lstm_jax.lab.sentiment.data.reviews import check_classes, table_reviews
from lstm_jax.lab.sentiment.data.vocabulary import (
    FIRST_WORD,
    UNKNOWN,
    Vocabulary,
    build_vocabulary,
    content_hashes,
    tokenize,
)

COLUMNS = {"lengths": "q", "labels": "i", "groups": "i", "hashes": "Q"}
"""Arrays in the .npz file of a split, and their types as `array.array` names them."""
DESCRIPTION = f"name tables, or folders of tables ({', '.join(ENDINGS)})"


def write_review_shards(
    paths: Sequence[str],
    folder: Path,
    test_paths: Sequence[str] = (),
    text_column: str = "text",
    label_column: str = "label",
    on_progress: Progress | None = None,
) -> EncodedReviews:
    """Encode the reviews of some tables as ids, write the ids to a folder, and return
    the reviews.

    The tables are read row by row, those of the training reviews twice: first for the
    vocabulary. The ids equal those that `encode_reviews` returns for the same reviews.

    Args:
        paths: tables with training reviews, and folders of such tables.
        folder: folder to write. It is created if it does not exist.
        test_paths: tables with test reviews, and folders of such tables.
        text_column: name of the column of the texts.
        label_column: name of the column of the labels.
        on_progress: function that is called with the number of tables that have been
            read, and the number of all tables to read.

    Raises:
        InputError: if a path leads to no table, or a table is in both splits, cannot be
            read or has no reviews; if a split lacks reviews of a class; or if the folder
            cannot be written, or holds other files.
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
    done, total = 0, 2 * len(tables["train"]) + len(tables["test"])

    def reviews(split: str):
        nonlocal done
        for path in tables[split]:
            empty = True
            for review in table_reviews(path, text_column, label_column, limited=False):
                empty = False
                yield review
            remedy = "leave it out, or give at least one review"
            require(not empty, f"table {path}", "no reviews", remedy)
            done += 1
            if on_progress:
                on_progress(done, total)

    def write(folder: Path) -> tuple[list[str], Values]:
        vocabulary = build_vocabulary(review.text for review in reviews("train"))
        movies, files = {}, []
        for split in ("train", "test") if tested else ("train",):
            columns = {name: array(kind) for name, kind in COLUMNS.items()}

            def encoded(split=split, columns=columns) -> Iterator[ndarray]:
                for review in reviews(split):
                    ids = vocabulary.encode(review.text)
                    movie = -1
                    if review.group:
                        movie = movies.setdefault(review.group, len(movies))
                    words = b" ".join(tokenize(review.text))
                    row = len(ids), review.label, movie, content_hashes([words])[0]
                    for column, value in zip(columns.values(), row, strict=True):
                        column.append(value)
                    yield ids

            write_ids(folder / f"{split}.npy", np.int32, encoded())
            check_classes(np.asarray(columns["labels"]), f"{split} split of {folder}")
            write_atomically(
                folder / f"{split}.npz",
                lambda file, columns=columns: np.savez(file, **columns),  # pyright: ignore[reportArgumentType]
            )
            files += [f"{split}.npy", f"{split}.npz"]
        return files, {"words": vocabulary.words}

    write_folder(folder, REVIEWS, write)
    return read_review_shards(folder)


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
    """Open the reviews in a folder that `write_review_shards` has written, after
    comparing the checksums of its files. Their ids stay in memory-mapped files.

    `num_words` is the number of ids; see `Vocabulary.capped`.

    Raises:
        InputError: if the folder holds no finished reviews, if a file is missing or
            damaged, or if `num_words` is below 4 and not 0.
    """
    opened = open_folder(folder, REVIEWS)
    words = Vocabulary(tuple(opened.index["words"]), FIRST_WORD, "frequency").capped(
        num_words
    )

    def split(name: str) -> EncodedSplit:
        with np.load(opened.path / f"{name}.npz") as file:
            lengths, labels, groups, hashes = (file[column] for column in COLUMNS)
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        ids = opened.ids(f"{name}.npy", words.size, UNKNOWN)
        places = np.arange(len(labels))
        return EncodedSplit(ids, offsets, labels, groups, hashes, places)

    test = split("test") if "test.npy" in opened.index["files"] else None
    content = f"{opened.fingerprint} {words.num_words}"
    fingerprint = hashlib.sha256(content.encode()).hexdigest()
    return EncodedReviews(split("train"), test, words, fingerprint)
