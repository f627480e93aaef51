"""`grouped_split`: the parts share no group and no copy, have the wanted size and class
balance, and are equal for equal seeds.
"""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from refused import refused

from lstm_jax.base.errors import InputError
from lstm_jax.lab.sentiment.data import grouped_split


@st.composite
def rows(draw):
    count = draw(st.integers(1, 60))
    labels = draw(st.lists(st.integers(0, 1), min_size=count, max_size=count))
    groups = draw(
        st.lists(
            st.integers(-1, draw(st.integers(0, 30))), min_size=count, max_size=count
        )
    )
    hashes = draw(
        st.none() | st.lists(st.integers(0, 40), min_size=count, max_size=count)
    )
    return (
        np.asarray(labels, np.int32),
        np.asarray(groups, np.int32),
        None if hashes is None else np.asarray(hashes),
    )


def inseparable(labels, groups, hashes):
    """Divide the rows into sets that a split must not divide, and return a list with
    the number of each row's set.

    Two rows belong to the same set if they share a group or a hash, or if other rows
    link them in this way. The sets are found by comparing all pairs of rows.
    """
    sets = list(range(len(labels)))
    for one in range(len(labels)):
        for other in range(one):
            if (groups[one] == groups[other] >= 0) or (
                hashes is not None and hashes[one] == hashes[other]
            ):
                sets = [sets[other] if at == sets[one] else at for at in sets]
    return sets


@settings(max_examples=300, deadline=None)
@given(rows(), st.floats(0.01, 0.99), st.integers(0, 99))
def test_parts_are_whole_disjoint_and_share_nothing(made, fraction, seed):
    labels, groups, hashes = made
    try:
        train, validation = grouped_split(labels, groups, fraction, seed, hashes)
    except InputError:
        # an error is right only if no split exists, because all rows of a class are in
        # one inseparable set
        sets = inseparable(labels, groups, hashes)
        assert (
            min(
                len({sets[row] for row in np.flatnonzero(labels == label)})
                for label in (0, 1)
            )
            < 2
        )
        return
    assert np.array_equal(
        np.sort(np.concatenate([train, validation])), np.arange(len(labels))
    )
    assert (np.diff(train) > 0).all()
    assert (np.diff(validation) > 0).all()
    assert set(groups[train].tolist()) & set(groups[validation].tolist()) <= {-1}
    if hashes is not None:
        assert not set(hashes[train].tolist()) & set(hashes[validation].tolist())
    assert set(labels[train].tolist()) == set(labels[validation].tolist()) == {0, 1}
    assert np.array_equal(
        grouped_split(labels, groups, fraction, seed, hashes)[1], validation
    )


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(0.05, 0.9))
def test_size_and_balance(seed, fraction):
    rng = np.random.default_rng(seed)
    groups = rng.integers(-1, 300, size=2000).astype(np.int32)
    labels = (rng.random(2000) < 0.5).astype(np.int32)
    _, validation = grouped_split(labels, groups, fraction, seed)
    assert abs(len(validation) - 2000 * fraction) <= 20
    assert abs(float(labels[validation].mean() - labels.mean())) <= 0.01
    assert not np.array_equal(
        grouped_split(labels, groups, fraction, seed + 1)[1], validation
    )


@pytest.mark.parametrize(
    ("labels", "groups", "fraction", "found"),
    [
        ([0, 1], [0, 0], 0.5, "part of 2 reviews: 0 positive and 0 negative reviews"),
        ([0, 0, 1, 1], [0, 0, 1, 1], 0.5, "part of 4 reviews"),
        ([], [], 0.5, "part of 0 reviews"),
        *(
            ([0, 1], [0, 1], fraction, "validation")
            for fraction in (0.0, 1.0, float("nan"))
        ),
    ],
)
def test_impossible_splits(labels, groups, fraction, found):
    refused(
        found,
        grouped_split,
        np.asarray(labels, np.int32),
        np.asarray(groups, np.int32),
        fraction,
        0,
    )
