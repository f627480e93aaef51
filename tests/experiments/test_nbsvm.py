"""Tests of the NBSVM classifier, which is compared with a dense classifier fitted by
Newton's method.

Another test checks `best_share`, which weights two classifiers so that their mixture
has the smallest cross-entropy.
"""

import numpy as np
import pytest

from experiments import nbsvm
from lstm_jax.lab.sentiment.data import EncodedSplit

pytest.importorskip(
    "sklearn", reason="scikit-learn is not installed: pip install '.[experiments]'"
)

RNG = np.random.default_rng(0)


def split(count: int, words: int) -> EncodedSplit:
    texts = [RNG.integers(1, words, RNG.integers(1, 12)) for _ in range(count)]
    labels = np.asarray(
        [(2 in text) ^ (RNG.random() < 0.2) for text in texts], np.int32
    )
    offsets = np.concatenate([[0], np.cumsum([len(text) for text in texts])])
    return EncodedSplit(
        np.concatenate(texts), offsets, labels, np.zeros(count, np.int32)
    )


def grams(text: np.ndarray, order: int) -> set[tuple[int, ...]]:
    return {
        tuple(text[n : n + size].tolist())
        for size in range(1, order + 1)
        for n in range(len(text) - size + 1)
    }


@pytest.mark.parametrize("order", [1, 3])
def test_against_a_dense_classifier(order):
    # the second has words and n-grams that the first lacks
    train, test = split(60, 6), split(20, 8)
    sets = [grams(train.row(n), order) for n in range(len(train))]
    names = sorted(set.union(*sets))
    rows = np.asarray([[name in own for name in names] for own in sets], float)
    positive = train.labels == 1
    p, q = 1 + rows[positive].sum(0), 1 + rows[~positive].sum(0)
    ratio = np.log(p / p.sum()) - np.log(q / q.sum())
    x, y = (
        np.column_stack([rows * ratio, np.ones(len(rows))]),
        np.where(positive, 1.0, -1.0),
    )
    penalty, params = np.diag([0.5] * len(names) + [0.0]), np.zeros(len(names) + 1)
    for _ in range(30):
        p = 1 / (1 + np.exp(y * (x @ params)))
        hessian = (x.T * (p * (1 - p))) @ x + penalty
        params -= np.linalg.solve(hessian, -x.T @ (y * p) + penalty @ params)
    known = [
        np.asarray([name in grams(test.row(n), order) for name in names])
        for n in range(len(test))
    ]
    want = [(params[:-1] * ratio)[own].sum() + params[-1] for own in known]
    np.testing.assert_allclose(nbsvm.train(train, order, 0.5)(test), want, atol=2e-3)
    assert np.std(want) > 0.3


def test_best_share():
    labels = RNG.integers(0, 2, 400)
    sign = np.where(labels == 1, 1.0, -1.0)
    good, noise = sign + RNG.normal(size=400), RNG.normal(size=400)
    assert nbsvm.best_share((good, noise), labels) >= 0.8
    assert nbsvm.best_share((noise, good), labels) <= 0.2
    other = sign + RNG.normal(size=400)
    assert 0.3 <= nbsvm.best_share((good, other), labels) <= 0.7
