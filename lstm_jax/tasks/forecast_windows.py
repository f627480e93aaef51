"""Windows of a series as a forecasting model reads them.

The model reads `context` entries: the difference of each from the last one, its own value if asked, and the time since the previous entry
if asked. The series is cut in time into training, validation and test part; a window belongs to the part that all its targets lie in.
"""

import math
from dataclasses import dataclass

import numpy as np

from lstm_jax import data
from lstm_jax.config import ForecastConfig
from lstm_jax.errors import require

MOST_SPREADS = 1e9
"""Largest difference of two values, in standard deviations: its square stays a float32 even over the least standard deviation."""


@dataclass(frozen=True)
class Scale:
    """Mean and standard deviation of the values in the training part."""

    mean: float
    spread: float


@dataclass(frozen=True)
class Part:
    """Windows of one part; values are in standard deviations of the training part."""

    entries: np.ndarray
    """(W, C, F): features of the entries read."""
    ahead: np.ndarray
    """(W, K): log of the time to each entry ahead, over the usual time."""
    target: np.ndarray
    """(W, K): differences from the last entry read."""
    last: np.ndarray
    """(W,): the last entry read, in the units of the series."""
    origin: np.ndarray
    """(W,): number of the first entry ahead."""


def part_bounds(count: int, config: ForecastConfig) -> dict[str, tuple[int, int]]:
    """Return the first entry of each part, and the one after its last."""
    test = count - round(count * config.data.test)
    held = test - round(count * config.data.validation)
    return {"train": (0, held), "validation": (held, test), "test": (test, count)}


def features_of(config: ForecastConfig) -> int:
    """Return the number of features of an entry."""
    return 1 + config.data.level + config.data.gaps


def make_part(windows: data.SeriesWindows, scale: Scale, config: ForecastConfig) -> Part:
    """Return windows as the model reads them.

    Raises:
        InputError: for a value more than `MOST_SPREADS` standard deviations from others, which float32 would turn into infinity.
    """
    values, gaps = windows.read[..., 0], windows.read[..., 1]
    last = values[:, -1]
    with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is refused below
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
    """Return the three parts by name, and the scale of the training part.

    Raises:
        InputError: if a part has no window, or all values of the training part are the same.
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
