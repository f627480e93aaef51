"""Reviews of different lengths that are packed in rows, as training examples and for evaluation.

A row of L word ids contains at most M reviews. R is the number of rows and N the number of reviews.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lstm_jax import data
from lstm_jax.packing import PackedPlaces, assign_rows, make_segment_ids
from lstm_jax.training.examples import Examples, Order, epoch_order

NONE = -1
"""Label in place of a missing review, in a row that has fewer than M reviews."""


@dataclass(frozen=True)
class PackedRows:
    """N reviews of one split, packed in R rows of L word ids, with their labels. A row contains at most M reviews."""

    ids: np.ndarray
    """int32 (R, L): word ids, 0 where there is no review."""
    labels: np.ndarray
    """int32 (R, M): labels of the reviews of each row. If a row has fewer than M reviews, its last entries are `NONE`."""
    places: PackedPlaces
    """Positions of the reviews in the rows, as NumPy arrays."""
    numbers: np.ndarray
    """int32 (N, 2): index of the row of each review, and index of the review among the reviews of the row.

    The reviews are in the order in which they were given to `pack_reviews`.
    """

    @property
    def arrays(self) -> tuple[Any, ...]:
        """Tuple (ids, labels, places) that holds the training examples."""
        return self.ids, self.labels, self.places

    @property
    def count(self) -> int:
        """Number of reviews."""
        return len(self.numbers)

    @property
    def targets(self) -> np.ndarray:
        """Labels (N,) of the N reviews, in the order in which they were given to `pack_reviews`."""
        return self.by_review(self.labels)

    @property
    def padding(self) -> float:
        """Share of padding: the number of steps that belong to no review, divided by the number of all steps."""
        return float((self.places.segment_ids == 0).mean())

    def by_review(self, values: np.ndarray) -> np.ndarray:
        """Return the values of the N reviews as an array (N,), in the order in which the reviews were given to `pack_reviews`."""
        return values[self.numbers[:, 0], self.numbers[:, 1]]

    def review(self, number: int) -> np.ndarray:
        """Return the T word ids of one review. `number` is its index in the order in which the reviews were given to `pack_reviews`."""
        row, column = self.numbers[number]
        return self.ids[row, self.places.first[row, column] : self.places.last[row, column] + 1]

    def examples(self) -> Examples:
        """Return the rows of packed reviews as training examples, which each epoch reads in random order."""
        counts = jnp.asarray((self.labels != NONE).sum(1), jnp.float32)

        def order(key: jax.Array, count: int, batch_size: int) -> Order:
            rows, weight = epoch_order(key, count, batch_size)[:2]
            reviews = jnp.where(weight > 0, counts[rows], 0).sum(1)
            return Order(rows, jnp.where(weight > 0, 1 / reviews[:, None], 0), reviews)

        return Examples(self.arrays, len(self.ids), order=order)


def pack_reviews(split: data.EncodedSplit, length: int, truncating: str = "pre") -> PackedRows:
    """Pack the reviews of a split in rows, and return the rows. Reviews that are longer than a row are cut."""
    steps = np.minimum(split.lengths, length)
    where = assign_rows(steps, length)
    rows = int(where[:, 0].max()) + 1
    order = np.lexsort((where[:, 1], where[:, 0]))
    row, start = where[order, 0], where[order, 1]
    column = np.arange(len(row)) - np.searchsorted(row, row)
    numbers = np.empty((len(row), 2), np.int32)
    numbers[order, 0], numbers[order, 1] = row, column
    ids, places = np.zeros((rows, length), np.int32), (rows, int(column.max()) + 1)
    for n, (at, begin, count) in enumerate(where):
        review = split.row(n)
        ids[at, begin : begin + count] = review[len(review) - count :] if truncating == "pre" else review[:count]
    first, last, labels = np.zeros(places, np.int32), np.zeros(places, np.int32), np.full(places, NONE, np.int32)
    first[row, column], last[row, column] = start, start + where[order, 2] - 1
    labels[row, column] = split.labels[order]
    return PackedRows(ids, labels, PackedPlaces(make_segment_ids(where, rows, length), first, last), numbers)


def weight_of_reviews(labels: jax.Array, weight: jax.Array) -> jax.Array:
    """Return the weight of each review in a batch of B rows of at most M reviews, as an array (B, M)."""
    return (labels != NONE).astype(weight.dtype) * weight[:, None]
