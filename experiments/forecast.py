"""Does an LSTM forecast real series better than the plain methods, and does it help to tell it the time between entries?

    pip install ".[experiments]"                     # statsmodels, which has the series and the smoothing
    python -m experiments.forecast --preset toy      # seconds
    python -m experiments.forecast --workers 2       # 4 minutes on two cores at 200 GFLOP/s

The source begins with time series, where order and the distance in time between entries count. Series of statsmodels: yearly sunspots 1700
to 2008, and CO2 at Mauna Loa by the week 1958 to 2001, of which 59 weeks are missing; whole, and with three tenths of the entries taken out
at random. The last 15 % are forecast, sunspots 11 years and CO2 26 weeks ahead, from origins a horizon apart:

- the LSTM (32 units), with the times between entries or without, three seeds;
- seasonal naive: what was a season ago (11 years, 52 weeks), by the nearest entry;
- exponential smoothing (Holt-Winters, additive; sunspots without trend), fitted again at each origin, on the entries filled up to an even
  grid by straight lines.

Expected: better than seasonal naive on both; than smoothing on sunspots, whose cycle is not even; the times help where entries are missing.
"""

import sys
import tempfile
import warnings
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from experiments import study
from lstm_jax import data
from lstm_jax.commands.common import start_training
from lstm_jax.config import ForecastConfig, ForecastModelConfig, SeriesConfig, TrainConfig
from lstm_jax.errors import InputError
from lstm_jax.inspection.figures import write_figure

SEASON = {"sunspots": 11, "co2": 52}
METHODS: tuple[str, ...] = ("lstm", "lstm without times", "seasonal naive", "smoothing")


@dataclass(frozen=True)
class Config:
    """missing: share of the entries taken out at random; task: the LSTM's run, whose `data.csv` is not read."""

    series: Literal["sunspots", "co2"] = "sunspots"
    missing: float = 0.0
    method: str = "lstm"
    task: ForecastConfig = field(default_factory=ForecastConfig)


def load(config: Config) -> data.Series:
    """The series, less what is missing; the same entries for every method and seed.

    Raises:
        InputError: without statsmodels.
    """
    try:
        from statsmodels import datasets
    except ImportError as error:
        raise InputError("statsmodels", "not installed", 'pip install ".[experiments]"') from error
    table: Any
    if config.series == "sunspots":
        table = datasets.sunspots.load_pandas().data
        times, values = table["YEAR"].to_numpy(float), table["SUNACTIVITY"].to_numpy(float)
    else:
        table = datasets.co2.load_pandas().data
        table = table["co2"]
        times = table.index.to_numpy().astype("datetime64[D]").astype(float)
        values = table.to_numpy(float)
    keep = np.isfinite(values) & (np.random.default_rng(0).random(len(values)) >= config.missing)
    return data.Series(times[keep], values[keep], config.series == "co2", int((~keep).sum()))


def seasonal_naive(series: data.Series, origin: int, moments: np.ndarray, season: float) -> np.ndarray:
    """Of the entries before `origin`, that nearest to a season, or as many as it takes, before each moment."""
    known = series.times[:origin]
    back = moments - season * np.ceil((moments - known[-1]) / season)
    return series.values[np.abs(known[:, None] - back).argmin(0)]


def smoothing(series: data.Series, origin: int, moments: np.ndarray, season: int, trend: str | None) -> np.ndarray:
    """Holt-Winters of the entries before `origin`, on an even grid."""
    from statsmodels.tsa.holtwinters import ExponentialSmoothing

    step = series.usual_gap
    grid = np.arange(series.times[0], series.times[origin - 1] + step / 2, step)
    values = np.interp(grid, series.times[:origin], series.values[:origin])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it has not converged
        model = ExponentialSmoothing(values, trend=trend, seasonal="add", seasonal_periods=season, initialization_method="estimated")
        steps = int(np.ceil((moments[-1] - grid[-1]) / step)) + 1
        ahead = np.asarray(model.fit().forecast(steps))
    return np.interp(moments, grid[-1] + step * np.arange(1, steps + 1), ahead)


def run(config: Config) -> dict[str, Any]:
    """Errors from origins a horizon apart, and the first forecast for the figure."""
    from lstm_jax.tasks import forecast

    series = load(config)
    horizon = config.task.data.horizon
    parts, scale = forecast.parts_of(series, config.task)
    chosen = np.arange(0, len(parts["test"].origin), horizon)
    origins = parts["test"].origin[chosen]
    moments = [series.times[origin : origin + horizon] for origin in origins]
    truth = np.stack([series.values[origin : origin + horizon] for origin in origins])
    extra: dict[str, Any] = {}
    if config.method.startswith("lstm"):
        means, low, high = _lstm(config, series, chosen, scale)
        extra = {"coverage": float(((low <= truth) & (truth <= high)).mean()), "low": low.tolist(), "high": high.tolist()}
    elif config.method == "seasonal naive":
        season = SEASON[config.series] * (1.0 if config.series == "sunspots" else 7.0)
        means = np.stack([seasonal_naive(series, int(o), m, season) for o, m in zip(origins, moments, strict=True)])
    else:
        trend = None if config.series == "sunspots" else "add"
        pairs = zip(origins, moments, strict=True)
        means = np.stack([smoothing(series, int(o), m, SEASON[config.series], trend) for o, m in pairs])
    off = means - truth
    figures = {"mae": float(np.abs(off).mean()), "rmse": float(np.sqrt((off**2).mean())), "origins": len(origins)}
    drawn = {"times": [m.tolist() for m in moments], "truth": truth.tolist(), "means": means.tolist()}
    return figures | extra | (drawn if config.missing == 0 and config.task.train.seed == 0 else {})


def _lstm(config: Config, series: data.Series, chosen: np.ndarray, scale: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Means and bounds at the chosen windows of the test part."""
    from lstm_jax.tasks import forecast

    start_training(config.task.train.devices, config.task.model)
    with tempfile.TemporaryDirectory() as folder:
        forecast.train(config.task, Path(folder) / "run", series=series, figures=False)
        trained = forecast.load(Path(folder) / "run")
    part = forecast.parts_of(series, config.task)[0]["test"]
    mean, low, high = forecast.interval(trained.given(part), part.last, scale, forecast.LEVEL)
    return mean[chosen], low[chosen], high[chosen]


def verdict(rows: study.Rows) -> str:
    """A line a series, share missing and method."""
    lines = []
    for (name, missing, method), errors in study.grouped(rows, ["series", "missing", "method"], "mae").items():
        mean, low, high = study.interval(errors)
        told = f" ({low:.3g} to {high:.3g})" if len(errors) > 1 else ""
        covered = [
            row["coverage"]
            for row in rows
            if (row["series"], row["missing"], row["method"]) == (name, missing, method) and "coverage" in row
        ]
        lines.append(
            f"{name}, {100 * missing:.0f} % missing, {method}: mean absolute error {mean:.3g}{told}"
            + (f", 90 % interval covers {100 * np.mean(covered):.0f} %" if covered else "")
        )
    return "\n".join(lines)


def draw(rows: study.Rows, path: Path) -> object:
    """Above, the LSTM's forecasts of the whole series with their interval; below, every method's error."""

    def fill(figure: Any) -> None:
        names = [name for name in SEASON if any(row["series"] == name for row in rows)]
        panels = figure.subplots(2, len(names), squeeze=False, height_ratios=[1.4, 1])
        inks = dict(zip(METHODS, ("#0072B2", "#56B4E9", "#999999", "#D55E00"), strict=True))
        for (above, below), name in zip(panels.T, names, strict=True):
            shown = {row["method"]: row for row in rows if row["series"] == name and "means" in row}
            for method, row in shown.items():
                for number, (times, truth, mean) in enumerate(zip(row["times"], row["truth"], row["means"], strict=True)):
                    at = np.asarray(times) if name == "sunspots" else np.asarray(times).astype("datetime64[D]")
                    if method == "lstm":
                        above.plot(at, truth, color="#222222", linewidth=1)
                        above.fill_between(at, row["low"][number], row["high"][number], color=inks[method], alpha=0.2, linewidth=0)
                    if method in ("lstm", "smoothing"):
                        above.plot(at, mean, color=inks[method], linewidth=1.3, label=method if number == 0 else None)
            above.set_title(name)
            above.legend(fontsize=8)
            cells = study.grouped([row for row in rows if row["series"] == name], ["missing", "method"], "mae")
            shares = sorted({missing for missing, _ in cells})
            for place, (missing, method) in enumerate((missing, method) for missing in shares for method in METHODS):
                if (missing, method) in cells:
                    mean, low, high = study.interval(cells[missing, method])
                    below.barh(place, mean, color=inks[method])
                    below.plot([low, high], [place, place], color="#222222")
            below.set_yticks(
                range(len(shares) * len(METHODS)), [f"{method}, {100 * missing:.0f} % missing" for missing in shares for method in METHODS]
            )
            below.invert_yaxis()
            below.set_xlabel("mean absolute error")

    return write_figure(path, (12.0, 7.5), fill)


def configs(names: Any, shares: Any, seeds: int, changes: dict[str, Any]) -> list[Config]:
    """Every method; seeds of the LSTM alone."""
    cut = {"sunspots": {"context": 33, "horizon": 11, "level": True}, "co2": {"context": 104, "horizon": 26, "level": False}}
    train = TrainConfig(**({"epochs": 200, "patience": 25, "learning_rate": 3e-3, "clip_norm": 1.0} | changes))
    found = []
    for name in names:
        for missing in shares:
            for method in METHODS:
                series = SeriesConfig(**cut[name], gaps=method == "lstm")
                task = ForecastConfig(series, ForecastModelConfig(dropout=0.1), train)
                count = seeds if method.startswith("lstm") else 1
                found += [Config(name, missing, method, replace(task, train=replace(train, seed=seed))) for seed in range(count)]
    return found


FULL = configs(SEASON, (0.0, 0.3), 3, {})
STUDY = study.Study("forecast", run, {"toy": configs(("sunspots",), (0.0,), 1, {"epochs": 2}), "full": FULL}, draw, verdict)

if __name__ == "__main__":
    sys.exit(study.main(STUDY))
