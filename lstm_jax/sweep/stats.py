"""Confidence intervals by the percentile bootstrap (Efron 1979) and permutation tests (Fisher 1935), by SciPy.

Every draw comes from `seed`: the same values give the same numbers. SciPy is imported on use, since it takes half a second.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

Values = Sequence[float | int] | np.ndarray
EXACT = 20_000
"""Permutations up to which a test enumerates all of them; beyond, it draws this many."""


def _bootstrap(samples: Sequence[Values], statistic: Callable[..., Any], draws: int, seed: int) -> tuple[float, float]:
    """Return the 95 % percentile interval of a statistic; SciPy needs two observations, so a single one counts twice."""
    from scipy import stats

    arrays = [np.asarray(sample, float) for sample in samples]
    data = [np.repeat(array, 2) if len(array) == 1 else array for array in arrays]
    result = stats.bootstrap(data, statistic, n_resamples=draws, method="percentile", rng=seed)
    return float(result.confidence_interval.low), float(result.confidence_interval.high)


def mean_interval(values: Values, seed: int = 0, draws: int = 2000) -> tuple[float, float, float]:
    """Return the mean and its 95 % confidence interval, (mean, low, high)."""
    return float(np.mean(values)), *_bootstrap([values], np.mean, draws, seed)


def ratio_interval(slow: Values, fast: Values, seed: int = 0, draws: int = 10_000) -> tuple[float, float, float]:
    """Return median(slow) / median(fast) and its 95 % confidence interval, (ratio, low, high); the two samples are independent."""

    def ratio(a: np.ndarray, b: np.ndarray, axis: int = -1) -> Any:
        return np.median(a, axis=axis) / np.median(b, axis=axis)

    return float(np.median(slow) / np.median(fast)), *_bootstrap([slow, fast], ratio, draws, seed)


def geometric_mean_interval(ratios: Values, seed: int = 0, draws: int = 10_000) -> tuple[float, float, float]:
    """Return the geometric mean of positive ratios and its 95 % confidence interval, (mean, low, high)."""
    mean, low, high = np.exp(mean_interval(np.log(ratios), seed, draws))
    return float(mean), float(low), float(high)


def permutation_p(old: Values, new: Values, seed: int = 0) -> float:
    """Return the two-sided p of a permutation test on the difference of the mean logarithms of two independent samples of times.

    The test is exact where at most `EXACT` divisions into samples of these sizes exist. A sample of a single time has no spread to
    compare with, and gives 1.
    """
    from scipy import stats

    if min(len(old), len(new)) < 2:
        return 1.0

    def difference(a: np.ndarray, b: np.ndarray, axis: int = -1) -> Any:
        return np.abs(a.mean(axis) - b.mean(axis))

    first, second = np.log(old), np.log(new)
    centre = np.concatenate([first, second]).mean()  # small numbers round less, so that ties stay ties
    samples = first - centre, second - centre
    result = stats.permutation_test(samples, difference, n_resamples=EXACT, alternative="greater", vectorized=True, rng=seed)
    return float(result.pvalue)


def paired_p(ratios: Values, seed: int = 0) -> float:
    """Return the two-sided p of a sign-flip test on the mean logarithm of paired ratios.

    The null hypothesis is that the two members of each pair are exchangeable. The test is exact where at most `EXACT` choices of signs
    exist. A single pair gives 1.
    """
    from scipy import stats

    if len(ratios) < 2:
        return 1.0

    def distance(logs: np.ndarray, axis: int = -1) -> Any:
        return np.abs(logs.mean(axis))

    result = stats.permutation_test(
        (np.log(ratios),), distance, n_resamples=EXACT, permutation_type="samples", alternative="greater", vectorized=True, rng=seed
    )
    return float(result.pvalue)
