"""Forecasting task: training of a model of a time series, and the forecasts of a trained run.

The model returns a normal distribution for each of the K entries (`horizon`) after those that it reads. W is the number of windows.
"""

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from statistics import NormalDist
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console

from lstm_jax import data
from lstm_jax.config import ForecastConfig
from lstm_jax.errors import InputError, require
from lstm_jax.models import Forecaster
from lstm_jax.tasks import base
from lstm_jax.tasks.forecast_windows import Part, Scale, features_of, make_part, parts_of
from lstm_jax.tasks.running import Run, initial_rngs, is_own_data, mesh_of, write_result
from lstm_jax.training.examples import Examples
from lstm_jax.training.loop import FitResult
from lstm_jax.training.predict import make_predict
from lstm_jax.training.run_folder import RunFolder
from lstm_jax.training.step import Objective

LEVEL = 0.9
"""Level of the prediction intervals in metrics and figures."""
LEAST_LOG_SPREAD = -7.0
"""Lower bound of the predicted log standard deviation, whose unit is the standard deviation of the training split. Without the bound, the
loss would decrease without limit where the series is constant."""


def make_model(config: ForecastConfig) -> Forecaster:
    """Return the model with its initial weights; their random values depend only on the seed."""
    return Forecaster(config.model, features_of(config), config.data.horizon, rngs=initial_rngs(config.train.seed))


def negative_log_likelihood(predicted: jax.Array, target: jax.Array) -> jax.Array:
    """Return the negative log-likelihood (B, K) of each target under its normal distribution, in nats.

    Args:
        predicted: means and log standard deviations, (B, 2, K).
        target: (B, K).
    """
    mean, spread = predicted[:, 0], jnp.maximum(predicted[:, 1], LEAST_LOG_SPREAD)
    return 0.5 * ((target - mean) * jnp.exp(-spread)) ** 2 + spread + 0.5 * math.log(2 * math.pi)


def objective(rebuild: Callable) -> Objective:
    """Return the mean negative log-likelihood as a `training.step.Objective` over batches (entries, ahead, target) of a `Part`."""

    def loss(params, batch, weight, key):
        entries, ahead, target = batch
        predicted = rebuild(params)(entries, ahead, deterministic=False, rngs=key)
        mean = (negative_log_likelihood(predicted, target).mean(-1) * weight).sum()
        return mean, {"loss": mean, "absolute": (jnp.abs(predicted[:, 0] - target).mean(-1) * weight).sum()}

    return loss


def make_predictions(rebuild: Callable, mesh: jax.sharding.Mesh) -> Callable[[dict, Part], np.ndarray]:
    """Return predictions(params, part) -> means and log standard deviations (W, 2, K), computed without dropout."""
    predict = make_predict(lambda params, rows: rebuild(params)(*rows, deterministic=True), mesh)
    return lambda params, part: predict(params, (part.entries, part.ahead))


def metrics_of(predicted: np.ndarray, part: Part, scale: Scale) -> dict[str, float]:
    """Return the metrics of predictions (W, 2, K) against the targets of `part`.

    Returns:
        The loss in nats per entry; mae and rmse in the units of the series; coverage, the share of targets inside the interval of level
        `LEVEL`.
    """
    off = np.abs(predicted[:, 0] - part.target)
    wide = NormalDist().inv_cdf(0.5 + LEVEL / 2) * np.exp(np.maximum(predicted[:, 1], LEAST_LOG_SPREAD))
    loss = float(np.asarray(negative_log_likelihood(jnp.asarray(predicted), jnp.asarray(part.target))).mean())
    sizes = {"mae": off.mean() * scale.spread, "rmse": np.sqrt((off**2).mean()) * scale.spread, "coverage": (off <= wide).mean()}
    return {"loss": loss} | {name: float(value) for name, value in sizes.items()}


def read_series(config: ForecastConfig, path: Path | None = None) -> data.Series:
    """Read the series that the config names, or the file `path`, which must have the same columns."""
    return data.read_series(path or Path(config.data.csv), config.data.time, config.data.value)


class Forecasting(base.Task[ForecastConfig, data.Series]):
    """Forecasting of the next entries of a series, each with a prediction interval."""

    metrics = ("loss", "absolute")
    flags = {  # noqa: RUF012
        "parameters": "--units, --layers or --horizon",
        "residuals": "--batch-size, --context, --units or --layers, or give --remat sqrt",
        "data": "--context or --horizon",
    }

    @classmethod
    def read(cls, config: ForecastConfig, console: Console) -> data.Series:
        del console
        require(bool(config.data.csv), "csv", "none given", "name a .csv or .jsonl file")
        return read_series(config)

    def batch(self) -> Any:
        size, context, horizon = self.config.train.batch_size, self.config.data.context, self.config.data.horizon
        shapes = ((context, features_of(self.config)), (horizon,), (horizon,))
        return tuple(jax.ShapeDtypeStruct((size, *shape), np.float32) for shape in shapes)

    def data_bytes(self) -> int:
        context, horizon = self.config.data.context, self.config.data.horizon
        windows = max(0, len(self.data) - context - horizon)
        return 8 * windows * (context * features_of(self.config) + 2 * horizon)

    @cached_property
    def parts(self) -> dict[str, Part]:
        """Windows of the training, validation and test split, by name."""
        return self._parts_and_scale[0]

    @cached_property
    def scale(self) -> Scale:
        """Mean and standard deviation of the training split."""
        return self._parts_and_scale[1]

    @cached_property
    def _parts_and_scale(self) -> tuple[dict[str, Part], Scale]:
        return parts_of(self.data, self.config)

    def examples(self) -> Examples:
        train = self.parts["train"]
        return Examples.of_rows((train.entries, train.ahead, train.target))

    def files(self) -> dict[str, Any]:
        return {"scale.json": json.dumps(asdict(self.scale)) + "\n"}

    def make_model(self) -> Forecaster:
        return make_model(self.config)

    def shapes(self) -> str:
        return f"entries (B, {self.config.data.context}, {features_of(self.config)}) -> (B, 2, {self.config.data.horizon})"

    def objective(self, rebuild: Callable) -> Objective:
        return objective(rebuild)

    def notes(self, run: Run) -> Iterator[str]:
        counts = ", ".join(f"{len(part.target):,} {name} windows" for name, part in self.parts.items())
        yield f"{len(self.data):,} entries ({self.data.skipped} rows without a value): {counts}, backend {run.backend}"

    @cached_property
    def predictions(self) -> Callable[[dict, Part], np.ndarray]:
        """Compiled function from parameters and a split to its predictions."""
        return make_predictions(self.functional.rebuild, self.mesh)

    def evaluate(self, params: Any, name: str = "validation") -> dict[str, Any]:
        part = self.parts[name]
        found = metrics_of(self.predictions(params, part), part, self.scale)
        return {f"{name}_{metric}": value for metric, value in found.items()}

    def finish(self, folder: RunFolder, result: FitResult, figures: bool) -> None:
        """Write the metrics of the validation and the test split, and draw learning curves and forecasts if `figures` is true."""
        write_result(folder, result, self.evaluate(result.params) | self.evaluate(result.params, "test"))
        if figures:
            from lstm_jax.inspection import plots

            plots.learning_curves(list(result.rows), folder.figures / "learning_curves.png", "Learning curves", ("loss",))
            part = self.parts["test"]
            draw_forecast(self.data, part, self.predictions(result.params, part), self.scale, LEVEL, folder.figures / "forecast.png")


def interval(predicted: np.ndarray, last: np.ndarray, scale: Scale, level: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the mean, the lower bound and the upper bound of the prediction interval, each (W, K) in the units of the series.

    Args:
        predicted: means and log standard deviations in the units of `Part.target`, (W, 2, K).
        last: last entry that each window reads, (W,), in the units of the series.
        scale: mean and standard deviation of the training split.
        level: probability of the interval, between 0 and 1.
    """
    mean = last[:, None] + predicted[:, 0] * scale.spread
    # the quantile of the lower tail, because (1 - level) / 2 stays above 0 where 0.5 + level / 2 would round to 1
    wide = -NormalDist().inv_cdf((1 - level) / 2) * np.exp(np.maximum(predicted[:, 1], LEAST_LOG_SPREAD)) * scale.spread
    return mean, mean - wide, mean + wide


def draw_forecast(series: data.Series, part: Part, predicted: np.ndarray, scale: Scale, level: float, path: Path) -> tuple[Path, Path]:
    """Draw the end of the series and consecutive forecasts of it, each made from the entries before it."""
    from lstm_jax.inspection import plots

    mean, low, high = interval(predicted, part.last, scale, level)
    horizon = mean.shape[1]
    chosen = range(0, len(mean), horizon)
    first = max(0, int(part.origin[0]) - horizon)
    return plots.forecast(
        series.times[first:],
        series.values[first:],
        [(series.times[part.origin[n] : part.origin[n] + horizon], mean[n], low[n], high[n]) for n in chosen],
        level,
        series.dated,
        path,
    )


@dataclass(frozen=True)
class Forecast:
    """Forecast of K entries: their times, their means, and the bounds of their intervals, each (K,)."""

    times: np.ndarray
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray


@dataclass(frozen=True)
class Trained(base.Trained[ForecastConfig, Scale]):
    """A forecasting run, loaded from its folder; `ahead` forecasts the entries after a series."""

    kind = ForecastConfig

    @property
    def scale(self) -> Scale:
        """Mean and standard deviation of the training split."""
        return self.own

    @staticmethod
    def _read_own(run: RunFolder) -> Scale:
        try:
            return Scale(**json.loads(run.scale.read_text()))
        except (OSError, ValueError, TypeError, RecursionError) as error:
            raise InputError(f"scale {run.scale}", error, "name the folder of a finished or interrupted run") from error

    @staticmethod
    def _make_model(config: ForecastConfig, own: Scale) -> Forecaster:
        del own
        return make_model(config)

    def is_own(self, series: data.Series) -> bool:
        """Return whether `series` equals the series that the run was trained on."""
        return is_own_data(self.run, series.fingerprint)

    def series(self, path: Path | None = None) -> data.Series:
        """Read the series that the config of the run names, or the file `path`, which must have the same columns."""
        return read_series(self.config, path)

    def predict(self, part: Part) -> np.ndarray:
        """Return the predicted means and log standard deviations (W, 2, K), in the units of `Part.target`."""
        return make_predictions(self.rebuild, mesh_of(self.config))(self.params, part)

    def ahead(self, series: data.Series, level: float = LEVEL, times: np.ndarray | None = None) -> Forecast:
        """Forecast the K entries after the end of a series.

        Args:
            series: the series; the model reads its last entries.
            level: level of the prediction intervals, between 0 and 1.
            times: times of the K entries; if None, consecutive entries are `series.usual_gap` apart.

        Raises:
            InputError: if the series is shorter than the context, `level` is not between 0 and 1, or `times` does not hold K increasing
                times after the end of the series.
        """
        context, horizon = self.config.data.context, self.config.data.horizon
        require(0 < level < 1, "level", level, "give a share between 0 and 1")
        require(len(series) >= context, f"series of {len(series)} entries", "too short", f"give {context} or more, the context of the run")
        gap = series.usual_gap
        moments = series.times[-1] + gap * np.arange(1, horizon + 1) if times is None else np.asarray(times, np.float64)
        good = moments.shape == (horizon,) and bool((np.diff(np.concatenate([series.times[-1:], moments])) > 0).all())
        require(good, "times", moments.tolist(), f"give {horizon} increasing ones behind the series' end")
        read = np.stack([series.values, series.gaps], -1)[None, -context:]
        unknown = np.full((1, horizon), series.values[-1])
        windows = data.SeriesWindows(read, (moments - series.times[-1])[None] / gap, unknown, np.asarray([len(series)]))
        part = make_part(windows, self.scale, self.config)
        mean, low, high = interval(self.predict(part), part.last, self.scale, level)
        return Forecast(moments, mean[0], low[0], high[0])


train, load = Forecasting.train, Trained.load
