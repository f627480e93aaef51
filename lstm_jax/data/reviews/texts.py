"""Labelled reviews as bytes, each with its text, label and name and, if known, its movie."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from lstm_jax.errors import require

CLASSES = ("neg", "pos")


@dataclass(frozen=True)
class TextSplit:
    """N labelled texts; entry n of each field belongs to text n."""

    texts: tuple[bytes, ...]
    """N texts as the bytes of the source, usually UTF-8. NUL and invalid bytes are kept."""
    labels: np.ndarray
    """(N,) int32: 0 negative, 1 positive."""
    names: tuple[str, ...]
    """N names, such as `pos/0_9.txt` for id 0 and rating 9 in the Large Movie Review Dataset. They decide the order of `name_order`."""
    groups: tuple[str, ...] | None = None
    """N movie ids, "" for a review whose movie is unknown; None if no movie is known."""

    def __len__(self) -> int:
        return len(self.texts)


def review_name(label: int, row: int, identity: object = None, rating: object = None) -> str:
    """Return the name of a review: `pos/0_9.txt` for id 0 and rating 9, or `pos/000000012.txt` for row 12 if one of them is None.

    Args:
        label: 0 (negative) or 1 (positive); it decides the folder, `neg` or `pos`.
        row: row number of the review.
        identity: id of the review, or None if unknown.
        rating: rating of the review, or None if unknown.
    """
    if identity is None or rating is None:
        return f"{CLASSES[label]}/{row:09d}.txt"
    return f"{CLASSES[label]}/{identity}_{rating}.txt"


def check_splits(splits: Mapping[str, TextSplit], source: object) -> None:
    """Check that there is a training split, and that every split has reviews of both classes.

    Args:
        splits: the reviews by split.
        source: what the error message calls the source, such as its path.

    Raises:
        InputError: if there is no training split, or a split lacks reviews of a class.
    """
    require("train" in splits, f"source {source}", f"splits {sorted(splits)}", "give one that holds training reviews")
    for name, split in splits.items():
        require(len(split) > 0, f"{name} split of {source}", "no reviews", "give at least one review of each class")
        counts = np.bincount(split.labels, minlength=2)
        require(
            bool(counts.min() > 0),
            f"{name} split of {source}",
            f"{counts[1]} positive and {counts[0]} negative reviews",
            "give reviews of both classes",
        )


def name_order(split: TextSplit) -> np.ndarray:
    """Return the row numbers (N,) in the order that Keras' data set had before it was shuffled.

    Positive reviews come first; the reviews of a class are sorted by name, as strings.
    """
    return np.asarray(sorted(range(len(split)), key=lambda row: (-int(split.labels[row]), split.names[row])), np.int64)
