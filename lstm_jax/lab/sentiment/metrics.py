"""Metrics of a binary classifier over a whole split, computed in NumPy with float64.

A split has N reviews, each with one logit and one label (0 or 1). p is the predicted
probability of label 1.
"""

import dataclasses

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray

from lstm_jax.base.checks import frozen
from lstm_jax.base.errors import require
from lstm_jax.base.types import Values
from lstm_jax.lab.config import flatten


@frozen
class BinaryMetrics:
    """Metrics of a binary classifier over N reviews."""

    loss: float
    """Mean binary cross-entropy in nats."""
    accuracy: float
    """Share of reviews for which (p > 0.5) equals the label, as in the BinaryAccuracy
    of Keras. p = 0.5 counts as negative."""
    auc: float
    """Area under the ROC curve. It is nan if all labels are the same."""
    confusion: tuple[tuple[int, int], tuple[int, int]]
    """Confusion matrix ((true negatives, false positives), (false negatives, true
    positives)). It has one row per label and one column per prediction."""
    ece: float
    """Expected calibration error over 15 bins of equal width; see `Reliability.ece`."""
    brier: float
    """Brier score: mean squared difference between p and the label, from 0 to 1 (Brier
    1950, for the positive class alone)."""
    count: int
    """Number N of reviews."""

    def to_row(self, prefix: str = "") -> dict[str, float | int | None]:
        """Return a dict from the names of the metrics to values that JSON can
        represent. `prefix` is put before each name.

        The field `confusion` becomes the four entries tn, fp, fn and tp. An AUC of nan
        becomes None, since JSON has no nan.
        """
        row: Values = dataclasses.asdict(self)
        (tn, fp), (fn, tp) = row.pop("confusion")
        row |= {
            "tn": tn,
            "fp": fp,
            "fn": fn,
            "tp": tp,
            "auc": None if np.isnan(self.auc) else self.auc,
        }
        return flatten(row, prefix)


@frozen
class Reliability:
    """Reliability diagram, which groups predictions into bins of probability, of equal
    width, and compares them with the labels there.
    """

    edges: Float[ndarray, "boundaries"]
    """Boundaries of the bins, from 0 to 1. There is one more boundary than there are
    bins."""
    confidence: Float[ndarray, "bins"]
    """Mean probability of the positive class in each bin. It is nan for an empty bin.
    """
    frequency: Float[ndarray, "bins"]
    """Share of positive labels in each bin. It is nan for an empty bin."""
    count: Int[ndarray, "bins"]
    """Number of reviews in each bin."""

    @property
    def ece(self) -> float:
        """Expected calibration error (Naeini et al. 2015, eq. 1).

        It is the sum of count / N * |frequency - confidence| over all bins that are not
        empty. Here count, frequency and confidence are the attributes of this class,
        and N is the number of reviews. Like Naeini et al., this class computes the
        confidence from the probability of the positive class. Guo et al. 2017 use the
        probability of the predicted class instead.
        """
        filled = self.count > 0
        gaps = np.abs(self.frequency[filled] - self.confidence[filled])
        return float(np.sum(self.count[filled] * gaps) / self.count.sum())


def binary_metrics(logits: ndarray, labels: ndarray) -> BinaryMetrics:
    """Return the `BinaryMetrics` of N reviews, given their logits and their labels,
    each of shape (N,) or (N, 1).

    If a review has the logit z and the label y, its loss is max(z, 0) - z y + log(1 +
    exp(-|z|)). This form does not overflow and needs no clipping. If Keras is given
    probabilities instead of logits, it clips them to [1e-7, 1 - 1e-7]. In Keras, the
    loss of a review is then at most 16.1.

    Raises:
        InputError: if `logits` and `labels` are empty or have different lengths, a
            logit is not finite, or a label is neither 0 nor 1.
    """
    from scipy.special import expit
    from scipy.stats import mannwhitneyu  # takes half a second to import

    z, y = _checked("logits", logits, labels)
    probabilities = expit(z)
    loss = np.maximum(z, 0) - z * y + np.log1p(np.exp(-np.abs(z)))
    positive = z > 0  # equals p > 0.5, also for logits so small that p rounds to 0.5
    ones, zeros = z[y == 1], z[y == 0]
    pairs = ones.size * zeros.size
    (tn, fp), (fn, tp) = (
        np.bincount((2 * y + positive).astype(int), minlength=4).reshape(2, 2).tolist()
    )
    return BinaryMetrics(
        loss=float(loss.mean()),
        accuracy=(tn + tp) / len(y),
        auc=float(mannwhitneyu(ones, zeros, method="asymptotic").statistic / pairs)
        if pairs
        else float("nan"),
        confusion=((tn, fp), (fn, tp)),
        ece=reliability(probabilities, y).ece,
        brier=float(np.mean((probabilities - y) ** 2)),
        count=len(y),
    )


def reliability(probabilities: ndarray, labels: ndarray, bins: int = 15) -> Reliability:
    """Group predictions by probability into bins of equal width, and compare the mean
    probability with the labels in each bin.

    Each bin contains its upper boundary but not its lower one. The first bin contains
    both 0 and its upper boundary.

    Args:
        probabilities: probabilities of the positive class, (N,) or (N, 1).
        labels: labels 0 or 1, (N,) or (N, 1).
        bins: number of bins.

    Raises:
        InputError: if the arrays are empty or have different lengths, a probability is
            outside [0, 1], a label is neither 0 nor 1, or `bins` is below 1.
    """
    p, y = _checked("probabilities", probabilities, labels)
    require(
        np.all((p >= 0) & (p <= 1)),
        "probabilities",
        f"from {p.min()} to {p.max()}",
        "give values from 0 to 1, no logits",
    )
    require(bins >= 1, "bins", bins, "give 1 or more")
    edges = np.linspace(0, 1, bins + 1)
    index = np.clip(np.searchsorted(edges, p, side="left") - 1, 0, bins - 1)
    count = np.bincount(index, minlength=bins)
    with np.errstate(invalid="ignore"):
        confidence = np.bincount(index, p, bins) / count
        frequency = np.bincount(index, y, bins) / count
    return Reliability(edges, confidence, frequency, count)


def _checked(name: str, values: ndarray, labels: ndarray) -> tuple[ndarray, ndarray]:
    for thing, array in ((name, values), ("labels", labels)):
        require(
            array.ndim == 1 or array.shape[1:] == (1,),
            thing,
            f"shape {array.shape}",
            "give one number a review: (N,) or (N, 1)",
        )
    v, y = (array.astype(np.float64).ravel() for array in (values, labels))
    require(
        0 < len(v) == len(y),
        name,
        f"{len(v)} of them for {len(y)} labels",
        "give one of each for each review",
    )
    diverged = "the model has diverged: lower the learning rate"
    for thing, array, good, remedy in (
        (name, v, np.isfinite(v), diverged),
        ("labels", y, (y == 0) | (y == 1), "give 0 or 1"),
    ):
        require(
            good.all(), thing, f"{array[~good][:1]} at review {np.argmin(good)}", remedy
        )
    return v, y
