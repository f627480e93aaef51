"""NBSVM classifier of texts: logistic regression on n-grams that are weighted by naive Bayes (Wang & Manning 2012)."""

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from lstm_jax.data import EncodedSplit
from lstm_jax.errors import InputError

SMOOTHING = 1.0
"""Number that is added, for each n-gram and each label, to the number of texts with this label that contain the n-gram."""


def train(split: EncodedSplit, order: int = 3, penalty: float = 1.0) -> Callable[[EncodedSplit], np.ndarray]:
    """Train the classifier, and return a function from the N texts of a split to their logits (N,).

    Let D be the number of different n-grams in the training texts. The training chooses a vector w (D,) and a bias b that minimise

        sum_i log(1 + exp(-y_i (w . (r * f_i) + b))) + penalty / 2 |w|^2

    For text i, f_i (D,) is 1 for each n-gram that the text contains and 0 for the others, and y_i is 1 (positive) or -1 (negative). The
    vector r (D,) is log(p / q), where p and q are the smoothed frequencies of each n-gram in positive and in negative texts. The logit of a
    text with the n-grams f is w . (r * f) + b. N-grams that no training text contains are ignored.

    Args:
        split: training texts with their labels 0 and 1.
        order: largest n of the n-grams.
        penalty: factor of the squared norm of w.

    Raises:
        InputError: if scikit-learn is not installed.
        ConvergenceWarning: if the regression does not converge. This warning of scikit-learn is raised as an exception.
    """
    try:
        from sklearn.exceptions import ConvergenceWarning  # pyright: ignore[reportMissingImports]
        from sklearn.feature_extraction.text import CountVectorizer  # pyright: ignore[reportMissingImports]
        from sklearn.linear_model import LogisticRegression  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise InputError("scikit-learn", "not installed", 'pip install ".[experiments]"') from error

    vectorizer = CountVectorizer(token_pattern=r"\S+", ngram_range=(1, order), binary=True)
    rows: Any = vectorizer.fit_transform(_words(split))
    positive = split.labels == 1
    counts = [SMOOTHING + np.asarray(rows[own].sum(0)).ravel() for own in (positive, ~positive)]
    ratio = np.log((counts[0] / counts[0].sum()) / (counts[1] / counts[1].sum()))
    regression = LogisticRegression(C=1 / penalty, tol=1e-6, max_iter=1000)
    with warnings.catch_warnings(action="error", category=ConvergenceWarning):
        regression.fit(rows.multiply(ratio).tocsr(), split.labels)
    return lambda texts: regression.decision_function(vectorizer.transform(_words(texts)).multiply(ratio).tocsr())


def _words(split: EncodedSplit) -> list[str]:
    """Return each text as its word ids, written as decimal numbers with spaces between them."""
    return [" ".join(map(str, split.row(n).tolist())) for n in range(len(split))]


def best_share(scores: Sequence[np.ndarray], labels: np.ndarray) -> float:
    """Return the share w with which a mixture of two classifiers has the smallest cross-entropy.

    The logits of the mixture are w * a + (1 - w) * b, where a and b are the logits of the two classifiers. The share is one of 0, 0.05,
    0.1, ..., 1.

    Args:
        scores: pair of the logits a (N,) and b (N,) that two classifiers give for the same N texts.
        labels: labels (N,) of the texts, 0 or 1.
    """
    shares = np.linspace(0, 1, 21)
    sign = np.where(labels == 1, 1.0, -1.0)
    losses = [np.logaddexp(0, -sign * (w * scores[0] + (1 - w) * scores[1])).mean() for w in shares]
    return float(shares[int(np.argmin(losses))])
