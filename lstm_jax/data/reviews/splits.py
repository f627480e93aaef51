"""Split of reviews into a training and a validation part that share no movie and no copy of a text."""

import numpy as np

from lstm_jax.errors import InputError, require


def grouped_split(
    labels: np.ndarray, groups: np.ndarray, fraction: float, seed: int, text_hashes: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows of the training part and of the validation part, each sorted.

    Rows of one group, or of one text, stay together. Each class gives `fraction` of its rows as nearly as the sizes of the groups allow
    (for IMDB's movies, at most 30 reviews each: within a few rows).

    Args:
        labels: (N,) 0 or 1.
        groups: (N,) movie numbers; a row of group -1 is a group of its own.
        fraction: share of the rows for validation, between 0 and 1.
        seed: seed of the order in which groups are tried; equal seeds give equal parts.
        text_hashes: (N,) integers, equal for equal texts (`EncodedSplit.hashes`).

    Returns:
        (train,), (validation,) int64 row numbers.

    Raises:
        InputError: if the groups leave a part without rows of a class, or for a fraction outside 0 to 1.
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
    """Return the inseparable sets of rows: (C, 2) rows of each class in each set, and the (N,) number of each row's set.

    The sets are the connected components of a graph whose nodes are the rows, the groups and the texts, numbered by their first row.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    rows = np.arange(len(labels))
    keys = [np.unique(np.where(groups < 0, -1 - rows, groups), return_inverse=True)[1]]
    if text_hashes is not None:
        keys.append(np.unique(text_hashes, return_inverse=True)[1])
    starts = len(rows) * np.arange(1, len(keys) + 1)  # of each key's nodes
    ends = np.concatenate([start + key for start, key in zip(starts, keys, strict=True)])
    nodes = len(rows) * (len(keys) + 1)
    edges = coo_array((np.ones(len(ends), np.int8), (np.tile(rows, len(keys)), ends)), shape=(nodes, nodes))
    component = connected_components(edges, directed=False)[1][: len(rows)]
    _, first, component = np.unique(component, return_index=True, return_inverse=True)
    component = np.argsort(np.argsort(first))[component]
    counts = np.zeros((len(first), 2), np.int64)
    np.add.at(counts, (component, labels), 1)
    return counts, component


def _choose(counts: np.ndarray, fraction: float, order: np.ndarray, inside: set[int], outside: set[int]) -> np.ndarray:
    """Return (C,) bool, true for the sets of the validation part: all in `inside`, none in `outside`."""
    chosen = np.isin(np.arange(len(counts)), [*inside])
    missing = np.round(counts.sum(axis=0) * fraction).astype(np.int64) - counts[chosen].sum(axis=0)
    free = order[~np.isin(order, [*inside, *outside])]
    for number in free.tolist():
        if (counts[number] <= missing).all():
            chosen[number] = True
            missing -= counts[number]
    # No set that is left fits whole: take or return the set that brings the shares nearest, while there is one.
    while len(free):
        signs = np.where(chosen[free], -1, 1)
        costs = np.abs(missing - signs[:, None] * counts[free]).sum(axis=1)
        best = int(costs.argmin())
        if costs[best] >= np.abs(missing).sum():
            break
        chosen[free[best]] = signs[best] > 0
        missing -= signs[best] * counts[free[best]]
    return chosen


def _pinned(counts: np.ndarray, order: np.ndarray) -> tuple[set[int], set[int]]:
    """Return the smallest sets that give each part rows of each class, for classes that have two sets."""
    inside: set[int] = set()
    outside: set[int] = set()
    sizes = counts.sum(axis=1)
    for label in (0, 1):
        holders = sorted((number for number in order.tolist() if counts[number, label]), key=lambda number: sizes[number])[:2]
        if len(holders) == 2:
            first, second = holders
            if first in outside or second in inside:
                first, second = second, first
            inside.add(first)
            outside.add(second)
    return inside, outside
