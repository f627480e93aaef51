"""NBSVM classifier of texts: logistic regression on n-grams that are weighted by naive Bayes (Wang & Manning 2012).

N is the number of texts and D the number of different n-grams in the training texts.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import optimize, sparse
from scipy.special import expit

from lstm_jax.data import EncodedSplit
from lstm_jax.errors import require

SMOOTHING = 1.0
"""Count that is added to the number of texts of each label that contain an n-gram."""

BASE = np.int64(1 << 20)
"""Base of the keys of n-grams, which is larger than all word ids. Keys of three words fit into 63 bits."""


class NBSVM(NamedTuple):
    """Trained classifier. The logit of a text is the bias plus the sum of the weights of its different n-grams."""

    grams: list[np.ndarray]
    """For each order n, the sorted keys of the n-grams of the training texts; see `_keys`."""
    weights: np.ndarray
    """float64 (D,): weight of each n-gram, those of the lowest order first."""
    bias: float

    def logits(self, split: EncodedSplit) -> np.ndarray:
        """Return the logits (N,) of the N texts of a split. N-grams that no training text contains are ignored."""
        orders = range(1, len(self.grams) + 1)
        rows = sparse.hstack([_indicators(split, n, known) for n, known in zip(orders, self.grams, strict=True)], "csr")
        return rows @ self.weights + self.bias


def train(split: EncodedSplit, order: int = 3, penalty: float = 1.0) -> NBSVM:
    """Train the NBSVM classifier: logistic regression on the n-grams of texts, weighted by naive Bayes.

    Let D be the number of different n-grams in the training texts. The training chooses a vector w (D,) and a bias b that minimize

        sum_i log(1 + exp(-y_i (w . (r * f_i) + b))) + penalty / 2 |w|^2

    For text i, f_i (D,) is 1 for each n-gram that the text contains and 0 for the others, and y_i is 1 (positive) or -1 (negative). The
    vector r (D,) is log(p / q), where p and q are the smoothed frequencies of each n-gram in positive and in negative texts. The weights of
    the result are w * r.

    Args:
        split: training texts with their labels 0 and 1.
        order: largest n of the n-grams.
        penalty: factor of the squared norm of the weights.

    Raises:
        InputError: if a word id is not below `BASE`, or if the regression does not converge.
    """
    require(bool(split.values.max(initial=0) < BASE), "word id", int(split.values.max(initial=0)), f"give ids below {BASE}")
    grams = [np.unique(np.concatenate(_text_keys(split, n))) for n in range(1, order + 1)]
    rows: Any = sparse.hstack([_indicators(split, n, known) for n, known in enumerate(grams, 1)], "csr")
    positive = split.labels == 1
    counts = [SMOOTHING + np.asarray(rows[own].sum(0)).ravel() for own in (positive, ~positive)]
    ratio = np.log((counts[0] / counts[0].sum()) / (counts[1] / counts[1].sum()))
    scaled: Any = rows @ sparse.diags_array(ratio)
    scaled, sign = scaled.tocsr(), np.where(positive, 1.0, -1.0)
    transposed = scaled.T.tocsr()

    def loss(params: np.ndarray) -> tuple[float, np.ndarray]:
        margin = sign * (scaled @ params[:-1] + params[-1])
        slope = -sign * expit(-margin)
        value = np.logaddexp(0, -margin).sum() + penalty / 2 * (params[:-1] ** 2).sum()
        return value, np.append(transposed @ slope + penalty * params[:-1], slope.sum())

    result: Any = optimize.minimize(loss, np.zeros(len(ratio) + 1), jac=True, method="L-BFGS-B", options={"maxiter": 1000})
    require(bool(result.success), "logistic regression", result.message, "give another penalty")
    return NBSVM(grams, result.x[:-1] * ratio, float(result.x[-1]))


def _text_keys(split: EncodedSplit, order: int) -> list[np.ndarray]:
    """Return the different n-grams of each text, as one array of sorted int64 keys for each text.

    The key of an n-gram is the number whose digits in base `BASE` are the word ids of the n-gram.

    Args:
        split: the texts.
        order: number of words n of an n-gram.
    """
    return [np.unique(_keys(split.row(n), order)) for n in range(len(split))]


def _keys(ids: np.ndarray, order: int) -> np.ndarray:
    count = len(ids) - order + 1
    keys = np.zeros(max(count, 0), np.int64)
    for place in range(order):
        keys = keys * BASE + ids[place : place + len(keys)]
    return keys


def _indicators(split: EncodedSplit, order: int, known: np.ndarray) -> Any:
    """Return a sparse matrix (N, D) of N texts and D n-grams. It is 1 where the text contains the n-gram.

    Args:
        split: the texts.
        order: number of words n of an n-gram.
        known: (D,) sorted keys of the n-grams; see `_text_keys`.
    """
    texts = _text_keys(split, order)
    columns, rows = np.concatenate(texts), np.repeat(np.arange(len(texts)), [len(keys) for keys in texts])
    place = np.minimum(np.searchsorted(known, columns), len(known) - 1)
    inside = known[place] == columns
    shape = (len(texts), len(known))
    return sparse.csr_array((np.ones(inside.sum()), (rows[inside], place[inside])), shape)


def best_share(scores: Sequence[np.ndarray], labels: np.ndarray) -> float:
    """Return the share w for which the mixture w a + (1 - w) b of the logits of two classifiers has the smallest cross-entropy.

    The share is one of 0, 0.05, 0.1, ..., 1.

    Args:
        scores: pair of the logits a (N,) and b (N,) that two classifiers give for the same N texts.
        labels: labels (N,) of the texts, 0 or 1.
    """
    shares = np.linspace(0, 1, 21)
    sign = np.where(labels == 1, 1.0, -1.0)
    losses = [np.logaddexp(0, -sign * (w * scores[0] + (1 - w) * scores[1])).mean() for w in shares]
    return float(shares[int(np.argmin(losses))])
