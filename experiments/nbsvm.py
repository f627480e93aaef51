"""NBSVM classifier of texts: logistic regression on n-grams that are weighted by naive
Bayes (Wang & Manning 2012).
"""

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from lstm_jax.lab.sentiment.data import EncodedSplit

SMOOTHING = 1.0
"""Number that is added, for each n-gram and each label, to the number of texts with
this label that contain the n-gram."""


def train(
    split: EncodedSplit, order: int = 3, penalty: float = 1.0
) -> Callable[[EncodedSplit], np.ndarray]:
    """Train the classifier, and return a function from the N texts of a split to their
    logits (N,).
    """
    from sklearn.exceptions import ConvergenceWarning  # pyright: ignore[reportMissingImports]
    from sklearn.feature_extraction.text import CountVectorizer  # pyright: ignore[reportMissingImports]
    from sklearn.linear_model import LogisticRegression  # pyright: ignore[reportMissingImports]
    from sklearn.naive_bayes import MultinomialNB  # pyright: ignore[reportMissingImports]

    vectorizer = CountVectorizer(
        token_pattern=r"\S+", ngram_range=(1, order), binary=True
    )
    rows: Any = vectorizer.fit_transform(_words(split))
    bayes = MultinomialNB(alpha=SMOOTHING).fit(rows, split.labels)
    ratio = bayes.feature_log_prob_[1] - bayes.feature_log_prob_[0]
    regression = LogisticRegression(C=1 / penalty, tol=1e-6, max_iter=1000)
    with warnings.catch_warnings(action="error", category=ConvergenceWarning):
        regression.fit(rows.multiply(ratio).tocsr(), split.labels)
    return lambda texts: regression.decision_function(
        vectorizer.transform(_words(texts)).multiply(ratio).tocsr()
    )


def _words(split: EncodedSplit) -> list[str]:
    return [" ".join(map(str, split.row(n).tolist())) for n in range(len(split))]


def best_share(scores: Sequence[np.ndarray], labels: np.ndarray) -> float:
    """Return the share w with which a mixture of two classifiers has the smallest
    cross-entropy.
    """
    shares = np.linspace(0, 1, 21)
    sign = np.where(labels == 1, 1.0, -1.0)
    losses = [
        np.logaddexp(0, -sign * (w * scores[0] + (1 - w) * scores[1])).mean()
        for w in shares
    ]
    return float(shares[int(np.argmin(losses))])
