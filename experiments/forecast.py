"""Study of two questions on time series: Does an LSTM forecast better than classical
methods? Do the times between entries help the LSTM?

    # statsmodels, for the series and exponential smoothing
    pip install ".[experiments]"
    python -m experiments.forecast --preset toy      # seconds
    # 4 minutes on two cores at 200 GFLOP/s
    python -m experiments.forecast --workers 2

The two series are from statsmodels: yearly sunspot numbers from 1700 to 2008, and
weekly CO2 at Mauna Loa from 1958 to 2001, where 59 weeks are missing. Each series is
used as it is and with 30 % of its entries removed at random. The last 15 % of a series
is the test split. A forecast covers the next 11 entries of sunspots or the next 26
entries of CO2 (the horizon). If no entry is missing, these are 11 years or 26 weeks.
The starting points of the forecasts are one horizon apart, so that the forecasts cover
the test split. The methods are:

- LSTM: 32 units, three seeds, with or without the times between entries as an input.
- Seasonal naive: a time is moved back by whole seasons (11 years or 52 weeks) until it
  is not later than the last entry before the starting point. The forecast is the entry
  that is closest to the moved time.
- Exponential smoothing: additive Holt-Winters, without a trend for sunspots. At each
  starting point it is fitted to the entries before that point, which are first
  interpolated linearly to a regular grid.

Expected: The LSTM is better than seasonal naive on both series. It is better than
exponential smoothing on sunspots, whose cycles differ in length. The times between
entries help if entries are missing.

Result (see `LOG.md`): On CO2, the LSTM was better than both classical methods. The
times helped if only the 59 weeks were missing, but not if 30 % of the entries were also
removed. On sunspots, seasonal naive was better than all other methods.
"""

import sys
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any, Literal

import numpy as np

from bench import groups
from experiments.study import GREY, Metrics, Rows, Study, interval_bars, main, means
from lstm_jax.lab import sweep
from lstm_jax.lab.commands.common import start_training
from lstm_jax.lab.forecast import data
from lstm_jax.lab.forecast.config import (
    ForecastConfig,
    ForecastModelConfig,
    SeriesConfig,
)
from lstm_jax.lab.inspection.figures import BLUE, INK, LIGHT, ORANGE
from lstm_jax.training.config import TrainConfig

SEASON = {"sunspots": 11, "co2": 52}
UNITS = {"sunspots": "sunspot number", "co2": "CO2, ppm"}
METHODS: tuple[str, ...] = ("lstm", "lstm without times", "seasonal naive", "smoothing")


@dataclass(frozen=True)
class Config:
    """Config of one run of the study, in which one method forecasts one series."""

    series: Literal["sunspots", "co2"] = "sunspots"
    missing: float = 0.0
    """Fraction of the entries that is removed at random."""
    method: str = "lstm"
    """Name of the method, one of `METHODS`."""
    task: ForecastConfig = field(default_factory=ForecastConfig)
    """Config of the forecasting task. Its field `data.csv`, which names a file, is not
    used, because the study provides the series."""


def load(config: Config) -> data.Series:
    """Load a series, and remove the fraction `config.missing` of its entries. The same
    entries are removed for all methods and seeds.
    """
    from statsmodels import datasets

    table: Any
    if config.series == "sunspots":
        table = datasets.sunspots.load_pandas().data
        times, values = (
            table["YEAR"].to_numpy(float),
            table["SUNACTIVITY"].to_numpy(float),
        )
    else:
        table = datasets.co2.load_pandas().data
        table = table["co2"]
        times = table.index.to_numpy().astype("datetime64[D]").astype(float)
        values = table.to_numpy(float)
    keep = np.isfinite(values) & (
        np.random.default_rng(0).random(len(values)) >= config.missing
    )
    return data.Series(
        times[keep], values[keep], config.series == "co2", int((~keep).sum())
    )


def seasonal_naive(
    known: data.Series, moments: np.ndarray, season: float
) -> np.ndarray:
    """Return the seasonal naive forecast of a series."""
    back = moments - season * np.ceil((moments - known.times[-1]) / season)
    return known.values[np.abs(known.times[:, None] - back).argmin(0)]


def smoothing(
    known: data.Series, moments: np.ndarray, season: int, trend: str | None
) -> np.ndarray:
    """Return the forecast of a series by additive exponential smoothing (Holt-Winters)."""
    from statsmodels.tsa.holtwinters import ExponentialSmoothing

    step = float(np.median(np.diff(known.times)))
    grid = np.arange(known.times[0], known.times[-1] + step / 2, step)
    values = np.interp(grid, known.times, known.values)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # statsmodels warns if a fit has not converged
        model = ExponentialSmoothing(
            values,
            trend=trend,
            seasonal="add",
            seasonal_periods=season,
            initialization_method="estimated",
        )
        steps = int(np.ceil((moments[-1] - grid[-1]) / step)) + 1
        ahead = np.asarray(model.fit().forecast(steps))
    return np.interp(moments, grid[-1] + step * np.arange(1, steps + 1), ahead)


def run(config: Config) -> Metrics:
    """Forecast the test split of a series with one method, and return metrics of the
    forecasts.
    """
    from lstm_jax.lab.forecast import task as forecast

    series, horizon, season = (
        load(config),
        config.task.data.horizon,
        SEASON[config.series],
    )
    parts, scale = forecast.parts_of(series, config.task)
    origins = parts["test"].origin[::horizon]
    moments, truth = (
        np.stack([array[origin : origin + horizon] for origin in origins])
        for array in (series.times, series.values)
    )
    known = [
        replace(series, times=series.times[:origin], values=series.values[:origin])
        for origin in origins
    ]
    extra: Metrics = {}
    if config.method.startswith("lstm"):
        start_training(config.task.train.devices, config.task.model)
        with tempfile.TemporaryDirectory() as folder:
            forecast.train(
                config.task, Path(folder) / "run", data=series, figures=False
            )
            predicted = forecast.load(Path(folder) / "run").predict(parts["test"])
        found = forecast.interval(predicted, parts["test"].last, scale, forecast.LEVEL)
        means, low, high = (array[::horizon] for array in found)
        extra = {
            "coverage": float(((low <= truth) & (truth <= high)).mean()),
            "low": low.tolist(),
            "high": high.tolist(),
        }
    elif config.method == "seasonal naive":
        cycle = season * (1.0 if config.series == "sunspots" else 7.0)
        means = np.stack(
            [
                seasonal_naive(before, ahead, cycle)
                for before, ahead in zip(known, moments, strict=True)
            ]
        )
    else:
        trend = None if config.series == "sunspots" else "add"
        means = np.stack(
            [
                smoothing(before, ahead, season, trend)
                for before, ahead in zip(known, moments, strict=True)
            ]
        )
    errors = means - truth
    metrics = {
        "mae": float(np.abs(errors).mean()),
        "rmse": float(np.sqrt((errors**2).mean())),
        "origins": len(origins),
    }
    drawn = {
        "times": moments.tolist(),
        "truth": truth.tolist(),
        "means": means.tolist(),
    }
    return (
        metrics
        | extra
        | (drawn if config.missing == 0 and config.task.train.seed == 0 else {})
    )


def verdict(rows: Rows) -> Iterator[str]:
    """Return the conclusion of the study."""
    for (name, missing, method), found in means(
        rows, ["series", "missing", "method"]
    ).items():
        covered = (
            f", 90% interval covers {found['coverage'].mean:.0%}"
            if "coverage" in found
            else ""
        )
        yield (
            f"{name}, {missing:.0%} missing, {method}: mean absolute error "
            f"{found['mae']:.3g}{covered}"
        )


def draw(rows: Rows, figure) -> None:
    """Draw the forecasts and the errors of the methods, with one column of panels for
    each series.
    """
    series = groups(rows, ["series"])
    panels = figure.subplots(2, len(series), squeeze=False, height_ratios=[1.4, 1])
    inks = dict(zip(METHODS, (BLUE, LIGHT, GREY, ORANGE), strict=True))
    for (above, below), ((name,), own) in zip(panels.T, series.items(), strict=True):
        for row in (
            row
            for row in own
            if row["method"] in ("lstm", "smoothing") and "means" in row
        ):
            ink = inks[row["method"]]
            for number, (times, truth, mean) in enumerate(
                zip(row["times"], row["truth"], row["means"], strict=True)
            ):
                at = (
                    np.asarray(times)
                    if name == "sunspots"
                    else np.asarray(times).astype("datetime64[D]")
                )
                label = None if number else row["method"]
                if "low" in row:
                    above.plot(
                        at, truth, color=INK, linewidth=1, label=label and "measured"
                    )
                    style = {
                        "alpha": 0.2,
                        "linewidth": 0,
                        "label": label and "90 % interval of the lstm",
                    }
                    above.fill_between(
                        at, row["low"][number], row["high"][number], color=ink, **style
                    )
                above.plot(at, mean, color=ink, linewidth=1.3, label=label)
        above.set(xlabel="year", ylabel=UNITS[name])
        cells = means(own, ["missing", "method"]).items()
        interval_bars(
            below,
            [
                (f"{method}, {missing:.0%} missing", found["mae"], inks[method])
                for (missing, method), found in cells
            ],
        )
        below.set_xlabel(
            f"mean absolute error, {UNITS[name]}\n(lines: 95 % interval over seeds)"
        )
    figure.legend(
        *panels[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=4
    )


def configs(names: Any, shares: Any, seeds: int, changes: Metrics) -> list[Config]:
    """Return the configs of all runs, for every combination of a series, a fraction of
    removed entries and a method.
    """
    cut = {
        "sunspots": {"context": 33, "horizon": 11, "level": True},
        "co2": {"context": 104, "horizon": 26, "level": False},
    }
    train = TrainConfig(
        **(
            {"epochs": 200, "patience": 25, "learning_rate": 3e-3, "clip_norm": 1.0}
            | changes
        )
    )
    found = []
    for name, missing, method in product(names, shares, METHODS):
        task = ForecastConfig(
            SeriesConfig(**cut[name], gaps=method == "lstm"),
            ForecastModelConfig(dropout=0.1),
            train,
        )
        count = seeds if method.startswith("lstm") else 1
        found += sweep.grid(
            Config(name, missing, method, task), **{"task.train.seed": range(count)}
        )
    return found


FULL = configs(SEASON, (0.0, 0.3), 3, {})
STUDY = Study(
    "forecast",
    run,
    {"toy": configs(("sunspots",), (0.0,), 1, {"epochs": 2}), "full": FULL},
    draw,
    (12.0, 7.5),
    verdict,
    "statsmodels",
    data=False,
)

if __name__ == "__main__":
    sys.exit(main(STUDY))
