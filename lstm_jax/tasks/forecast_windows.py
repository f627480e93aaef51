"""Windows of a series as a forecasting model reads them.

The model reads C entries (`context`) and forecasts the next K (`horizon`). An entry has F features: its difference from the last entry
read; its own value if `level` is true in the config; the log of the time since the previous entry if `gaps` is true. The series is cut in
time into a training, a validation and a test split. A window belongs to the split that contains all entries that it forecasts.
"""

import math
from dataclasses import dataclass

import numpy as np

from lstm_jax import data
from lstm_jax.config import ForecastConfig
from lstm_jax.errors import require

MOST_SPREADS = 1e9
"""Largest allowed difference of two values, in standard deviations. Divided by the least predicted standard deviation and squared, it is
still finite in float32."""


@dataclass(frozen=True)
class Scale:
    """Mean and standard deviation (`spread`) of the values in the training split."""

    mean: float
    spread: float


@dataclass(frozen=True)
class Part:
    """W windows of one split. Unless a field says otherwise, the unit of values is the standard deviation of the training split."""

    entries: np.ndarray
    """(W, C, F): features of the entries that the model reads."""
    ahead: np.ndarray
    """(W, K): for k = 1 .. K, log((time from the last entry read to the k-th entry after it) / (k * `Series.usual_gap`)); 0 if the config
    sets `gaps` to false."""
    target: np.ndarray
    """(W, K): differences of the entries to forecast from the last entry read."""
    last: np.ndarray
    """(W,): the last entry that the model reads, in the units of the series."""
    origin: np.ndarray
    """(W,): index in the series of the first entry to forecast."""


def part_bounds(count: int, config: ForecastConfig) -> dict[str, tuple[int, int]]:
    """Return for each split the index of its first entry, and the index after its last entry; `count` is the length of the series."""
    test = count - round(count * config.data.test)
    held = test - round(count * config.data.validation)
    return {"train": (0, held), "validation": (held, test), "test": (test, count)}


def features_of(config: ForecastConfig) -> int:
    """Return the number of features of an entry."""
    return 1 + config.data.level + config.data.gaps


def make_part(windows: data.SeriesWindows, scale: Scale, config: ForecastConfig) -> Part:
    """Return windows with the features and in the units that the model reads.

    Raises:
        InputError: if a value is more than `MOST_SPREADS` standard deviations from the last entry read or from the mean.
    """
    values, gaps = windows.read[..., 0], windows.read[..., 1]
    last = values[:, -1]
    with np.errstate(over="ignore", invalid="ignore"):  # values that are not finite raise an error below
        features = [(values - last[:, None]) / scale.spread]
        features += [(values - scale.mean) / scale.spread] if config.data.level else []
        target = (windows.target - last[:, None]) / scale.spread
    for part in (*features, target):
        good = bool((np.abs(part) <= MOST_SPREADS).all())
        found = f"a value lies more than {MOST_SPREADS:g} spreads from another; the spread where trained on is {scale.spread:g}"
        require(good, f"values of {config.data.csv}", found, "leave out outliers, or give a series of one scale")
    features += [np.log(gaps)] if config.data.gaps else []
    usual = np.broadcast_to(np.arange(1.0, config.data.horizon + 1), windows.ahead.shape)
    ahead = np.log(windows.ahead / usual) if config.data.gaps else np.zeros_like(usual)
    return Part(np.stack(features, -1).astype(np.float32), ahead.astype(np.float32), target.astype(np.float32), last, windows.origin)


def parts_of(series: data.Series, config: ForecastConfig) -> tuple[dict[str, Part], Scale]:
    """Return the three splits by name, and the mean and standard deviation of the training split.

    Raises:
        InputError: if a split has no window, or if the values of the training split are all the same or too large to square.
    """
    bounds = part_bounds(len(series), config)
    scale = _scale(series.values[: bounds["train"][1]], config)
    parts = {}
    for name, (first, last) in bounds.items():
        windows = data.series_windows(series, config.data.context, config.data.horizon, first, last)
        found = f"{len(series)} entries, {name} part {last - first}, context {config.data.context}, horizon {config.data.horizon}"
        require(len(windows.origin) > 0, f"series {config.data.csv}", found, "give a longer series, or a shorter context or horizon")
        parts[name] = make_part(windows, scale, config)
    return parts, scale


def _scale(values: np.ndarray, config: ForecastConfig) -> Scale:
    with np.errstate(over="ignore", invalid="ignore"):
        scale = Scale(float(values.mean()), float(values.std())) if len(values) else Scale(0.0, 0.0)
    finite = math.isfinite(scale.mean) and math.isfinite(scale.spread)
    require(finite, f"values of {config.data.csv}", "too large to square", "give the series in a larger unit")
    require(scale.spread > 0, f"values of {config.data.csv}", "all the same where trained on", "give a series that varies")
    return scale
