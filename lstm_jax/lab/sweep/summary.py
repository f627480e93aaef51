"""Means of the results of a sweep with their confidence intervals, and figures of them."""

import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import cycle
from math import inf
from typing import Any

import numpy as np

from lstm_jax.base.errors import require
from lstm_jax.lab.inspection.figures import COLOURS, DPI, STYLE
from lstm_jax.lab.sweep.rows import Row
from lstm_jax.lab.sweep.stats import Interval, Values, t_interval
from lstm_jax.training.config import flatten

_ADDED = ("metric", "mean", "low", "high", "n")


def summarise(
    rows: Iterable[Mapping],
    by: str | Sequence[str],
    over: str | Sequence[str] = "seed",
    bounds: Mapping[str, Sequence[float | int]] | None = None,
    interval: Callable[[Values], Interval] = t_interval,
) -> list[Row]:
    """Return the mean of each numeric result, with its 95 % confidence interval, for
    each combination of the values of some fields.

        bounds = {"accuracy": (0, 1), "error": (0, math.inf)}
        summarise(rows, by=("cell", "length"), bounds=bounds)

    Args:
        rows: rows of a sweep. Failed runs are left out.
        by: names of the fields whose values distinguish the groups of rows. A name with
            dots stands for a field of an inner config.
        over: names of the fields over whose values the mean is taken, also where they
            are fields of inner configs: "seed" stands for "train.seed", too. All other
            fields must be equal within a group.
        bounds: dict from the name of a result to the lowest and the highest value that
            it can have. The interval is cut off at these bounds. It contains the true
            mean as often as before, since the true mean lies within them, too.
        interval: function that returns the mean of some values, and the lower and the
            upper end of its interval: `stats.t_interval`, which is valid for two values
            already, or `stats.mean_interval`, the bootstrap, for ten and more.

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
    figure. A notebook shows it, `savefig` writes it.

    Args:
        summary: list that `summarise` returns. Each metric gets a panel of its own.
        x: name of the field on the horizontal axis.
        hue: name of the field whose values have colours of their own, which a legend
            names, or "".
        axes: matplotlib axes to draw into, one for each metric, without a legend. If
            empty, a new figure is made.
        styles: dict from values of `hue`, as text, to arguments of matplotlib's
            `errorbar`, such as color, marker and label.
        metrics: metrics to draw. If empty, all are drawn.

    Raises:
        InputError: if the summary is empty, if it lacks the column `x` or `hue` or all
            the metrics, if it has several rows for one point, or if the number of
            `axes` is not that of the metrics.
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
