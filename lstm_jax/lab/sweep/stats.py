"""Confidence intervals and permutation tests, and summaries and figures of sweeps.

The intervals are those of the percentile bootstrap (Efron 1979) and of Student's
t-distribution, the tests permutation tests (Fisher 1935). The random draws depend only
on the argument `seed`. SciPy is imported on first use, since the import takes half a
second.
"""

import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import cycle
from math import inf
from typing import Any, Literal

import numpy as np
from numpy import ndarray

from lstm_jax.base.errors import require
from lstm_jax.lab.config import flatten
from lstm_jax.lab.inspection.figures import COLOURS, DPI, STYLE
from lstm_jax.lab.sweep.rows import Row

Numbers = Sequence[float | int] | ndarray
Interval = tuple[float, float, float]
"""Mean or ratio, and the lower and the upper end of its confidence interval."""
EXACT = 20_000
"""Largest number of permutations that a permutation test enumerates. If more are
possible, the test draws `EXACT` of them at random."""


def _logs(name: str, values: Numbers) -> ndarray:
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
    samples: Sequence[Numbers], statistic: Callable, draws: int, seed: int
) -> tuple[float, float]:
    from scipy import stats

    arrays = [np.asarray(sample, float) for sample in samples]
    data = [np.repeat(array, 2) if len(array) == 1 else array for array in arrays]
    result = stats.bootstrap(
        data, statistic, n_resamples=draws, method="percentile", rng=seed
    )
    return float(result.confidence_interval.low), float(result.confidence_interval.high)


def mean_interval(values: Numbers, seed: int = 0, draws: int = 2000) -> Interval:
    """Return the mean of the values and its 95 % confidence interval by the bootstrap
    with `draws` resamples, as (mean, low, high).

    With few values the interval is too short: it contains the mean of a normal
    distribution in about 75 % of cases with three values, and 90 % with ten. For few
    values, use `t_interval`.
    """
    return float(np.mean(values)), *_bootstrap([values], np.mean, draws, seed)


def t_interval(values: Numbers) -> Interval:
    """Return the mean of N values and its 95 % confidence interval by Student's
    t-distribution, as (mean, low, high).

    It is valid for normally distributed values, even for two. For one value, low and
    high are nan.
    """
    from scipy import stats

    array = np.asarray(values, float)
    if len(array) == 1:
        return float(array[0]), np.nan, np.nan
    half = float(stats.t.ppf(0.975, len(array) - 1) * stats.sem(array))
    mean = float(array.mean())
    return mean, mean - half, mean + half


def ratio_interval(
    slow: Numbers, fast: Numbers, seed: int = 0, draws: int = 10_000
) -> Interval:
    """Return the ratio median(slow) / median(fast) of two independent samples and its
    95 % confidence interval by the bootstrap, as (ratio, low, high).

    With few values the interval is too short: it contains the true ratio in about 70 %
    of cases with two values in each sample, and in 89 % with three.
    """

    def ratio(a: ndarray, b: ndarray, axis: int = -1):
        return np.median(a, axis=axis) / np.median(b, axis=axis)

    return float(np.median(slow) / np.median(fast)), *_bootstrap(
        [slow, fast], ratio, draws, seed
    )


def geometric_mean_interval(ratios: Numbers) -> Interval:
    """Return the geometric mean of positive ratios and its 95 % confidence interval, as
    (mean, low, high).

    The interval is that of `t_interval` for the logarithms of the ratios. For one
    ratio, low and high are nan.

    Raises:
        InputError: if a ratio is not a finite number above 0.
    """
    return tuple(np.exp(t_interval(_logs("ratios", ratios))).tolist())


def permutation_p(old: Numbers, new: Numbers, seed: int = 0) -> float:
    """Return the two-sided p-value of a permutation test that compares the mean
    logarithms of two independent samples of durations.

    The test enumerates all divisions of the pooled durations, or draws `EXACT` of them
    from `seed` if there are more. The p-value is 1 if a sample has fewer than two
    durations.

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


def paired_p(ratios: Numbers, seed: int = 0) -> float:
    """Return the two-sided p-value of a sign-flip test on the mean logarithm of N
    paired ratios, 1 for fewer than two.

    It is the share of the 2 ** N choices of signs of the logarithms that give a mean at
    least as far from 0 as the data, over `EXACT` random choices if there are more.

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


_ADDED = ("metric", "mean", "low", "high", "n")


def summarise(
    rows: Iterable[Mapping],
    by: str | Sequence[str],
    over: str | Sequence[str] = "seed",
    bounds: Mapping[str, Sequence[float | int]] | None = None,
    interval: Callable[[Numbers], Interval] = t_interval,
) -> list[Row]:
    """Return the mean of each numeric result, with its 95 % confidence interval, for
    each combination of the values of some fields.

        bounds = {"accuracy": (0, 1), "error": (0, math.inf)}
        summarise(rows, by=("cell", "length"), bounds=bounds)

    Args:
        rows: rows of a sweep. Failed runs are left out.
        by: names of the fields whose values distinguish the groups of rows, such as
            "model.units".
        over: names of the fields over whose values the mean is taken, also in inner
            configs. All other fields must be equal within a group.
        bounds: dict from the name of a result to the lowest and the highest value that
            it can have, at which its interval is cut off.
        interval: function that returns the mean of some values, and the ends of its
            interval: `t_interval`, or `mean_interval` for ten values and more.

    Returns:
        a list of dicts, which pandas and polars take as a table. The keys are those of
        `by`, "metric" (name of the result), "mean", "low", "high" and "n" (number of
        values). For a single value, "low" and "high" are nan.

    Raises:
        InputError: if a config has no field of a name in `by`, if rows of one group
            differ in a field that is not in `over`, or if a result is not within its
            bounds.
    """
    by, over = (
        (names,) if isinstance(names, str) else tuple(names) for names in (by, over)
    )
    require(
        not {*by} & {*_ADDED},
        "by",
        by,
        f"the summary has columns {', '.join(_ADDED)} of its own",
    )
    groups = {}
    for row in rows:
        config = flatten(row["config"])
        for name in by:
            require(
                name in config,
                "by",
                name,
                f"give fields of the config: {', '.join(config)}",
            )
        fixed = {
            name: value
            for name, value in config.items()
            if name in by or not {name, name.rpartition(".")[2]} & {*over}
        }
        first, metrics = groups.setdefault(
            repr([config[name] for name in by]), (fixed, {})
        )
        other = [name for name in first | fixed if first.get(name) != fixed.get(name)]
        require(
            not other,
            "by",
            by,
            f"the mean would be over {', '.join(other)}, too: add this to by or over",
        )
        for metric, value in flatten(row.get("result", {})).items():
            if isinstance(value, int | float):
                metrics.setdefault(metric, []).append(value)
    summary = []
    for first, metrics in groups.values():
        for metric, values in metrics.items():
            least, most = (bounds or {}).get(metric, (-inf, inf))
            outside = [value for value in values if value < least or value > most]
            require(
                not outside,
                f"result {metric}",
                outside,
                f"give bounds wider than {least:g} to {most:g}",
            )
            with np.errstate(invalid="ignore"):  # of values that are not finite
                mean, low, high = interval(values)
            # nan stays nan, as the first argument
            ends = {"low": max(low, least), "high": min(high, most)}
            summary.append(
                {name: first[name] for name in by}
                | {"metric": metric, "mean": mean, **ends, "n": len(values)}
            )
    return summary


def plot(
    summary: Sequence[Mapping[str, Any]],
    x: str,
    hue: str = "",
    axes: Sequence[Any] = (),
    styles: Mapping[str, Mapping[str, Any]] | None = None,
    metrics: Sequence[str] = (),
) -> Any:
    """Draw the means of a summary with their intervals, and return the matplotlib
    figure.

    Args:
        summary: list that `summarise` returns. Each metric gets a panel of its own.
        x: name of the field on the horizontal axis.
        hue: name of the field whose values have colours and a legend, or "".
        axes: matplotlib axes to draw into, one for each metric. If empty, a new figure
            is made.
        styles: dict from values of `hue`, as text, to arguments of matplotlib's
            `errorbar`, such as color, marker and label.
        metrics: metrics to draw. If empty, all are drawn.

    Raises:
        InputError: if the summary is empty, lacks a column or has several rows for one
            point, or if the number of `axes` is not that of the metrics.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    class Shown(Figure):
        def _repr_png_(self) -> bytes:
            content = io.BytesIO()
            self.savefig(content, format="png")
            return content.getvalue()

    summary = [row for row in summary if not metrics or row["metric"] in metrics]
    require(
        summary,
        "summary",
        "no rows",
        "give what summarise returns for runs that have ended, and metrics in it",
    )
    for name in (x, hue or x):
        require(
            name in summary[0],
            "field",
            name,
            f"the summary has {', '.join(summary[0])}",
        )
    if numeric := all(isinstance(row[x], int | float) for row in summary):
        summary = sorted(summary, key=lambda row: row[x])
    points = [
        (row["metric"], str(row.get(hue, "")), row[x] if numeric else str(row[x]))
        for row in summary
    ]
    require(
        len({*points}) == len(points),
        "summary",
        f"several rows for {points[0]}",
        "choose one value of each other field",
    )
    metrics, hues, ticks = (
        list(dict.fromkeys(values)) for values in zip(*points, strict=True)
    )
    places = ticks if numeric else range(len(ticks))
    require(
        len(axes) in (0, len(metrics)),
        "axes",
        len(axes),
        f"give one for each of {', '.join(metrics)}",
    )
    known = np.isfinite([row["low"] for row in summary]).any()
    # between the intervals at one tick, so that none hides another
    gap = known * (max(places) - min(places) or 1) / 50
    with rc_context(STYLE):
        if own_figure := not len(axes):
            figure = Shown(
                figsize=(1 + 4.6 * len(metrics), 3.8), dpi=DPI, layout="constrained"
            )
            figure.suptitle("mean and 95 % interval", fontsize=11)
            axes = figure.subplots(1, len(metrics), squeeze=False)[0]
        for panel, metric in zip(axes, metrics, strict=True):
            for number, (value, colour) in enumerate(
                zip(hues, cycle(COLOURS), strict=False)
            ):
                own = [
                    (at, row)
                    for (*series, at), row in zip(points, summary, strict=True)
                    if series == [metric, value]
                ]
                x_values = np.array(
                    [places[ticks.index(at)] for at, _ in own]
                ) + gap * (number - (len(hues) - 1) / 2)
                mean, low, high = (
                    np.array([row[name] for _, row in own])
                    for name in ("mean", "low", "high")
                )
                sizes = np.maximum([mean - low, high - mean], 0)
                style = {
                    "color": colour,
                    "marker": "o",
                    "linestyle": "-" if numeric else "",
                    "capsize": 3,
                    "label": value,
                }
                panel.errorbar(
                    x_values,
                    mean,
                    sizes if known else None,
                    **style | dict((styles or {}).get(value, {})),
                )
            panel.set_xticks(
                places,
                [str(tick) for tick in ticks],
                **{} if numeric else {"rotation": 20, "ha": "right"},
            )
            panel.set(xlabel=x, ylabel=metric)
            if hue and own_figure:
                panel.legend(title=hue)
    return axes[0].figure
