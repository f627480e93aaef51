"""Forecasting task: training a model of a time series, and forecasting with the trained
model.

In each window, the model reads C entries of a series (`context` in the config) and
forecasts the next K entries (`horizon`). For each of these K entries the model returns
a normal distribution. W is the number of windows and B the batch size.

Each entry that the model reads has F features, in this order:

1. the value of the entry minus the value of the last entry that the model reads in the
   window;
2. if `level` is true in the config, the value of the entry minus the mean of the
   training split;
3. if `gaps` is true in the config, log(t / g), where t is the time since the previous
   entry and g the median gap (`Series.usual_gap`).

The differences in 1 and 2 are in units of the standard deviation of the training split.

The training, validation and test splits are three consecutive parts of the series. A
window belongs to the split that contains the K entries that the model forecasts. The C
entries that it reads may lie in an earlier split. Windows whose K entries lie in two
splits are not used.
"""

import json
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import cached_property
from statistics import NormalDist
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh
from numpy import ndarray

from lstm_jax.base.checks import check_number, frozen
from lstm_jax.base.errors import check_class, parsing, require
from lstm_jax.lab import task as base
from lstm_jax.lab.config import flatten
from lstm_jax.lab.files.text import counted
from lstm_jax.lab.forecast import data
from lstm_jax.lab.forecast.config import ForecastConfig, Level
from lstm_jax.lab.forecast.data import Series, SeriesWindows
from lstm_jax.lab.forecast.model import Forecaster
from lstm_jax.lab.inspection import figures
from lstm_jax.lab.predict import make_predict
from lstm_jax.lab.task import initial_rngs
from lstm_jax.training.examples import Examples
from lstm_jax.training.step import Objective

Times = ndarray | Sequence[Any] | None
"""Times of the entries to forecast; see `Trained.ahead`."""
LEVEL = 0.9
"""Probability with which the prediction intervals in metrics and figures should contain
the true value."""
LEAST_LOG_SPREAD = -7.0
"""Least log standard deviation of a predicted normal distribution; a smaller prediction
is raised to this value. The unit of the standard deviation is the standard deviation of
the training split. Without this bound, the loss would decrease without limit where the
series is constant."""
MOST_SPREADS = 1e9
"""Largest allowed difference of two values, in standard deviations of the training
split; see `make_part`.

A value is compared with the last value that the model reads in the same window, or with
the mean of the training split. Up to this difference the loss is finite in float32,
even with the least standard deviation that the model can predict.
"""


@frozen
class Scale:
    """Mean (`mean`) and standard deviation (`spread`) of the values in the training
    split of a series.
    """

    mean: float
    spread: float


@frozen
class Part:
    """W windows of one split (training, validation or test) of a series, with the
    inputs and the targets of the model.
    """

    entries: ndarray
    """(W, C, F): features of the entries that the model reads; see the module."""
    ahead: ndarray
    """(W, K): encoded times of the K entries to forecast. The time t of the k-th entry,
    measured from the last entry that the model reads, is encoded as log(t / (k g)).
    Here g is the median gap between entries (`Series.usual_gap`), so that evenly spaced
    entries have the value 0. If the config sets `gaps` to false, all values are 0."""
    target: ndarray
    """(W, K): value of each entry to forecast minus the value of the last entry that
    the model reads, divided by the standard deviation of the training split."""
    last: ndarray
    """(W,): value of the last entry that the model reads, in the units of the series.
    """
    origin: ndarray
    """(W,): index in the series of the first entry to forecast."""


def features_of(config: ForecastConfig) -> int:
    """Return the number of features that the model reads for each entry of a series."""
    return 1 + config.data.level + config.data.gaps


def make_part(
    windows: SeriesWindows, scale: Scale, config: ForecastConfig, name: str
) -> Part:
    """Return windows of a series as a `Part`, which holds the features that the model
    reads and the values that it is to forecast.
    """
    values, gaps = windows.read[..., 0], windows.read[..., 1]
    last = values[:, -1]
    # values that are not finite raise an error below
    with np.errstate(over="ignore", invalid="ignore"):
        features = [(values - last[:, None]) / scale.spread]
        features += [(values - scale.mean) / scale.spread] if config.data.level else []
        target = (windows.target - last[:, None]) / scale.spread
    for part in (*features, target):
        good = (np.abs(part) <= MOST_SPREADS).all()
        found = (
            f"a value lies more than {MOST_SPREADS:g} spreads from another; the "
            f"spread where trained on is {scale.spread:g}"
        )
        require(
            good,
            f"values of {name}",
            found,
            "leave out outliers, or give a series of one scale",
        )
    features += [np.log(gaps)] if config.data.gaps else []
    ahead = (
        np.log(windows.ahead / np.arange(1.0, config.data.horizon + 1))
        if config.data.gaps
        else np.zeros_like(windows.ahead)
    )
    return Part(
        np.stack(features, -1).astype(np.float32),
        ahead.astype(np.float32),
        target.astype(np.float32),
        last,
        windows.origin,
    )


def parts_of(series: Series, config: ForecastConfig) -> tuple[dict[str, Part], Scale]:
    """Cut a series into the windows of its training, validation and test splits."""
    test = len(series) - round(len(series) * config.data.test)
    held = test - round(len(series) * config.data.validation)
    bounds = {
        "train": (0, held),
        "validation": (held, test),
        "test": (test, len(series)),
    }
    train, subject = series.values[:held], f"values of {series.name}"
    # rounding may give equal values a spread above 0
    varies = len(train) > 0 and train.max() > train.min()
    with np.errstate(over="ignore", invalid="ignore"):
        scale = (
            Scale(float(train.mean()), float(train.std()))
            if varies
            else Scale(0.0, 0.0)
        )
    require(
        math.isfinite(scale.spread),
        subject,
        "too large to square",
        "give the series in a larger unit",
    )
    require(
        scale.spread > 0,
        subject,
        "all the same where trained on",
        "give a series that varies",
    )
    parts = {}
    for name, (first, last) in bounds.items():
        windows = data.series_windows(
            series, config.data.context, config.data.horizon, first, last
        )
        found = (
            f"{len(series)} entries, {name} part {last - first}, context "
            f"{config.data.context}, horizon {config.data.horizon}"
        )
        require(
            len(windows.origin) > 0,
            f"length of {series.name}",
            found,
            "give a longer series, or a shorter context or horizon",
        )
        parts[name] = make_part(windows, scale, config, series.name)
    return parts, scale


def make_model(config: ForecastConfig) -> Forecaster:
    """Return a new model, whose random initial weights are drawn from the seed in the
    config.
    """
    return Forecaster(
        config.model,
        features_of(config),
        config.data.horizon,
        rngs=initial_rngs(config.train.seed),
    )


def negative_log_likelihood(predicted: Array, target: Array) -> Array:
    """Return the negative log-likelihood (B, K) of each target under its predicted
    normal distribution, in nats.

    `predicted` (B, 2, K) holds the means and the log standard deviations, which are
    raised to `LEAST_LOG_SPREAD`.
    """
    mean, spread = predicted[:, 0], jnp.maximum(predicted[:, 1], LEAST_LOG_SPREAD)
    return (
        0.5 * ((target - mean) * jnp.exp(-spread)) ** 2
        + spread
        + 0.5 * math.log(2 * math.pi)
    )


def objective(rebuild: Callable) -> Objective:
    """Return the training objective: the mean negative log-likelihood of the targets,
    in nats.

    A batch is a tuple of the arrays `entries`, `ahead` and `target` of a `Part`. The
    metrics are "loss" and "absolute", the mean absolute error of the predicted means in
    standard deviations of the training split.
    """

    def loss(params, batch, weight, key):
        entries, ahead, target = batch
        predicted = rebuild(params)(entries, ahead, deterministic=False, rngs=key)
        mean = (negative_log_likelihood(predicted, target).mean(-1) * weight).sum()
        return mean, {
            "loss": mean,
            "absolute": (jnp.abs(predicted[:, 0] - target).mean(-1) * weight).sum(),
        }

    return loss


Predictions = Callable[[dict, Part], ndarray]
"""Function that `make_predictions` returns."""


def make_predictions(rebuild: Callable, mesh: Mesh) -> Predictions:
    """Return a compiled function predictions(params, part) that forecasts the K entries
    after each of the W windows in `part`.

    It returns an array (W, 2, K): the means, as differences from the last entry that
    the model reads, and the logarithms of the standard deviations, in units of the
    standard deviation of the training split.
    """
    predict = make_predict(
        lambda params, rows: rebuild(params)(*rows, deterministic=True), mesh
    )
    return lambda params, part: predict(params, (part.entries, part.ahead))


def metrics_of(predicted: ndarray, part: Part, scale: Scale) -> dict[str, float]:
    """Return the metrics of predictions (see `make_predictions`) over the W * K entries
    of one split.

    "loss" is the mean negative log-likelihood in nats, "mae" and "rmse" are in the
    units of the series, and "coverage" is the share of true values inside the
    prediction interval of probability `LEVEL`.
    """
    off = np.abs(predicted[:, 0] - part.target)
    found = {
        "loss": np.asarray(
            negative_log_likelihood(jnp.asarray(predicted), jnp.asarray(part.target))
        ).mean(),
        "mae": off.mean() * scale.spread,
        "rmse": np.sqrt((off**2).mean()) * scale.spread,
        "coverage": (off <= half_width(predicted, LEVEL)).mean(),
    }
    return {name: float(value) for name, value in found.items()}


def half_width(predicted: ndarray, level: float) -> ndarray:
    """Return half the width (W, K) of each prediction interval of probability `level`,
    in spreads of the training split.
    """
    # the quantile of the lower tail is used, because 0.5 + level / 2 rounds to 1 if the
    # level is close to 1
    return -NormalDist().inv_cdf((1 - level) / 2) * np.exp(
        np.maximum(predicted[:, 1], LEAST_LOG_SPREAD)
    )


class Forecasting(base.Task[ForecastConfig, Series]):
    """Task that trains a model to forecast the next entries of a time series, each with
    a prediction interval.
    """

    metrics = ("loss", "absolute")
    curves = ("loss",)
    flags = {  # noqa: RUF012
        "parameters": "--units, --layers or --horizon",
        "residuals": (
            "--batch-size, --context, --units or --layers, or give --microbatches "
            "or --remat sqrt"
        ),
        "data": "--context or --horizon",
    }

    @classmethod
    def read(cls, config, console):
        require(config.data.csv, "csv", "none given", "name a .csv or .jsonl file")
        return data.read_series(config.data.csv, config.data.time, config.data.value)

    def batch(self):
        size = self.config.train.batch_size
        context = self.config.data.context
        horizon = self.config.data.horizon
        shapes = ((context, features_of(self.config)), (horizon,), (horizon,))
        return tuple(
            jax.ShapeDtypeStruct((size, *shape), np.float32) for shape in shapes
        )

    def data_bytes(self):
        context, horizon = self.config.data.context, self.config.data.horizon
        windows = max(0, len(self.data) - context - horizon)
        return 8 * windows * (context * features_of(self.config) + 2 * horizon)

    @cached_property
    def split(self) -> tuple[dict[str, Part], Scale]:
        """Windows of each split ("train", "validation" or "test"), and the mean and
        standard deviation of the training split.
        """
        return parts_of(self.data, self.config)

    def examples(self):
        train = self.split[0]["train"]
        return Examples.of_rows((train.entries, train.ahead, train.target))

    def files(self):
        return {"scale.json": json.dumps(asdict(self.split[1])) + "\n"}

    def make_model(self):
        return make_model(self.config)

    def shapes(self):
        return (
            f"entries (B, {self.config.data.context}, {features_of(self.config)}) "
            f"-> (B, 2, {self.config.data.horizon})"
        )

    def objective(self, rebuild):
        return objective(rebuild)

    def notes(self, start):
        counts = ", ".join(
            counted(len(part.target), f"{name} window")
            for name, part in self.split[0].items()
        )
        yield (
            f"{len(self.data):,} entries ({counted(self.data.skipped, 'row')} "
            f"without a value): {counts}, backend {start.backend}"
        )

    @cached_property
    def predictions(self) -> Predictions:
        """Compiled function from parameters and a split to its predictions (W, 2, K)."""
        return make_predictions(self.functional.rebuild, self.mesh)

    def evaluate(self, params, name="validation"):
        parts, scale = self.split
        return flatten(
            metrics_of(self.predictions(params, parts[name]), parts[name], scale),
            f"{name}_",
        )

    def results(self, run, params):
        """Return the metrics, and a function that draws the end of the series, with the
        forecasts for every K-th window of the test split.

        "test_naive_mae" is the mean absolute error of a forecast that repeats the last
        value read.
        """

        def draw():
            series = self.data
            horizon = self.config.data.horizon
            parts, scale = self.split
            part = parts["test"]
            bounds = interval(self.predictions(params, part), part.last, scale, LEVEL)
            first = max(0, int(part.origin[0]) - horizon)
            chosen = range(0, len(part.origin), horizon)
            drawn = [
                (
                    series.times[part.origin[n] : part.origin[n] + horizon],
                    *(array[n] for array in bounds),
                )
                for n in chosen
            ]
            figures.forecast(
                series.times[first:],
                series.values[first:],
                drawn,
                LEVEL,
                series.dated,
                run.figures / "forecast.png",
            )

        naive = float(
            np.abs(self.split[0]["test"].target).mean() * self.split[1].spread
        )
        return self.evaluate(params) | self.evaluate(params, "test") | {
            "test_naive_mae": naive
        }, draw


def interval(
    predicted: ndarray, last: ndarray, scale: Scale, level: float
) -> tuple[ndarray, ndarray, ndarray]:
    """Return the predicted mean of each forecast entry, and the bounds of its
    prediction interval: three arrays (W, K), in the units of the series.
    """
    mean = last[:, None] + predicted[:, 0] * scale.spread
    wide = half_width(predicted, level) * scale.spread
    return mean, mean - wide, mean + wide


@frozen
class Forecast:
    """Forecast of the K entries after the end of a series.

    Each field is an array (K,): the times, the predicted means and the bounds of the
    prediction intervals, in the units of the series.
    """

    times: ndarray
    mean: ndarray
    low: ndarray
    high: ndarray


@frozen
class Trained(base.Trained[ForecastConfig, Scale]):
    """The trained model of a forecasting run, loaded from the folder of the run.

    The method `ahead` forecasts the entries after the end of a series.
    """

    kind = ForecastConfig

    @property
    def scale(self) -> Scale:
        """Mean and standard deviation of the values in the training split."""
        return self.own

    @staticmethod
    def _open(run, config):
        with parsing(
            f"scale {run.scale}", "name the folder of a finished or interrupted run"
        ):
            scale = Scale(**json.loads(run.scale.read_text()))
        return scale, make_model(config)

    def network(self):
        from lstm_jax.lab.forecast.page import SeriesNetwork

        return SeriesNetwork(self)

    def series(self, path: str | os.PathLike[str] | None = None) -> Series:
        """Read the series that the config of the run names, or one with the same
        columns from the file `path`.
        """
        config = self.config.data
        return data.read_series(path or config.csv, config.time, config.value)

    def predict(self, part: Part) -> ndarray:
        """Return the predictions (W, 2, K) for the W windows in `part`; see
        `make_predictions`.
        """
        return make_predictions(self.rebuild, self.mesh)(self.params, part)

    def end_of(self, series: Series, times: Times = None) -> tuple[Part, ndarray]:
        """Return the input from which the K entries after the end of a series are
        forecast, and the times (K,) of these entries.

        The input is a `Part` with one window, whose `target` holds zeros. `ahead`
        explains the arguments and their errors.
        """
        context, horizon = self.config.data.context, self.config.data.horizon
        check_class("series", series, Series, "give what the method series returns")
        require(
            len(series) >= context,
            f"series of {len(series)} entries",
            "too short",
            f"give {context} or more, the context of the run",
        )
        moments = (
            series.times_after(horizon) if times is None else series.numbers(times)
        )
        ends = np.concatenate([series.times[-1:], moments.ravel()])
        # the difference of two infinite times, or of times near the largest float64
        with np.errstate(invalid="ignore", over="ignore"):
            gaps = series.gaps_between(ends[:-1], ends[1:])
        good = moments.shape == (horizon,) and ((gaps > 0) & np.isfinite(gaps)).all()
        require(
            good,
            "times",
            moments.tolist(),
            f"give {horizon} increasing ones behind the series' end",
        )
        read = np.stack([series.values, series.gaps], -1)[None, -context:]
        unknown = np.full((1, horizon), series.values[-1])
        windows = SeriesWindows(
            read,
            series.gaps_between(series.times[-1:], moments)[None],
            unknown,
            np.asarray([len(series)]),
        )
        return make_part(windows, self.scale, self.config, series.name), moments

    def ahead(
        self, series: Series, level: float = LEVEL, times: Times = None
    ) -> Forecast:
        """Forecast the K entries after the end of a series, where K is the `horizon` in
        the config of the run.

        Args:
            series: series whose last entries the model reads.
            level: probability with which the prediction intervals should contain the
                true values, between 0 and 1.
            times: times of the K entries, in the unit of `series.times`, or as dates if
                the series is dated. If None, the entries are evenly spaced, with the
                median gap of the series.

        Raises:
            InputError: if the series has fewer entries than the `context` of the
                config, if `level` or `times` is not as described, if a value that the
                model reads lies too far from the others (`MOST_SPREADS`), or if the
                forecast is not finite.
        """
        level = check_number("level", level, Level)
        part, moments = self.end_of(series, times)
        found = interval(self.predict(part), part.last, self.scale, level)
        remedy = "the training has diverged: train anew with a lower learning rate"
        require(
            np.isfinite(found).all(),
            f"forecast of {self.run.path}",
            "not finite",
            remedy,
        )
        return Forecast(moments, *(array[0] for array in found))


train, load = Forecasting.train, Trained.load
