"""Labelled reviews. Each review has a text (as bytes), a label, a name and, if known, a movie."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from lstm_jax.errors import require

CLASSES = ("neg", "pos")


@dataclass(frozen=True)
class TextSplit:
    """N labelled texts of a split. Entry n of each field belongs to text n."""

    texts: tuple[bytes, ...]
    """N texts as bytes, usually in UTF-8. NUL bytes and bytes that are not valid UTF-8 are kept."""
    labels: np.ndarray
    """(N,) int32: 0 negative, 1 positive."""
    names: tuple[str, ...]
    """N names, such as `pos/0_9.txt` for id 0 and rating 9 in the Large Movie Review Dataset. `name_order` sorts by
    these names."""
    groups: tuple[str, ...] | None = None
    """N movie ids, or None if no movie is known. The movie id is "" for a review whose movie is unknown."""

    def __len__(self) -> int:
        return len(self.texts)


def review_name(label: int, row: int, identity: object = None, rating: object = None) -> str:
    """Return the name of a review, such as `pos/0_9.txt` for id 0 and rating 9."""
    if identity is None or rating is None:
        return f"{CLASSES[label]}/{row:09d}.txt"
    return f"{CLASSES[label]}/{identity}_{rating}.txt"


def check_splits(splits: Mapping[str, TextSplit], source: object) -> None:
    """Check that there is a training split, and that every split has reviews of both classes."""
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
    """Return the indices (N,) that sort the reviews into the order that Keras' IMDB data set had before it was shuffled."""
    return np.asarray(sorted(range(len(split)), key=lambda row: (-int(split.labels[row]), split.names[row])), np.int64)
