"""Confidence intervals from the percentile bootstrap (Efron 1979) and from Student's
t-distribution, and permutation tests (Fisher 1935).

The random draws depend only on the argument `seed`. The same values and seed therefore
always give the same result. SciPy is imported on first use, since the import takes half
a second.
"""

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
from numpy import ndarray

from lstm_jax.base.errors import require

Values = Sequence[float | int] | ndarray
Interval = tuple[float, float, float]
"""Mean or ratio, and the lower and the upper end of its confidence interval."""
EXACT = 20_000
"""Largest number of permutations that a permutation test enumerates. If more are
possible, the test draws `EXACT` of them at random."""


def _logs(name: str, values: Values) -> ndarray:
    array = np.asarray(values, float)
    wrong = array[~((array > 0) & np.isfinite(array))]
    require(
        not wrong.size,
        name,
        wrong[0] if wrong.size else "",
        "give finite numbers above 0",
    )
    return np.log(array)


def _bootstrap(
    samples: Sequence[Values], statistic: Callable, draws: int, seed: int
) -> tuple[float, float]:
    from scipy import stats

    arrays = [np.asarray(sample, float) for sample in samples]
    data = [np.repeat(array, 2) if len(array) == 1 else array for array in arrays]
    result = stats.bootstrap(
        data, statistic, n_resamples=draws, method="percentile", rng=seed
    )
    return float(result.confidence_interval.low), float(result.confidence_interval.high)


def mean_interval(values: Values, seed: int = 0, draws: int = 2000) -> Interval:
    """Return the mean of the values and its 95 % confidence interval by the bootstrap,
    as (mean, low, high).

    `seed` is the seed of the random draws, and `draws` the number of bootstrap
    resamples.

    With few values the interval is too short: it contains the mean of a normal
    distribution in about 75 % of cases with three values, 83 % with five and 90 % with
    ten. For few values, use `t_interval`.
    """
    return float(np.mean(values)), *_bootstrap([values], np.mean, draws, seed)


def t_interval(values: Values) -> Interval:
    """Return the mean of N values and its 95 % confidence interval by Student's
    t-distribution, as (mean, low, high).

    The interval assumes that the values are normally distributed. Under this assumption
    it is valid even for two values, whereas the interval of `mean_interval` is too
    short for few values. For one value, low and high are nan.
    """
    from scipy import stats

    array = np.asarray(values, float)
    if len(array) == 1:
        return float(array[0]), np.nan, np.nan
    half = float(stats.t.ppf(0.975, len(array) - 1) * stats.sem(array))
    mean = float(array.mean())
    return mean, mean - half, mean + half


def ratio_interval(
    slow: Values, fast: Values, seed: int = 0, draws: int = 10_000
) -> Interval:
    """Return the ratio median(slow) / median(fast) of two independent samples and its
    95 % confidence interval, as (ratio, low, high).

    The interval is computed by the bootstrap, with `draws` resamples. `seed` is the
    seed of the random draws. With two or three values in
    each sample the interval is too short: it contains the true ratio in about 70 % of
    cases with two values, and in 89 % with three.
    """

    def ratio(a: ndarray, b: ndarray, axis: int = -1):
        return np.median(a, axis=axis) / np.median(b, axis=axis)

    return float(np.median(slow) / np.median(fast)), *_bootstrap(
        [slow, fast], ratio, draws, seed
    )


def geometric_mean_interval(ratios: Values) -> Interval:
    """Return the geometric mean of positive ratios and its 95 % confidence interval, as
    (mean, low, high).

    The interval is that of `t_interval` for the logarithms of the ratios. For one
    ratio, low and high are nan.

    Raises:
        InputError: if a ratio is not a finite number above 0.
    """
    return tuple(np.exp(t_interval(_logs("ratios", ratios))).tolist())


def permutation_p(old: Values, new: Values, seed: int = 0) -> float:
    """Return the two-sided p-value of a permutation test that compares the mean
    logarithms of two independent samples of durations.

    The test enumerates all divisions of the pooled durations into two samples that have
    the sizes of `old` and `new`. If there are more than `EXACT` divisions, the test
    draws `EXACT` of them at random, from `seed`. The p-value is 1 if a sample has fewer
    than two durations, since one value has no spread.

    Raises:
        InputError: if a duration is not a finite number above 0.
    """
    first, second = _logs("durations", old), _logs("durations", new)
    # numbers near 0 have smaller rounding errors, so equal values stay equal
    centre = np.concatenate([first, second]).mean()
    return _p(
        [first - centre, second - centre],
        lambda a, b, axis: np.abs(a.mean(axis) - b.mean(axis)),
        "independent",
        seed,
    )


def paired_p(ratios: Values, seed: int = 0) -> float:
    """Return the two-sided p-value of a sign-flip test on the mean logarithm of N
    paired ratios.

    The null hypothesis is that the two members of each pair are exchangeable. Each of
    the N logarithms could then equally well have the opposite sign. The p-value is the
    share of the 2 ** N choices of signs that give a mean at least as far from 0 as the
    mean of the data. If there are more than `EXACT` choices, the share is computed over
    `EXACT` random choices, drawn from `seed`, and the signs of the data. The p-value is
    1 for fewer than two pairs.

    Raises:
        InputError: if a ratio is not a finite number above 0.
    """
    return _p(
        [_logs("ratios", ratios)],
        lambda logs, axis: np.abs(logs.mean(axis)),
        "samples",
        seed,
    )


def _p(
    samples: Sequence[ndarray],
    distance: Callable,
    kind: Literal["independent", "samples"],
    seed: int,
) -> float:
    from scipy import stats

    if min(map(len, samples)) < 2:
        return 1.0
    result = stats.permutation_test(
        samples,
        distance,
        permutation_type=kind,
        n_resamples=EXACT,
        alternative="greater",
        vectorized=True,
        rng=seed,
    )
    return float(result.pvalue)
