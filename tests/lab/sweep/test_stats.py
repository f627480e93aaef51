"""Confidence intervals and permutation tests against direct computations with NumPy,
full enumeration, and functions of SciPy.
"""

import numpy as np
import pytest
from scipy import stats as scipy_stats

from lstm_jax.base.errors import InputError
from lstm_jax.lab.sweep import stats


def test_interval_of_a_mean():
    values = np.array([0.3, 0.5, 0.1, 0.7, 0.4])
    mean, low, high = stats.mean_interval(values.tolist(), seed=3)
    assert mean == pytest.approx(0.4)
    drawn = values[np.random.default_rng(3).integers(0, 5, (2000, 5))].mean(axis=1)
    assert [low, high] == pytest.approx(np.quantile(drawn, [0.025, 0.975]))
    assert stats.mean_interval([0.5]) == (0.5, 0.5, 0.5)


def test_interval_of_a_ratio_of_medians():
    slow, fast = np.array([3.0, 4.0, 5.0, 3.3]), np.array([1.0, 2.0, 2.2])
    ratio, low, high = stats.ratio_interval(slow, fast, seed=2)
    assert ratio == pytest.approx(3.65 / 2)
    rng = np.random.default_rng(2)
    drawn = [
        np.median(rng.choice(sample, (10_000, len(sample))), axis=1)
        for sample in (slow, fast)
    ]
    assert [low, high] == pytest.approx(
        np.quantile(drawn[0] / drawn[1], [0.025, 0.975])
    )
    assert stats.ratio_interval([4.0], [2.0]) == (2.0, 2.0, 2.0)
    assert stats.ratio_interval([4.0], [1.0, 2.0]) == pytest.approx((4 / 1.5, 2.0, 4.0))


def test_interval_of_a_geometric_mean():
    ratios = np.array([1.1, 1.2, 0.9, 1.05])
    mean, low, high = stats.geometric_mean_interval(ratios)
    logs = np.log(ratios)
    want = scipy_stats.t.interval(
        0.95, len(logs) - 1, logs.mean(), scipy_stats.sem(logs)
    )
    assert (mean, low, high) == pytest.approx(
        (scipy_stats.gmean(ratios), *np.exp(want))
    )
    mean, *ends = stats.geometric_mean_interval([2.0])
    assert mean == pytest.approx(2)
    assert np.isnan(ends).all()


def test_independent_samples():
    # two of the six divisions of 1, 2, 3, 4 have means as far apart as those of 1, 2
    # and 3, 4
    assert stats.permutation_p([1, 2], [3, 4]) == pytest.approx(2 / 6)
    assert stats.permutation_p([1, 1], [1, 1]) == 1
    assert stats.permutation_p([1], [2, 3, 4]) == 1
    rng = np.random.default_rng(0)
    # too many divisions to enumerate
    many = rng.lognormal(0, 0.1, 30), rng.lognormal(0.05, 0.1, 30)
    assert stats.permutation_p(*many) == pytest.approx(
        scipy_stats.ttest_ind(*map(np.log, many)).pvalue, abs=0.02
    )


@pytest.mark.parametrize("wrong", [float("nan"), 0, -1, float("inf")])
def test_values_without_a_logarithm(wrong):
    for call in (
        lambda: stats.permutation_p([1, 2, 3, wrong], [1, 2, 3, 4]),
        lambda: stats.permutation_p([1, 2, 3, 4], [wrong]),
        lambda: stats.paired_p([1.1, wrong, 1.2]),
    ):
        with pytest.raises(
            InputError, match=f": {float(wrong)}; give finite numbers above 0$"
        ):
            call()


def test_paired_ratios():
    # two of the eight choices of signs have a mean as far from 0 as the data
    assert stats.paired_p([1.1, 1.1, 1.1]) == pytest.approx(2 / 8)
    assert stats.paired_p([1, 1]) == 1
    assert stats.paired_p([1.5]) == 1
    rng = np.random.default_rng(0)
    many = rng.normal(0.01, 0.05, 40)  # too many signs to enumerate
    assert stats.paired_p(np.exp(many)) == pytest.approx(
        scipy_stats.ttest_1samp(many, 0).pvalue, abs=0.02
    )
