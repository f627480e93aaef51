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
    """Write word statistics of the training reviews to an .npz file, as two arrays `share` and `count`.

    Each array has one entry for each id of the vocabulary. The entry of `count` is the number of training reviews that contain the id. The
    entry of `share` is the share of positive reviews among these reviews.

    Args:
        reviews: the reviews and their vocabulary. Only the training reviews are read.
        file: the .npz file, opened for writing bytes.
    """
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
        """Two arrays (V,), `share` and `count`. Each array has one entry for each id of the vocabulary.

        The entry of `count` is the number of training reviews that contain the id. The entry of `share` is the share of positive reviews
        among these reviews.

        Raises:
            InputError: if the file words.npz is absent or damaged.
        """
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
        """Ids of the common words, which are the words that occur in many training reviews.

        A common word occurs in at least `COMMON` training reviews. In a small data set fewer reviews are enough: min(COMMON, n // 20), but
        at least 1, where n is the number of training reviews that contain the most frequent id.
        """
        _, count = self.statistics
        common = np.flatnonzero(count >= min(COMMON, max(1, count.max() // 20)))
        return common[common >= RESERVED]

    def draw(self, path: Path, words: int = 400, force: bool = True) -> None:
        """Draw a map of common words (see `common`).

        The map shows the common words that occur most one-sidedly in positive or in negative reviews, up to `words` of them. The position
        of a word is the projection of its vector onto the first two principal axes of the vectors of all words on the map.

        Args:
            path: path of the .png file; an .svg file is written beside it.
            words: largest number of words on the map. The common words with the highest scores are drawn. A word has the score
                |s - 1/2| sqrt(n), where n is the number of training reviews that contain the word, and s is the share of positive reviews
                among them.
            force: whether an existing file that lstm-jax did not write may be replaced. A file that lstm-jax wrote may always be
                replaced; see `files.writing.check_output`.

        Raises:
            InputError: in one of these cases.

                - `words` is below 2, or there are fewer than 3 common words.
                - The vectors have fewer than 2 entries, or are not finite.
                - The file words.npz of the run is missing or damaged.
                - The path does not end in .png, or a file cannot be written or may not be replaced.
        """
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
        """Return the words nearest to `word`, nearest first, as a list of pairs.

        A pair consists of a neighbour and a number. If `metric` is "cosine", the number is the cosine similarity of the vectors of the
        neighbour and of `word`. If `metric` is "euclidean", it is the distance between the two vectors.

        Args:
            word: a word of the vocabulary.
            count: largest number of neighbours.
            metric: "cosine" for cosine similarity, or "euclidean" for Euclidean distance.
            min_reviews: least number of training reviews that contain a returned word. Words that occur in fewer reviews are not returned,
                because their vectors have hardly moved from their random initial values.

        Raises:
            InputError: if `word` is not in the vocabulary, `count` is below 1, or the file words.npz of the run is missing or damaged.
        """
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
        """Write the vectors of all words to a file or a folder, and return the number of words.

        Args:
            out: path of the file if `form` is "word2vec", or of the folder if `form` is "projector".
            form: "word2vec" for a file in the text format of word2vec, or "projector" for a folder that the TensorBoard projector reads.
                The folder also contains the `statistics` of each word.
        """
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
