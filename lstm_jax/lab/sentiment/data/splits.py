"""Encoded reviews, and their division into a training and a validation split that have
no movie and no text in common.
"""

import hashlib
from collections.abc import Iterator
from functools import cached_property
from typing import Any

import numpy as np
from numpy import ndarray

from lstm_jax.base.checks import frozen
from lstm_jax.base.errors import require
from lstm_jax.lab.files.padding import joined_rows, pad_rows
from lstm_jax.lab.sentiment.data.form import check_classes
from lstm_jax.lab.sentiment.data.vocabulary import Vocabulary, content_hashes

BLOCK = 4096
"""Number of reviews that `EncodedSplit.blocks` reads at a time."""


@frozen
class EncodedSplit:
    """N encoded reviews. Their word ids are in memory or, if they were read by
    `read_review_shards`, in memory-mapped files.
    """

    values: Any
    """One-dimensional int32 array of the ids of all reviews, concatenated. Each review
    begins with the start id 1. For reviews in files, it is a `MappedIds` with all
    reviews of the file."""
    offsets: ndarray
    """(N + 1,) int64: review n is `values[offsets[n]:offsets[n + 1]]`. For reviews in
    files, the offsets of all reviews of the file."""
    labels: ndarray
    """(N,) int32: 0 negative, 1 positive."""
    groups: ndarray
    """(N,) int32: index of the movie of each review, or -1 if the movie is unknown. A
    movie has the same index in every split."""
    digests: ndarray | None = None
    """(N,) uint64: hash of the words of each review, or None if only the ids are known.
    """
    places: Any = ...
    """For reviews in files, the index (N,) of each review in `offsets`."""

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def mapped(self) -> bool:
        """Whether the ids are in memory-mapped files."""
        return not isinstance(self.values, ndarray)

    @cached_property
    def starts(self) -> ndarray:
        """Index in `values` of the first id of each review, as an array (N,)."""
        return self.offsets[:-1][self.places]

    @cached_property
    def lengths(self) -> ndarray:
        """Number of ids of each review, including the start id, as an array (N,)."""
        return self.offsets[1:][self.places] - self.starts

    def row(self, number: int) -> ndarray:
        """Return the ids (T,) of the review with the index `number`."""
        begin = self.starts[number]
        return self.values[begin : begin + self.lengths[number]]

    def padded(
        self, maxlen: int, padding: str = "pre", truncating: str = "pre"
    ) -> ndarray:
        """Pad the reviews with 0 or cut them to the same length, and return them as an
        int32 array (N, maxlen); see `pad_ragged`.
        """
        return pad_rows(
            self.values, self.starts, self.lengths, maxlen, padding, truncating
        )

    def in_memory(self) -> "EncodedSplit":
        """Return the same reviews, with their ids in memory."""
        offsets = np.concatenate([[0], np.cumsum(self.lengths)])
        values = joined_rows(self.values, self.starts, self.lengths)
        return EncodedSplit(values, offsets, self.labels, self.groups, self.digests)

    def select(self, rows: ndarray | slice) -> "EncodedSplit":
        """Return the reviews with the indices `rows`, in the order of `rows`. Ids in
        files are not read.
        """
        places = self.places if self.mapped else np.arange(len(self))
        digests = None if self.digests is None else self.digests[rows]
        chosen = EncodedSplit(
            self.values,
            self.offsets,
            self.labels[rows],
            self.groups[rows],
            digests,
            places[rows],
        )
        return chosen if self.mapped else chosen.in_memory()

    def blocks(self) -> "Iterator[EncodedSplit]":
        """Yield the reviews in blocks of `BLOCK` (4096) reviews, with their ids in
        memory. The last block may be smaller.
        """
        for begin in range(0, len(self), BLOCK):
            yield self.select(slice(begin, begin + BLOCK)).in_memory()

    def hashes(self) -> ndarray:
        """Return a hash of the words of each review, or of its ids if `digests` is
        None, as a uint64 array (N,).

        Reviews of the same words have equal hashes. `grouped_split` uses the hashes to
        keep copies of a review in the same split. Hashes of
        the ids are less exact: all rare words have the id 2, so reviews that differ
        only in rare words have the same ids.
        """
        return (
            content_hashes(self.row(number).data for number in range(len(self)))
            if self.digests is None
            else self.digests
        )


@frozen
class EncodedReviews:
    """Data set of encoded reviews, in memory or in files, with the vocabulary that
    encoded them.
    """

    train: EncodedSplit
    test: EncodedSplit | None
    vocabulary: Vocabulary
    fingerprint: str
    """SHA-256 of the content of the source and of every option that affects the ids or
    the order of the reviews. For reviews in shards, of the file index.json, which has
    the checksums of the files of all shards, and of the size of the vocabulary."""


def keras_check_hash(split: EncodedSplit) -> str:
    """Return a SHA-256 hash of the ids and labels of a split, by which tests compare it
    with the split of Keras without Keras.

    The hash covers the ids of each review as little-endian int32 followed by b"|", and
    then the labels as little-endian int32.
    """
    whole = hashlib.sha256()
    for number in range(len(split)):
        whole.update(split.row(number).astype("<i4").tobytes() + b"|")
    whole.update(split.labels.astype("<i4").tobytes())
    return whole.hexdigest()


def grouped_split(
    labels: ndarray,
    groups: ndarray,
    fraction: float,
    seed: int,
    text_hashes: ndarray | None = None,
) -> tuple[ndarray, ndarray]:
    """Divide N rows (labelled reviews) into a training and a validation split.

    Rows of the same group are in the same split. If `text_hashes` is given, rows with
    the same text are in the same split too. The validation split therefore contains
    only approximately the share `fraction` of the rows of each class. For the IMDB
    reviews, where a movie has at most 30 reviews, it contains a few rows more or fewer
    than this share.

    Args:
        labels: (N,) class of each row, 0 or 1.
        groups: (N,) index of the group (movie) of each row. A row with the index -1 is
            a group of its own.
        fraction: share of the rows in the validation split, above 0 and below 1.
        seed: seed of the random choice of the groups in the validation split. Equal
            seeds give equal splits.
        text_hashes: (N,) integers that are equal for rows with equal texts, such as
            `EncodedSplit.hashes()`. If None, texts are not compared, and copies of a
            text can be in different splits.

    Returns:
        The indices of the rows in the training split, and the indices of the rows in
        the validation split, as sorted int64 arrays.

    Raises:
        InputError: if `fraction` is not between 0 and 1, or if the groups are so large
            that one of the classes is missing in a split.
    """
    require(0 < fraction < 1, "validation", fraction, "give a share between 0 and 1")
    counts, component = row_sets(labels, groups, text_hashes)
    order = np.random.default_rng(seed).permutation(len(counts))
    chosen = _choose(counts, fraction, order, {})
    if min(counts[chosen].sum(axis=0).min(), counts[~chosen].sum(axis=0).min()) == 0:
        chosen = _choose(counts, fraction, order, _pinned(counts, order))
    mask = chosen[component]
    parts = np.flatnonzero(~mask), np.flatnonzero(mask)
    for name, part in zip(("training", "validation"), parts, strict=True):
        check_classes(
            labels[part],
            f"{name} part of {len(labels)} reviews",
            "give more reviews or movies, or another share",
        )
    return parts


def row_sets(
    labels: ndarray, groups: ndarray, text_hashes: ndarray | None
) -> tuple[ndarray, ndarray]:
    """Divide N rows into C sets of rows that must be in the same split.

    Returns:
        The number of rows of each class in each set (C, 2), and the index of the set of
        each row (N,).
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    rows = np.arange(len(labels))
    edges = []  # each row is connected with the first row of the same key
    for key in (
        np.where(groups < 0, -1 - rows, groups),
        *(() if text_hashes is None else (text_hashes,)),
    ):
        _, first, inverse = np.unique(key, return_index=True, return_inverse=True)
        edges.append(
            coo_array(
                (np.ones(len(rows)), (rows, first[inverse])),
                shape=(len(rows), len(rows)),
            )
        )
    count, component = connected_components(sum(edges), directed=False)
    return np.bincount(2 * component + labels, minlength=2 * count).reshape(
        -1, 2
    ), component


def _choose(
    counts: ndarray, fraction: float, order: ndarray, pinned: dict[int, bool]
) -> ndarray:
    """Choose sets of rows for the validation split, so that it has about `fraction` of
    the rows of each class.
    """
    chosen = np.zeros(len(counts), bool)
    chosen[list(pinned)] = list(pinned.values())
    missing = np.round(counts.sum(axis=0) * fraction).astype(np.int64) - counts[
        chosen
    ].sum(axis=0)
    free = order[~np.isin(order, list(pinned))]
    for number in free.tolist():
        if (counts[number] <= missing).all():
            chosen[number] = True
            missing -= counts[number]
    # No remaining set fits. Now add or remove the one set that brings both shares
    # nearest to their aim, until no set improves them.
    while len(free):
        signs = np.where(chosen[free], -1, 1)
        costs = np.abs(missing - signs[:, None] * counts[free]).sum(axis=1)
        best = costs.argmin()
        if costs[best] >= np.abs(missing).sum():
            break
        chosen[free[best]] = signs[best] > 0
        missing -= signs[best] * counts[free[best]]
    return chosen


def _pinned(counts: ndarray, order: ndarray) -> dict[int, bool]:
    """Choose sets of rows for the validation split (True) and the training split
    (False), so that both have rows of each class.
    """
    pinned = {}
    sizes = counts.sum(axis=1)
    for label in (0, 1):
        holders = sorted(
            (number for number in order.tolist() if counts[number, label]),
            key=sizes.__getitem__,
        )[:2]
        if len(holders) == 2:
            first, second = holders
            if pinned.get(first) is False or pinned.get(second):
                first, second = second, first
            pinned |= {first: True, second: False}
    return pinned
