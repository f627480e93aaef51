"""Division of reviews into a training and a validation split that have no movie and no text in common."""

import numpy as np

from lstm_jax.errors import InputError, require


def grouped_split(
    labels: np.ndarray, groups: np.ndarray, fraction: float, seed: int, text_hashes: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Divide N rows (labelled reviews) into a training and a validation split.

    Rows of the same group are in the same split. If `text_hashes` is given, rows with the same text are in the same split too. The
    validation split therefore contains only approximately the share `fraction` of the rows of each class. For the IMDB reviews, where a
    movie has at most 30 reviews, it contains a few rows more or fewer than this share.

    Args:
        labels: (N,) class of each row, 0 or 1.
        groups: (N,) index of the group (movie) of each row. A row with the index -1 is a group of its own.
        fraction: share of the rows in the validation split, above 0 and below 1.
        seed: seed of the random choice of the groups in the validation split. Equal seeds give equal splits.
        text_hashes: (N,) integers that are equal for rows with equal texts, such as `EncodedSplit.hashes()`. If None, texts are not
            compared, and copies of a text can be in different splits.

    Returns:
        The indices of the rows in the training split, and the indices of the rows in the validation split, as sorted int64 arrays.

    Raises:
        InputError: if `fraction` is not between 0 and 1, or if the groups are so large that one of the classes is missing in a split.
    """
    require(0 < fraction < 1, "validation", fraction, "give a share between 0 and 1")
    counts, component = row_sets(labels, groups, text_hashes)
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


def row_sets(labels: np.ndarray, groups: np.ndarray, text_hashes: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Divide N rows into C sets of rows that must be in the same split."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    rows = np.arange(len(labels))
    keys = [np.unique(np.where(groups < 0, -1 - rows, groups), return_inverse=True)[1]]
    if text_hashes is not None:
        keys.append(np.unique(text_hashes, return_inverse=True)[1])
    starts = len(rows) * np.arange(1, len(keys) + 1)  # number of the first node of the groups, and of the texts
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
    """Choose sets of rows for the validation split, so that it has about `fraction` of the rows of each class."""
    chosen = np.isin(np.arange(len(counts)), [*inside])
    missing = np.round(counts.sum(axis=0) * fraction).astype(np.int64) - counts[chosen].sum(axis=0)
    free = order[~np.isin(order, [*inside, *outside])]
    for number in free.tolist():
        if (counts[number] <= missing).all():
            chosen[number] = True
            missing -= counts[number]
    # No remaining set fits. Now add or remove the one set that brings both shares nearest to their aim, until no set improves them.
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
    """Choose sets of rows for the training split and for the validation split, so that both splits have rows of each class."""
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
