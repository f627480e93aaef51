"""Neighbours, projections, word polarity and exports of an embedding table are compared
with values computed by hand.
"""

import math
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lstm_jax.base.errors import InputError
from lstm_jax.lab.inspection.embedding_space import (
    escape,
    export_projector,
    export_word2vec,
    lookup,
    neighbours,
    project,
    word_counts,
)

# Ids 0 to 3 are reserved and must not be found as neighbours, although the vectors of 1
# and 2 are close to those of words.
TABLE = np.float32(
    [[0, 0], [1, 0], [1, 0.1], [9, 9], [2, 0], [3, 3], [0, 5], [-1, 0], [0, 0], [2, 0]]
)


def test_cosine_neighbours():
    assert neighbours(TABLE, 0, count=100)[0].tolist() == [4, 5, 6, 7, 8, 9]
    ids, scores = neighbours(TABLE, 4, count=5)
    assert ids.tolist() == [9, 5, 6, 8, 7]
    np.testing.assert_allclose(scores, [1, math.sqrt(0.5), 0, 0, -1], atol=1e-15)


def test_euclidean_neighbours():
    ids, scores = neighbours(TABLE, 4, count=3, metric="euclidean")
    assert ids.tolist() == [9, 8, 7]
    np.testing.assert_allclose(scores, [0, 2, 3])


@given(st.integers(0, 10_000))
def test_pca_is_centred_uncorrelated_and_fixed_in_sign(seed):
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((12, 5)) * [5, 3, 1, 0.5, 0.1] + 7
    plane = project(rows)
    np.testing.assert_allclose(plane.mean(axis=0), 0, atol=1e-12)
    assert plane[:, 0] @ plane[:, 1] == pytest.approx(0, abs=1e-9)
    variances = np.linalg.eigvalsh(np.cov(rows.T))[::-1]
    np.testing.assert_allclose(plane.var(axis=0, ddof=1), variances[:2])
    shuffled = rng.permutation(12)
    np.testing.assert_allclose(project(rows[shuffled]), plane[shuffled], atol=1e-9)
    np.testing.assert_allclose(project(rows + 3), plane, atol=1e-9)


@given(
    st.lists(
        st.tuples(st.lists(st.integers(0, 6)), st.integers(0, 1)),
        min_size=1,
        max_size=8,
    )
)
def test_counts_are_what_sets_say(reviews):
    values = np.array([word for review, _ in reviews for word in review], np.int32)
    offsets = np.cumsum([0] + [len(review) for review, _ in reviews])
    labels = np.array([label for _, label in reviews])
    positive, count = word_counts(values, offsets, labels, 7)
    for word in range(7):
        holders = [label for review, label in reviews if word in set(review)]
        assert (positive[word], count[word]) == (sum(holders), len(holders))


def test_narrow_ids_do_not_overflow():
    for dtype in (np.uint8, np.uint64):
        values = np.full(70_000, 250, dtype)
        labels = np.ones(70_000, np.uint8)
        _, count = word_counts(values, np.arange(70_001), labels, 60_000)
        assert (count[250], count.sum()) == (70_000, 70_000)


def test_projector_files(tmp_path):
    vectors = np.float32([[1, 2.5], [-3, 1e-7]])
    export_projector(
        tmp_path,
        ["good", "ba d"],
        vectors,
        {"reviews": np.array([12, 3]), "positive": np.array([0.75, 0.25])},
    )
    assert (tmp_path / "vectors.tsv").read_text() == "1\t2.5\n-3\t1.00000001e-07\n"
    assert (
        tmp_path / "metadata.tsv"
    ).read_text() == "word\treviews\tpositive\ngood\t12\t0.75\nba%20d\t3\t0.25\n"
    paths = 'tensor_path: "vectors.tsv" metadata_path: "metadata.tsv"'
    config = (
        f'embeddings {{ tensor_name: "embedding" tensor_shape: 2 tensor_shape: 2 '
        f"{paths} }}"
    )
    assert (tmp_path / "projector_config.pbtxt").read_text().split() == config.split()


def test_escape():
    words = {
        "naïve": "naïve",
        "new york": "new%20york",
        "a\tb\nc": "a%09b%0Ac",
        "\x85the": "%C2%85the",
        "caf\udce9": "caf%E9",
    }
    assert [escape(word) for word in words] == list(words.values())


ONE, ROWS = np.ones((1, 2), np.float32), np.ones((3, 3))


@pytest.mark.parametrize(
    ("call", "subject"),
    [
        (lambda _: neighbours(TABLE, 10), "word id: 10; give 0 to 9"),
        (lambda _: neighbours(TABLE, -1), "word id: -1"),
        (lambda _: neighbours(TABLE, 4, 0), "count of neighbours: 0"),
        (lambda _: project(ROWS[:1]), "vectors to project: shape"),
        (lambda _: project(ROWS * np.nan), "vectors to project: not finite"),
        (lambda path: export_word2vec(path / "w.txt", [""], ONE), "word: empty"),
        (lambda path: export_word2vec(path / "w.txt", [], ONE[:0]), "vectors: "),
        (
            lambda path: export_word2vec(
                path / "w.txt", ["a b", "a%20b"], np.ones((2, 2), np.float32)
            ),
            "word: 'a%20b'",
        ),
        (lambda path: export_projector(path, ["\ud800"], ONE, {}), "word: "),
        (
            lambda _: lookup({"wonderful": 4}, "wonderfull"),
            "unknown word: wonderfull; close spellings: wonderful",
        ),
        (
            lambda _: lookup({"wonderful": 4}, "zzzzqqq"),
            "unknown word: zzzzqqq; nothing is spelt like it",
        ),
    ],
)
def test_errors(call, subject, tmp_path):
    with pytest.raises(InputError, match=f"^{re.escape(subject)}"):
        call(tmp_path)
    assert not list(tmp_path.iterdir())
