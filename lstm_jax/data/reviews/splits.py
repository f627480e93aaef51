"""A validation part in which no movie, and no copy of a text, is shared with the training part."""

import numpy as np

from lstm_jax.errors import InputError, require


def grouped_split(
    labels: np.ndarray, groups: np.ndarray, fraction: float, seed: int, text_hashes: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the training part and of the validation part, each sorted.

    Rows of one group, or of one text, stay together. Each class gives `fraction` of its rows as nearly as the sizes of the groups allow
    (for IMDB's movies, at most 30 reviews each: within a few rows).

    Args:
        labels: (N,) 0 or 1.
        groups: (N,) movie numbers; a row of group -1 is a group of its own.
        fraction: share of the rows for validation, between 0 and 1.
        seed: of the order in which groups are tried; the same seed gives the same parts.
        text_hashes: (N,) integers, equal for equal texts (`EncodedSplit.hashes`).

    Returns:
        (train,), (validation,) int64 row numbers.

    Raises:
        InputError: if the groups leave a part without rows of a class.
    """
    require(0 < fraction < 1, "validation", fraction, "give a share between 0 and 1")
    counts, component = _components(labels, groups, text_hashes)
    order = np.random.default_rng(seed).permutation(len(counts))
    chosen = _choose(counts, fraction, order, set(), set())
    if min(counts[chosen].sum(axis=0).min(), counts[~chosen].sum(axis=0).min()) == 0:
        chosen = _choose(counts, fraction, order, *_pinned(counts, order))
    mask = chosen[component]
    parts = np.flatnonzero(~mask), np.flatnonzero(mask)
    for name, part in zip(("training", "validation"), parts, strict=True):
        present = np.bincount(labels[part], minlength=2)
        if present.min() == 0:
            found = f"{present[1]} positive and {present[0]} negative rows"
            raise InputError(f"{name} part of {len(labels)} rows", found, "give more reviews or movies, or another share")
    return parts


def _components(labels: np.ndarray, groups: np.ndarray, text_hashes: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """(C, 2) rows of each class in each inseparable set of rows, and the (N,) number of each row's set."""
    rows = np.arange(len(labels))
    alone = groups < 0
    # Labels spread by minimum over groups and over texts until nothing changes: connected components.
    keys = [np.unique(np.where(alone, -1 - rows, groups), return_inverse=True)[1]]
    if text_hashes is not None:
        keys.append(np.unique(text_hashes, return_inverse=True)[1])
    component = rows
    while True:
        spread = component
        for key in keys:
            lowest = np.full(len(rows), len(rows))
            np.minimum.at(lowest, key, spread)
            spread = lowest[key]
        if np.array_equal(spread, component):
            break
        component = spread
    component = np.unique(component, return_inverse=True)[1]
    counts = np.zeros((component.max(initial=-1) + 1, 2), np.int64)
    np.add.at(counts, (component, labels), 1)
    return counts, component


def _choose(counts: np.ndarray, fraction: float, order: np.ndarray, inside: set[int], outside: set[int]) -> np.ndarray:
    """(C,) bool: the sets of the validation part; those `inside` are in it and those `outside` are not."""
    missing = np.round(counts.sum(axis=0) * fraction).astype(np.int64)
    chosen = np.zeros(len(counts), bool)

    def take(one: int, sign: int = 1) -> None:
        chosen[one] = sign > 0
        missing[:] -= sign * counts[one]

    for one in inside:
        take(one)
    free = order[~np.isin(order, [*inside, *outside])]
    for one in free.tolist():
        if (counts[one] <= missing).all():
            take(one)
    # What is left never fits whole: take or return the one that brings the parts nearest, as long as one does.
    while len(free):
        signs = np.where(chosen[free], -1, 1)
        costs = np.abs(missing - signs[:, None] * counts[free]).sum(axis=1)
        best = int(costs.argmin())
        if costs[best] >= np.abs(missing).sum():
            break
        take(int(free[best]), int(signs[best]))
    return chosen


def _pinned(counts: np.ndarray, order: np.ndarray) -> tuple[set[int], set[int]]:
    """The smallest sets that give each part each class, where there are two sets for each."""
    inside: set[int] = set()
    outside: set[int] = set()
    sizes = counts.sum(axis=1)
    for label in (0, 1):
        holders = sorted((one for one in order.tolist() if counts[one, label]), key=lambda one: sizes[one])[:2]
        if len(holders) == 2:
            first, second = holders
            if first in outside or second in inside:
                first, second = second, first
            inside.add(first)
            outside.add(second)
    return inside, outside
