"""Reviews of a sentiment run: functions that load them, split them, and pad them or pack them in rows for the model."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from lstm_jax import data
from lstm_jax.config import SentimentConfig
from lstm_jax.errors import InputError
from lstm_jax.recurrence import as_array, clipped_int32
from lstm_jax.tasks.packed_reviews import PackedRows, pack_reviews
from lstm_jax.training.examples import Examples, shuffled


@dataclass(frozen=True)
class Rows:
    """Padded reviews of one split, with their labels.

    `ids` is int32 (N, T), for N reviews of T word ids each. It is a NumPy array, or a `PaddedReviews`, which reads the ids from files when
    they are needed. `labels` is int32 (N,), with 1 for a positive and 0 for a negative review.
    """

    ids: np.ndarray | data.PaddedReviews
    labels: np.ndarray

    @property
    def count(self) -> int:
        """Number of reviews N."""
        return len(self.labels)

    @property
    def targets(self) -> np.ndarray:
        """The labels (N,)."""
        return self.labels

    def examples(self) -> Examples:
        """Return the reviews as training examples. Each epoch reads them in random order."""
        if isinstance(self.ids, np.ndarray):
            return Examples.of_rows((self.ids, self.labels))
        return Examples((self.ids, self.labels), self.count, stream=True, plans=shuffled)


Split = Rows | PackedRows


@dataclass(frozen=True)
class Splits:
    """Padded or packed reviews of the training, validation and test splits of a run. A split that the run does not have is None."""

    train: Split
    validation: Split | None
    test: Split | None

    def held_out(self) -> dict[str, Split]:
        """Return the reviews of the validation split and of the test split, as a dict with the keys "validation" and "test".

        A split that the run does not have is left out of the dict.
        """
        parts = {"validation": self.validation, "test": self.test}
        return {name: rows for name, rows in parts.items() if rows is not None}


def rows_of(split: data.EncodedSplit | data.ShardedSplit, config: SentimentConfig, mapped: bool = False) -> Split:
    """Return the reviews of a split as a model reads them: padded or truncated to the same length, or packed in rows.

    Args:
        split: the reviews, in memory (`EncodedSplit`) or in files (`ShardedSplit`).
        config: config of the run, which says how reviews are padded, truncated and packed.
        mapped: whether the word ids of a `ShardedSplit` stay in the files, and are read when a batch needs them. If false, all ids are
            read into memory.
    """
    shape = config.data.maxlen, config.data.padding, config.data.truncating
    if isinstance(split, data.ShardedSplit):
        return Rows(data.PaddedReviews(split, *shape) if mapped else split.padded(*shape), split.labels)
    if config.data.packed:
        return pack_reviews(split, config.data.packed, config.data.truncating)
    return Rows(split.padded(*shape), split.labels)


def padded_ids(ids: Any, vocabulary: int) -> np.ndarray:
    """Return the word ids (B, T) of B padded reviews as a NumPy array of int32, after checking them.

    Raises:
        InputError: if `ids` is not an array or a list of ints with the shape (B, T), if T is 0, or if an id is below 0 or above
            `vocabulary` - 1.
    """
    remedy = "give ints (B, T), where T is 1 or more"
    array = np.asarray(as_array("ids", ids, remedy))
    if array.ndim != 2 or array.shape[1] == 0 or array.dtype.kind not in "iu":
        raise InputError("ids", f"{array.dtype} {array.shape}", remedy)
    found = clipped_int32(array)
    if found.size and found.view(np.uint32).max() >= vocabulary:  # a negative id is a large number there
        raise InputError("ids", array[(found < 0) | (found >= vocabulary)][0], f"the vocabulary has the ids 0 to {vocabulary - 1}")
    return found


def split_reviews(encoded: data.Reviews, config: SentimentConfig) -> tuple[Any, Any]:
    """Cut a validation split from the training reviews, and return a pair: the training split, and the validation split.

    The two splits share no movie and no text. Their reviews are neither padded nor packed. If the config sets the size of the validation
    split to 0, there is no validation split, and None takes its place.
    """
    train = encoded.train
    if not config.data.validation:
        return train, None
    keep, held = data.grouped_split(train.labels, train.groups, config.data.validation, config.train.seed, train.hashes())
    return train.select(keep), train.select(held)


def padded_rows(encoded: data.Reviews, config: SentimentConfig) -> Splits:
    """Return the splits of a run, with all reviews padded or truncated to the same length, or packed in rows if the config says so.

    The validation split consists of training reviews that are held out. It shares no movie and no text with the training split. If the
    config sets the size of the validation split to 0, there is no validation split.
    """
    train, held_out = split_reviews(encoded, config)
    validation, test = (rows_of(part, config) if part else None for part in (held_out, encoded.test))
    return Splits(rows_of(train, config, mapped=True), validation, test)


def load_reviews(config: SentimentConfig, on_progress: Callable[[str, int, int], None] | None = None) -> data.Reviews:
    """Return the tokenised reviews that a config names. If the reviews are in the cache, they are read from there.

    Args:
        config: config of the run.
        on_progress: function that is called with a description of the current stage, the number of finished stages and the number of all
            stages.
    """
    if config.data.input == "stream":
        return data.read_review_shards(config.data.data, config.data.num_words)
    fields = {
        name: value
        for name, value in asdict(config.data).items()
        if name not in ("input", "maxlen", "padding", "truncating", "packed", "validation")
    }
    return data.prepare(**fields, on_progress=on_progress)
