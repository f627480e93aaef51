"""Reviews of a sentiment run: functions that load them, split them, and pad them or
pack them in rows for the model.

N is the number of reviews. A row of packed reviews has L word ids and contains at most
M reviews; R is the number of such rows.
"""

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from numpy import ndarray

from lstm_jax.base.checks import frozen
from lstm_jax.base.errors import require
from lstm_jax.lab.files.shuffled import shuffled
from lstm_jax.lab.generation.sampling import check_tokens
from lstm_jax.lab.sentiment import data
from lstm_jax.lab.sentiment.config import SentimentConfig
from lstm_jax.lab.sentiment.data import EncodedReviews, EncodedSplit, PaddedReviews
from lstm_jax.recurrence.packing import PackedPlaces, pack
from lstm_jax.training.examples import (
    Examples,
    Order,
    epoch_order,
    in_parts,
    permuted,
)

NONE = -1
"""Label in place of a missing review, in a row that has fewer than M reviews."""


@frozen
class Rows:
    """Padded reviews of one split, with their labels.

    `ids` is int32 (N, T), for N reviews of T word ids each. It is a NumPy array, or a
    `PaddedReviews`, which reads the ids from files when they are needed. `labels` is
    int32 (N,), with 1 for a positive and 0 for a negative review.
    """

    ids: ndarray | PaddedReviews
    labels: ndarray

    @property
    def count(self) -> int:
        """Number of reviews N."""
        return len(self.labels)

    def review(self, number: int) -> ndarray:
        """Return the ids (T,) of the review with the index `number`, padding included."""
        return np.asarray(self.ids.take(np.asarray([number]), axis=0)[0], np.int32)

    @property
    def targets(self) -> ndarray:
        """The labels (N,)."""
        return self.labels

    def examples(self) -> Examples:
        """Return the reviews as training examples. Each epoch reads them in random
        order.
        """
        streamed = isinstance(self.ids, PaddedReviews)
        return Examples(
            (self.ids, self.labels),
            self.count,
            plan=shuffled if streamed else permuted,
            stream=streamed,
        )


@frozen
class PackedRows:
    """N reviews of one split, packed in R rows of L word ids, with their labels. A row
    contains at most M reviews.
    """

    ids: ndarray
    """int32 (R, L): word ids, 0 where there is no review."""
    labels: ndarray
    """int32 (R, M): labels of the reviews of each row. If a row has fewer than M
    reviews, its last entries are `NONE`."""
    places: PackedPlaces
    """Positions of the reviews in the rows, as NumPy arrays."""
    numbers: ndarray
    """int32 (N, 2): index of the row of each review, and index of the review among the
    reviews of the row.

    The reviews are in the order in which they were given to `pack_reviews`.
    """

    @property
    def count(self) -> int:
        """Number of reviews N."""
        return len(self.numbers)

    @property
    def targets(self) -> ndarray:
        """Labels (N,) of the N reviews, in the order in which they were given to
        `pack_reviews`.
        """
        return self.by_review(self.labels)

    @property
    def padding(self) -> float:
        """Share of padding: the number of steps that belong to no review, divided by
        the number of all steps.
        """
        return float((self.places.segment_ids == 0).mean())

    def by_review(self, values: ndarray) -> ndarray:
        """Return the values of the N reviews as an array (N,), in the order in which
        the reviews were given to `pack_reviews`.
        """
        return values[self.numbers[:, 0], self.numbers[:, 1]]

    def review(self, number: int) -> ndarray:
        """Return the T word ids of one review. `number` is its index in the order in
        which the reviews were given to `pack_reviews`.
        """
        row, column = self.numbers[number]
        return self.ids[
            row, self.places.first[row, column] : self.places.last[row, column] + 1
        ]

    def examples(self) -> Examples:
        """Return the rows of packed reviews as training examples, which each epoch
        reads in random order.
        """
        counts = jnp.asarray((self.labels != NONE).sum(1), jnp.float32)

        def plan(key, count, batch_size):
            rows, weight = epoch_order(key, count, batch_size)[:2]
            reviews = jnp.where(weight > 0, counts[rows], 0).sum(1)
            return in_parts(
                Order(rows, jnp.where(weight > 0, 1 / reviews[:, None], 0), reviews)
            )

        return Examples((self.ids, self.labels, self.places), len(self.ids), plan=plan)


def pack_reviews(
    split: EncodedSplit, length: int, truncating: str = "pre"
) -> PackedRows:
    """Pack the reviews of a split in rows, and return the rows. Reviews that are longer
    than a row are cut.
    """
    kept = slice(-length, None) if truncating == "pre" else slice(length)
    packed = pack([split.row(n)[kept] for n in range(len(split))], length)
    row, start, steps = packed.where.T
    column = packed.segment_ids[row, start] - 1
    shape = len(packed.x), int(column.max()) + 1
    first = np.zeros(shape, np.int32)
    last = np.zeros(shape, np.int32)
    labels = np.full(shape, NONE, np.int32)
    first[row, column], last[row, column], labels[row, column] = (
        start,
        start + steps - 1,
        split.labels,
    )
    return PackedRows(
        packed.x,
        labels,
        PackedPlaces(packed.segment_ids, first, last),
        np.stack([row, column], axis=1),
    )


Split = Rows | PackedRows


@frozen
class Splits:
    """Padded or packed reviews of the training, validation and test splits of a run. A
    split that the run does not have is None.
    """

    train: Split
    validation: Split | None
    test: Split | None

    def held_out(self) -> dict[str, Split]:
        """Return the splits "validation" and "test" that the run has, as a dict."""
        return {
            name: rows
            for name in ("validation", "test")
            if (rows := getattr(self, name)) is not None
        }


def rows_of(
    split: EncodedSplit, config: SentimentConfig, mapped: bool = False
) -> Split:
    """Return the reviews of a split as a model reads them: padded or truncated to the
    same length, or packed in rows.

    If `mapped` is true, word ids in files stay there until a batch needs them.
    """
    shape = config.data.maxlen, config.data.padding, config.data.truncating
    if config.data.packed:
        return pack_reviews(split, config.data.packed, config.data.truncating)
    return Rows(
        PaddedReviews(split, *shape)
        if mapped and split.mapped
        else split.padded(*shape),
        split.labels,
    )


def padded_ids(ids, vocabulary: int) -> ndarray:
    """Return the word ids (B, T) of B padded reviews as a NumPy array of int32, or
    raise an `InputError` unless they are ints from 0 to `vocabulary` - 1, where T is 1
    or more.
    """
    array = check_tokens("ids", ids, vocabulary, axes=2)
    require(
        array.shape[1] > 0, "ids", array.shape, "give ints (B, T), where T is 1 or more"
    )
    return array.astype(np.int32, copy=False)


def split_reviews(
    encoded: EncodedReviews, config: SentimentConfig
) -> tuple[EncodedSplit, EncodedSplit | None]:
    """Cut a validation split from the training reviews, and return the training split
    and the validation split, or None.

    The two splits share no movie and no text.
    """
    train = encoded.train
    if not config.data.validation:
        return train, None
    keep, held = data.grouped_split(
        train.labels,
        train.groups,
        config.data.validation,
        config.train.seed,
        train.hashes(),
    )
    return train.select(keep), train.select(held)


def padded_rows(encoded: EncodedReviews, config: SentimentConfig) -> Splits:
    """Return the splits of a run (see `split_reviews`), with all reviews padded or
    packed as the config says (see `rows_of`).
    """
    train, held_out = split_reviews(encoded, config)
    validation, test = (
        rows_of(part, config) if part else None for part in (held_out, encoded.test)
    )
    return Splits(rows_of(train, config, mapped=True), validation, test)


def encoded_reviews(
    config: SentimentConfig, on_progress: Callable[[str, int, int], None] | None = None
) -> EncodedReviews:
    """Return the tokenised reviews that a config names, from the cache if they are
    there.

    `on_progress` is called with a description of the current stage, the number of
    finished stages and the number of all stages.
    """
    if config.data.input == "stream":
        return data.read_review_shards(config.data.data, config.data.num_words)
    names = (
        "data",
        "test_data",
        "text_column",
        "label_column",
        "vocabulary",
        "num_words",
        "cache_dir",
    )
    return data.prepare(
        **{name: getattr(config.data, name) for name in names}, on_progress=on_progress
    )
