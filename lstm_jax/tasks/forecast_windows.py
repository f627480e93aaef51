"""Windows of a time series, converted to the features and units that a forecasting model reads.

In each window, the model reads C entries and forecasts the K entries that follow them. In the config, C is `context` and K is `horizon`.
Each entry that the model reads has F features, in this order:

1. the value of the entry minus the value of the last entry that the model reads in the window;
2. if `level` is true in the config, the value of the entry minus the mean of the training split;
3. if `gaps` is true in the config, log(t / g), where t is the time since the previous entry and g the median gap (`Series.usual_gap`).

The differences in 1 and 2 are in units of the standard deviation of the training split.

The training, validation and test splits are three consecutive parts of the series. A window belongs to the split that contains the K
entries that the model forecasts. The C entries that it reads may lie in an earlier split. Windows whose K entries lie in two splits are not
used.
"""

import math
from dataclasses import dataclass

import numpy as np

from lstm_jax import data
from lstm_jax.config import ForecastConfig
from lstm_jax.errors import require

MOST_SPREADS = 1e9
"""Largest allowed difference of two values, in standard deviations of the training split; see `make_part`.

A value is compared with the last value that the model reads in the same window, or with the mean of the training split. Up to this
difference the loss is finite in float32, even with the least standard deviation that the model can predict.
"""


@dataclass(frozen=True)
class Scale:
    """Mean (`mean`) and standard deviation (`spread`) of the values in the training split of a series."""

    mean: float
    spread: float


@dataclass(frozen=True)
class Part:
    """W windows of one split (training, validation or test) of a series, with the inputs and the targets of the model.

    In each window the model reads C entries with F features each, and forecasts the next K entries. `target` and the first feature of
    `entries` are differences from the value of the last entry that the model reads in the window, divided by the standard deviation of the
    training split.
    """

    entries: np.ndarray
    """(W, C, F): features of the entries that the model reads."""
    ahead: np.ndarray
    """(W, K): encoded times of the K entries to forecast. The time t of the k-th entry, measured from the last entry that the model reads,
    is encoded as log(t / (k g)). Here g is the median gap between entries (`Series.usual_gap`), so that evenly spaced entries have the
    value 0. If the config sets `gaps` to false, all values are 0."""
    target: np.ndarray
    """(W, K): value of each entry to forecast minus the value of the last entry that the model reads, divided by the standard deviation of
    the training split."""
    last: np.ndarray
    """(W,): value of the last entry that the model reads, in the units of the series."""
    origin: np.ndarray
    """(W,): index in the series of the first entry to forecast."""


def part_bounds(count: int, config: ForecastConfig) -> dict[str, tuple[int, int]]:
    """Return where the training, validation and test splits of a series of `count` entries begin and end."""
    test = count - round(count * config.data.test)
    held = test - round(count * config.data.validation)
    return {"train": (0, held), "validation": (held, test), "test": (test, count)}


def features_of(config: ForecastConfig) -> int:
    """Return the number of features that the model reads for each entry of a series."""
    return 1 + config.data.level + config.data.gaps


def make_part(windows: data.SeriesWindows, scale: Scale, config: ForecastConfig, name: str) -> Part:
    """Return windows of a series as a `Part`, which holds the features that the model reads and the values that it is to forecast."""
    values, gaps = windows.read[..., 0], windows.read[..., 1]
    last = values[:, -1]
    with np.errstate(over="ignore", invalid="ignore"):  # values that are not finite raise an error below
        features = [(values - last[:, None]) / scale.spread]
        features += [(values - scale.mean) / scale.spread] if config.data.level else []
        target = (windows.target - last[:, None]) / scale.spread
    for part in (*features, target):
        good = bool((np.abs(part) <= MOST_SPREADS).all())
        found = f"a value lies more than {MOST_SPREADS:g} spreads from another; the spread where trained on is {scale.spread:g}"
        require(good, f"values of {name}", found, "leave out outliers, or give a series of one scale")
    features += [np.log(gaps)] if config.data.gaps else []
    usual = np.broadcast_to(np.arange(1.0, config.data.horizon + 1), windows.ahead.shape)
    ahead = np.log(windows.ahead / usual) if config.data.gaps else np.zeros_like(usual)
    return Part(np.stack(features, -1).astype(np.float32), ahead.astype(np.float32), target.astype(np.float32), last, windows.origin)


def parts_of(series: data.Series, config: ForecastConfig) -> tuple[dict[str, Part], Scale]:
    """Cut a series into the windows of its training, validation and test splits."""
    bounds = part_bounds(len(series), config)
    scale = _scale(series.values[: bounds["train"][1]], series.name)
    parts = {}
    for name, (first, last) in bounds.items():
        windows = data.series_windows(series, config.data.context, config.data.horizon, first, last)
        found = f"{len(series)} entries, {name} part {last - first}, context {config.data.context}, horizon {config.data.horizon}"
        require(len(windows.origin) > 0, f"length of {series.name}", found, "give a longer series, or a shorter context or horizon")
        parts[name] = make_part(windows, scale, config, series.name)
    return parts, scale


def _scale(values: np.ndarray, name: str) -> Scale:
    with np.errstate(over="ignore", invalid="ignore"):
        scale = Scale(float(values.mean()), float(values.std())) if len(values) else Scale(0.0, 0.0)
    finite = math.isfinite(scale.mean) and math.isfinite(scale.spread)
    require(finite, f"values of {name}", "too large to square", "give the series in a larger unit")
    varies = len(values) > 0 and values.max() > values.min()  # rounding may give equal values a spread above 0
    require(bool(varies) and scale.spread > 0, f"values of {name}", "all the same where trained on", "give a series that varies")
    return scale
