"""Labelled reviews as bytes: text, label, name and, where known, movie."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from lstm_jax.errors import require

CLASSES = ("neg", "pos")


@dataclass(frozen=True)
class TextSplit:
    """N labelled texts, column by column."""

    texts: tuple[bytes, ...]
    """N texts, UTF-8 as in the file; a NUL or an invalid byte is a byte like any other."""
    labels: np.ndarray
    """(N,) int32: 0 negative, 1 positive."""
    names: tuple[str, ...]
    """N names; `pos/0_9.txt` (id 0, rating 9) for reviews of the Large Movie Review Dataset, which decides Keras' order."""
    groups: tuple[str, ...] | None = None
    """N movie ids, "" where unknown; None if all are."""

    def __len__(self) -> int:
        return len(self.texts)


def review_name(label: int, row: int, identity: object = None, rating: object = None) -> str:
    """Return `pos/0_9.txt` if the id and the rating are known, else `pos/000000012.txt` for row 12."""
    if identity is None or rating is None:
        return f"{CLASSES[label]}/{row:09d}.txt"
    return f"{CLASSES[label]}/{identity}_{rating}.txt"


def check_splits(splits: Mapping[str, TextSplit], source: object) -> None:
    """Check that there is a training split, and that every split has reviews of both classes.

    Raises:
        InputError: naming `source` and the split that lacks something.
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
    """Return the (N,) row numbers in Keras' order before its shuffle: positive first, inside a class by name as a string."""
    return np.asarray(sorted(range(len(split)), key=lambda row: (-int(split.labels[row]), split.names[row])), np.int64)
