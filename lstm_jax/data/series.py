"""Time series read from a table, and their windows."""

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
"""Spellings of a missing value, in lower case."""
DAY = 86_400


@dataclass(frozen=True)
class Series:
    """N values at increasing times."""

    times: np.ndarray
    """(N,) float64: days since 1970 if `dated`, else as given."""
    values: np.ndarray
    """(N,) float64."""
    dated: bool
    """Whether times are dates."""
    skipped: int = 0
    """Rows of the table without a value."""

    def __len__(self) -> int:
        return len(self.values)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of times and values."""
        return hashlib.sha256(self.times.tobytes() + self.values.tobytes()).hexdigest()

    @property
    def usual_gap(self) -> float:
        """The median time from one entry to the next."""
        return float(np.median(np.diff(self.times)))

    @property
    def gaps(self) -> np.ndarray:
        """(N,) time since the previous entry, in usual gaps; 1 for the first entry."""
        return np.concatenate([[1.0], np.diff(self.times) / self.usual_gap])

    def shown(self, time: float) -> str:
        """Return a time as the text of a date, if the series is dated, else of a number.

        Raises:
            InputError: for a date before the year 1 or after 9999.
        """
        if not self.dated:
            return f"{time:g}"
        with parsing(f"time {time:g} days since 1970", "a date ends with the year 9999: give the times as numbers"):
            moment = datetime.fromtimestamp(time * DAY, UTC)
        return moment.date().isoformat() if moment.time() == datetime.min.time() else moment.replace(tzinfo=None).isoformat()


def _time(text: str) -> tuple[float, bool] | None:
    """Return a number, or days since 1970 for a date, and whether it is a date; None if it is neither."""
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
    """Return the series in two columns of a CSV or JSON-lines file. A row without a value is left out, which leaves a longer gap.

    Args:
        path: the file.
        time: column of the times.
        value: column of the values.

    Raises:
        InputError: naming the line, for a missing column, a time that is no number and no ISO date, times that do not increase or mix
            numbers and dates, a value that is no number; for fewer than two rows.
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
    """Return whether each gap and their sum are finite and above 0 when counted in usual gaps."""
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        gaps, whole = series.gaps, (series.times[-1] - series.times[0]) / series.usual_gap
    return bool((gaps > 0).all() and np.isfinite(gaps).all() and np.isfinite(whole))


class SeriesWindows(NamedTuple):
    """W windows of C entries, each with K targets."""

    read: np.ndarray
    """(W, C, 2): value and gap of each entry."""
    ahead: np.ndarray
    """(W, K): times of the targets since the window's last entry, in usual gaps."""
    target: np.ndarray
    """(W, K): values of the targets."""
    origin: np.ndarray
    """(W,): number of the first target in the series."""


def series_windows(series: Series, context: int, horizon: int, first: int = 0, last: int = 0) -> SeriesWindows:
    """Return every window whose targets lie in a range of entries.

    Args:
        series: the series.
        context: entries of a window, before its targets.
        horizon: targets of a window.
        first: first entry that may be a target.
        last: end of the range, exclusive; 0: the series' end.
    """
    last = last or len(series)
    origins = np.arange(max(first, context), last - horizon + 1)
    if len(origins) == 0:
        empty = np.zeros((0, horizon))
        return SeriesWindows(np.zeros((0, context, 2)), empty, empty, origins)
    both = np.stack([series.values, series.gaps], -1)
    back = origins[:, None] + np.arange(-context, 0)
    forth = origins[:, None] + np.arange(horizon)
    ahead = (series.times[forth] - series.times[origins - 1][:, None]) / series.usual_gap
    return SeriesWindows(both[back], ahead, series.values[forth], origins)
