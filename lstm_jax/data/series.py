"""Time series, which are read from a table and cut into windows."""

import hashlib
import math
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lstm_jax.data.tables import table_rows
from lstm_jax.errors import InputError, require
from lstm_jax.files.reading import parsing

MISSING = ("", "na", "nan", "null", "none")
"""Texts that stand for a missing value, in lower case."""
DAY = 86_400


@dataclass(frozen=True)
class Series:
    """Time series of N values at increasing times."""

    times: np.ndarray
    """(N,) float64: the times, in days since 1970-01-01 if `dated` is true, else as the numbers in the table."""
    values: np.ndarray
    """(N,) float64: the value at each time."""
    dated: bool
    """Whether the times are dates."""
    skipped: int = 0
    """Number of rows of the table that were left out because they have no value."""

    def __len__(self) -> int:
        return len(self.values)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the times and the values."""
        return hashlib.sha256(self.times.tobytes() + self.values.tobytes()).hexdigest()

    @property
    def usual_gap(self) -> float:
        """Median time from one entry to the next, in the unit of `times`."""
        return float(np.median(np.diff(self._ticks)) / self._ticks_per_unit)

    @property
    def _ticks_per_unit(self) -> float:
        return DAY * 1e6 if self.dated else 1.0

    @property
    def _ticks(self) -> np.ndarray:
        """(N,) float64: the times, in whole microseconds if the series is dated.

        Days as float64 are not exact. Rounded to microseconds they are, from 1902 to 2038.
        """
        return self._in_ticks(self.times)

    def _in_ticks(self, times: np.ndarray) -> np.ndarray:
        return np.rint(times * self._ticks_per_unit) if self.dated else times

    def times_after(self, count: int) -> np.ndarray:
        """Return the times (count,) of further entries after the last one, each `usual_gap` after the entry before it."""
        times = self._ticks[-1] + np.median(np.diff(self._ticks)) * np.arange(1, count + 1)
        return (np.rint(times) if self.dated else times) / self._ticks_per_unit

    @property
    def gaps(self) -> np.ndarray:
        """Time between each entry and the entry before it, divided by `usual_gap`, as an array (N,). The first entry has the gap 1."""
        return np.concatenate([[1.0], self.gaps_between(self.times[:-1], self.times[1:])])

    def gaps_between(self, begins: np.ndarray, ends: np.ndarray) -> np.ndarray:
        """Return the differences ends - begins, divided by `usual_gap`. Both arrays are times in the unit of `times`."""
        return (self._in_ticks(ends) - self._in_ticks(begins)) / np.median(np.diff(self._ticks))

    def shown(self, time: float) -> str:
        """Return a time of this series as text: an ISO date if the series is dated, else a number with up to 15 digits.

        Raises:
            InputError: if the date is before the year 1 or after the year 9999.
        """
        if not self.dated:
            return f"{time:.15g}"
        with parsing(f"time {time:g} days since 1970", "a date ends with the year 9999: give the times as numbers"):
            digits = min(6, -math.ceil(math.log10(np.spacing(abs(time)) * DAY)))  # of the seconds, as many as float64 days have
            moment = datetime.fromtimestamp(round(time * DAY, digits), UTC)
        return moment.date().isoformat() if moment.time() == datetime.min.time() else moment.replace(tzinfo=None).isoformat()


def _time(text: str) -> tuple[float, bool] | None:
    """Parse a time, which is a number or an ISO date with or without a time of day.

    Returns:
        A pair (time, dated), or None if the text is neither a number nor a date. For a number, `time` is the number and `dated` is False.
        For a date, `time` is the number of days since 1970-01-01, with the time of day as a fraction, and `dated` is True.
    """
    try:
        return float(text), False
    except ValueError:
        pass
    try:
        moment = datetime.fromisoformat(text + "-01" if len(text) == 7 and text[4] == "-" else text)
    except (ValueError, OverflowError):
        return None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() / DAY, True


def read_series(path: Path, time: str = "time", value: str = "value") -> Series:
    """Read a time series from two columns of a CSV or JSON-lines file.

    A row without a value is left out. The gap between the rows before and after it is then longer.

    Args:
        path: the file.
        time: name of the column of the times.
        value: name of the column of the values.

    Raises:
        InputError: if the file cannot be read, a column is missing, a time is neither a number nor an ISO date, the times do not increase,
            the times are partly numbers and partly dates, or a value is not a finite number. The message names the line with the error.
            Also if fewer than two rows have a value, or if float64 cannot represent the gaps between the times divided by the median gap.
    """
    times: list[float] = []
    values: list[float] = []
    kinds: set[bool] = set()
    skipped = 0
    for number, row in table_rows(path):
        here = f"line {number} of {path}"
        for column, flag in ((time, "--time"), (value, "--value")):
            require(column in row, f"column {column!r} in {here}", f"there are {', '.join(map(str, row))}", f"name one with {flag}")
        text = str(row[value] if row[value] is not None else "").strip()
        if text.lower() in MISSING:
            skipped += 1
            continue
        try:
            found = float(text)
        except ValueError as error:
            raise InputError(f"{value!r} in {here}", repr(text), "give a number, or nothing where there is none") from error
        require(math.isfinite(found), f"{value!r} in {here}", text, "give a finite number, or nothing where there is none")
        moment = _time(str(row[time]).strip())
        if moment is None:
            raise InputError(f"{time!r} in {here}", repr(row[time]), "give a number, or a date as in 2026-11-25 or 2026-11-25T08:00")
        require(math.isfinite(moment[0]), f"{time!r} in {here}", repr(row[time]), "give a finite number, or a date")
        kinds.add(moment[1])
        require(len(kinds) == 1, f"{time!r} in {here}", repr(row[time]), "give numbers or dates, not both")
        require(not times or moment[0] > times[-1], f"{time!r} in {here}", repr(row[time]), "sort the rows by time, one row a time")
        times.append(moment[0])
        values.append(found)
    require(len(times) >= 2, f"rows of {path}", len(times), "give two or more with a value")
    series = Series(np.asarray(times), np.asarray(values), kinds == {True}, skipped)
    require(_is_even_enough(series), f"{time!r} of {path}", "gaps too wide or too unlike for numbers", "give times on another scale")
    return series


def _is_even_enough(series: Series) -> bool:
    """Return whether float64 can represent the gaps of a series divided by their median (`usual_gap`).

    A gap is the time from one entry to the next. The result is true if every quotient is finite and above 0, and the sum of all quotients
    is finite.
    """
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        gaps, whole = series.gaps, (series.times[-1] - series.times[0]) / series.usual_gap
    return bool((gaps > 0).all() and np.isfinite(gaps).all() and np.isfinite(whole))


class SeriesWindows(NamedTuple):
    """N windows of a time series. A window consists of C context entries, which a model reads, and the K targets that follow them."""

    read: np.ndarray
    """(N, C, 2): value of each context entry, and time since the previous entry in units of `Series.usual_gap`."""
    ahead: np.ndarray
    """(N, K): time from the window's last context entry to each target, in units of `Series.usual_gap`."""
    target: np.ndarray
    """(N, K): values of the targets."""
    origin: np.ndarray
    """(N,): index in the series of each window's first target."""


def series_windows(series: Series, context: int, horizon: int, first: int = 0, last: int = 0) -> SeriesWindows:
    """Return all windows of a time series whose targets lie in the entries `first` to `last` - 1.

    The windows overlap: each one starts one entry after the previous one.

    Args:
        series: the series.
        context: number of context entries of a window, which a model reads. They precede the targets and may lie before `first`.
        horizon: number of targets of a window.
        first: index of the first entry that may be a target.
        last: index after the last entry that may be a target. If 0, it is the length of the series.
    """
    last = last or len(series)
    origins = np.arange(max(first, context), last - horizon + 1)
    if len(origins) == 0:
        empty = np.zeros((0, horizon))
        return SeriesWindows(np.zeros((0, context, 2)), empty, empty, origins)
    both = np.stack([series.values, series.gaps], -1)
    back = origins[:, None] + np.arange(-context, 0)
    forth = origins[:, None] + np.arange(horizon)
    ahead = series.gaps_between(series.times[origins - 1][:, None], series.times[forth])
    return SeriesWindows(both[back], ahead, series.values[forth], origins)
