"""Tests of the ensemble of models in the study `best`, and of the conclusion of the
study.

The accuracy of the ensemble, computed from stored margins, is compared with the
accuracy of the mean logits of the models.
"""

import numpy as np
import pytest

from experiments.best import encode_margins, ensemble_accuracy, spread, verdict
from lstm_jax.lab.sweep import stats

RNG = np.random.default_rng(0)


def test_ensemble_accuracy():
    labels = RNG.integers(0, 2, 1000)
    truth = np.where(labels == 1, 1.0, -1.0)
    logits = [truth + 2 * RNG.normal(size=1000) for _ in range(5)]
    texts = [encode_margins(one, labels) for one in logits]
    alone = [float(((one > 0) == (labels == 1)).mean()) for one in logits]
    assert [ensemble_accuracy([text]) for text in texts] == alone
    want = float(((np.mean(logits, axis=0) > 0) == (labels == 1)).mean())
    # rounding to float16 may change the class of a review whose mean is close to 0
    assert abs(ensemble_accuracy(texts) - want) <= 1e-3
    assert want > max(alone) + 0.1


def test_the_conclusion_names_each_model():
    labels = np.ones(4, int)
    # four reviews and two seeds: the models are right on 2 and 3 reviews, their mean on
    # 3, and the mean of the mixtures on 4
    rows = [
        {
            "choice": "recipe",
            "tested": True,
            "test_reviews": 4,
            "test_accuracy": accuracy,
            "test_nbsvm_accuracy": 0.25,
            "test_mixed_accuracy": 0.75,
            "test_margins": encode_margins(np.asarray(own), labels),
            "test_mixed_margins": encode_margins(np.asarray(mixed), labels),
            "accuracy": 0.5,
            "seconds": 60.0,
        }
        for accuracy, own, mixed in (
            (0.5, [1.0, 2.0, -1.0, -1.0], [1.0, 1.0, 1.0, -1.0]),
            (0.75, [1.0, -1.0, 2.0, 0.5], [-0.5, 1.0, 1.0, 2.0]),
        )
    ]
    found = dict(line.split(" on the test reviews: ") for line in [*verdict(rows)][:-1])
    means = {name: float(text.split()[0]) for name, text in found.items()}
    assert means == {
        "recipe": 0.625,
        "NBSVM": 0.25,
        "recipe and NBSVM": 0.75,
        "ensemble of the seeds": 0.75,
        "ensemble and NBSVM": 1.0,
    }
    assert found["recipe"].endswith("seeds 0.5000 0.7500")


def test_spread():
    half = 1.95996 * np.sqrt(0.09 / 25_000)
    assert spread([0.9], 25_000) == pytest.approx((0.9, 0.9 - half, 0.9 + half))
    # where the seeds differ far more than the sample of reviews explains, the interval
    # is that of Student's t-distribution
    values = [0.5, 0.6, 0.8]
    assert spread(values, 10**9) == pytest.approx(stats.t_interval(values), rel=1e-4)
