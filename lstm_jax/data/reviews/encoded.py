"""Encoded reviews: one array with the ids of all reviews, the offsets of the reviews in it, and their labels and movies."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from lstm_jax.data.padding import pad_ragged
from lstm_jax.data.reviews.vocabulary import Vocabulary


@dataclass(frozen=True)
class EncodedSplit:
    """N encoded reviews, whose ids are concatenated in one array."""

    values: np.ndarray
    """One-dimensional int32 array of the ids of all reviews, concatenated. Each review begins with the start id 1."""
    offsets: np.ndarray
    """(N + 1,) int64: review n is `values[offsets[n]:offsets[n + 1]]`."""
    labels: np.ndarray
    """(N,) int32: 0 negative, 1 positive."""
    groups: np.ndarray
    """(N,) int32: index of the movie of each review, or -1 if the movie is unknown. A movie has the same index in every split."""
    digests: np.ndarray | None = None
    """(N,) uint64: hash of the words of each review, or None if only the ids are known."""

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def lengths(self) -> np.ndarray:
        """Number of ids of each review, including the start id, as an array (N,)."""
        return np.diff(self.offsets)

    def row(self, number: int) -> np.ndarray:
        """Return the ids (T,) of the review with the index `number`."""
        return self.values[self.offsets[:-1][number] : self.offsets[1:][number]]

    def padded(self, maxlen: int, padding: str = "pre", truncating: str = "pre") -> np.ndarray:
        """Pad the reviews with 0 or cut them to the same length, and return them as an int32 array (N, maxlen).

        The result equals that of `keras.utils.pad_sequences` with the same options.

        Args:
            maxlen: number of ids of each row of the result.
            padding: where 0 is added to a short review: "pre" (at its start) or "post" (at its end).
            truncating: where a long review is cut: "pre" (at its start) or "post" (at its end).

        Raises:
            InputError: if `maxlen` is below 1, or if `padding` or `truncating` is neither "pre" nor "post".
        """
        return pad_ragged(self.values, self.offsets, maxlen, padding, truncating)

    def select(self, rows: np.ndarray) -> "EncodedSplit":
        """Return the reviews with the indices `rows`, in the order of `rows`."""
        lengths = self.lengths[rows]
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        within = np.arange(offsets[-1]) - np.repeat(offsets[:-1], lengths)
        values = self.values[np.repeat(self.offsets[:-1][rows], lengths) + within]
        return EncodedSplit(values, offsets, self.labels[rows], self.groups[rows], None if self.digests is None else self.digests[rows])

    def blocks(self) -> Iterator["EncodedSplit"]:
        """Yield all reviews as a single block. `ShardedSplit` has the same method, and yields several blocks."""
        yield self

    def hashes(self) -> np.ndarray:
        """Return a hash of the words of each review, or of its ids if `digests` is None, as a uint64 array (N,).

        Reviews of the same words have equal hashes. `grouped_split` uses the hashes to keep copies of a review in the same split. Hashes of
        the ids are less exact: all rare words have the id 2, so reviews that differ only in rare words have the same ids.
        """
        if self.digests is not None:
            return self.digests
        digests = b"".join(hashlib.blake2b(self.row(number).data, digest_size=8).digest() for number in range(len(self)))
        return np.frombuffer(digests, np.uint64)


@dataclass(frozen=True)
class EncodedReviews:
    """Data set of encoded reviews, with the vocabulary that encoded them and a hash of the source and the options."""

    train: EncodedSplit
    test: EncodedSplit | None
    vocabulary: Vocabulary
    fingerprint: str
    """SHA-256 of the content of the source and of every option that affects the ids or the order of the reviews."""


def keras_check_hash(split: EncodedSplit) -> str:
    """Return a SHA-256 hash of the ids and labels of a split, as a hexadecimal string.

    The tests contain the hashes of the splits that `keras.datasets.imdb.load_data(num_words=None)` returns. A test can thus check without
    Keras that a split equals the split of Keras.

    The hash covers the ids of each review as little-endian int32 followed by b"|", and then the labels as little-endian int32.
    """
    whole = hashlib.sha256()
    for number in range(len(split)):
        whole.update(split.row(number).astype("<i4").tobytes() + b"|")
    whole.update(split.labels.astype("<i4").tobytes())
    return whole.hexdigest()
