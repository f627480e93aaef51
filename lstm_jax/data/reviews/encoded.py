"""Encoded reviews: ids laid end to end, labels and groups."""

import hashlib
from dataclasses import dataclass

import numpy as np

from lstm_jax.data.padding import pad_ragged
from lstm_jax.data.reviews.vocabulary import Vocabulary


@dataclass(frozen=True)
class EncodedSplit:
    """N reviews as ids, laid end to end."""

    values: np.ndarray
    """(ids,) int32, each review's start id first."""
    offsets: np.ndarray
    """(N + 1,) int64: review n is `values[offsets[n]:offsets[n + 1]]`."""
    labels: np.ndarray
    """(N,) int32: 0 negative, 1 positive."""
    groups: np.ndarray
    """(N,) int32: the movie's number, the same in every split; -1 where unknown."""

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def lengths(self) -> np.ndarray:
        """(N,) ids of each review, the start id included."""
        return np.diff(self.offsets)

    def row(self, number: int) -> np.ndarray:
        """Return the (T,) ids of one review."""
        return self.values[self.offsets[number] : self.offsets[number + 1]]

    def padded(self, maxlen: int, padding: str = "pre", truncating: str = "pre") -> np.ndarray:
        """Return (N, maxlen) int32 rows, padded as by `keras.utils.pad_sequences`.

        Raises:
            InputError: for maxlen < 1, or an end that is neither "pre" nor "post".
        """
        return pad_ragged(self.values, self.offsets, maxlen, padding, truncating)

    def select(self, rows: np.ndarray) -> "EncodedSplit":
        """Return the reviews of the given row numbers, in that order."""
        lengths = self.lengths[rows]
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        within = np.arange(offsets[-1]) - np.repeat(offsets[:-1], lengths)
        values = self.values[np.repeat(self.offsets[:-1][rows], lengths) + within]
        return EncodedSplit(values, offsets, self.labels[rows], self.groups[rows])

    def hashes(self) -> np.ndarray:
        """Return (N,) uint64 hashes, equal for reviews of equal ids, which `grouped_split` keeps together."""
        digests = b"".join(hashlib.blake2b(self.row(number).data, digest_size=8).digest() for number in range(len(self)))
        return np.frombuffer(digests, np.uint64)


@dataclass(frozen=True)
class EncodedReviews:
    """A data set: encoded reviews, the vocabulary that encoded them, and a hash of their inputs."""

    train: EncodedSplit
    test: EncodedSplit | None
    vocabulary: Vocabulary
    fingerprint: str
    """SHA-256 of the source's content and of every option that decides an id or the order."""


def keras_check_hash(split: EncodedSplit) -> str:
    """Return the SHA-256 over each row (`<i4` bytes, then b"|"), then the labels as `<i4`; it identifies Keras' uncapped data."""
    whole = hashlib.sha256()
    for number in range(len(split)):
        whole.update(split.row(number).astype("<i4").tobytes() + b"|")
    whole.update(split.labels.astype("<i4").tobytes())
    return whole.hexdigest()
