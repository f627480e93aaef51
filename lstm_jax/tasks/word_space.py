"""Word vectors that a sentiment run has learned: search for nearest neighbours, map of the words, and export to files."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import IO, Literal

import numpy as np

from lstm_jax import data
from lstm_jax.errors import InputError, require
from lstm_jax.training.run_folder import RunFolder

RESERVED = 4
"""Number of ids before the id of the first word: one each for padding, the start of a review and words outside the vocabulary, and one
unused id."""
COMMON = 50
"""Least number of training reviews that must contain a word on the map. In a small data set, the limit is lower (`WordSpace.common`)."""


def write_words(reviews: data.Reviews, file: IO[bytes]) -> None:
    """Write word statistics of the training reviews to an .npz file, as two arrays `share` and `count`."""
    from lstm_jax.inspection import embedding_space

    size = reviews.vocabulary.size
    positive, count = np.zeros(size), np.zeros(size, np.int64)
    for block in reviews.train.blocks():
        own, found = embedding_space.word_polarity(block.values, block.offsets, block.labels, size)
        positive, count = positive + np.rint(np.nan_to_num(own) * found), count + found
    with np.errstate(invalid="ignore"):
        np.savez_compressed(file, share=positive / count, count=count)


@dataclass(frozen=True)
class WordSpace:
    """Word vectors that a trained sentiment model has learned, with the vocabulary and the folder of the training run.

    Row i of `table` (V, E) is the vector of the word with id i. V is the size of the vocabulary, and E is the number of entries of a
    vector.
    """

    run: RunFolder
    vocabulary: data.Vocabulary
    table: np.ndarray

    @cached_property
    def statistics(self) -> tuple[np.ndarray, np.ndarray]:
        """Two arrays (V,), `share` and `count`. Each array has one entry for each id of the vocabulary."""
        path = self.run.words
        try:
            with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
                return file["share"], file["count"]
        except OSError as error:
            raise InputError(f"words {path}", error.strerror or error, "resume the run, which writes them") from error
        except Exception as error:  # NumPy raises many kinds of errors if the file has another format
            raise InputError(f"words {path}", error, "remove the file and resume the run, which writes it anew") from error

    @cached_property
    def index(self) -> dict[str, int]:
        """Dict from each word that has a vector to its id."""
        return {word: number for word, number in self.vocabulary.index.items() if number < len(self.table)}

    @cached_property
    def common(self) -> np.ndarray:
        """Ids of the common words, which are the words that occur in many training reviews."""
        _, count = self.statistics
        common = np.flatnonzero(count >= min(COMMON, max(1, count.max() // 20)))
        return common[common >= RESERVED]

    def draw(self, path: Path, words: int = 400, force: bool = True) -> None:
        """Draw a map of common words (see `common`)."""
        from lstm_jax.inspection import embedding_map, embedding_space

        require(words >= 2, "words on a map", words, "give 2 or more")
        (share, count), common = self.statistics, self.common
        require(len(common) >= 3, "words for a map", len(common), "train on more reviews or with a larger --num-words")
        one_sided = common[np.argsort(-np.abs(share[common] - 0.5) * np.sqrt(count[common]), kind="stable")][:words]
        drawn = one_sided[np.argsort(-count[one_sided], kind="stable")]  # the most frequent word first
        plane = embedding_space.project(self.table[drawn])
        names = [self.vocabulary.word(int(i)) for i in drawn]
        embedding_map.embedding_map(plane, names, share[drawn], path, "Learned embedding, first two principal axes", force)

    def neighbours(
        self, word: str, count: int = 10, metric: Literal["cosine", "euclidean"] = "cosine", min_reviews: int = 100
    ) -> list[tuple[str, float]]:
        """Return the words nearest to `word`, nearest first, as a list of pairs."""
        from lstm_jax.inspection import embedding_space

        own = embedding_space.lookup(self.index, word)
        _, seen = self.statistics
        # the reserved ids stay in front, because `embedding_space.neighbours` skips the first rows of the table
        kept = seen[: RESERVED + len(self.index)] >= min_reviews
        kept[:RESERVED] = kept[own] = True
        ids = np.flatnonzero(kept)
        found, scores = embedding_space.neighbours(self.table[ids], int(np.searchsorted(ids, own)), count, metric)
        return [(self.vocabulary.word(int(ids[i])), float(score)) for i, score in zip(found, scores, strict=True)]

    def export(self, out: Path, form: str) -> int:
        """Write the vectors of all words to a file or a folder, and return the number of words."""
        from lstm_jax.inspection import embedding_space

        ids = range(RESERVED, min(len(self.table), RESERVED + len(self.vocabulary.words)))
        words = [self.vocabulary.word(i) for i in ids]
        part = slice(RESERVED, RESERVED + len(words))
        if form == "word2vec":
            embedding_space.export_word2vec(out, words, self.table[part])
        else:
            share, count = self.statistics
            columns = {"reviews": count[part], "positive_share": share[part].round(4)}
            embedding_space.export_projector(out, words, self.table[part], columns)
        return len(words)
