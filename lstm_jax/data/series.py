"""A series of numbers at times, from a table; its windows."""

import hashlib
import math
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lstm_jax.data.tables import table_rows
from lstm_jax.errors import InputError, require

MISSING = ("", "na", "nan", "null", "none")
"""Values that stand for none, in any case."""
DAY = 86_400


@dataclass(frozen=True)
class Series:
    """times: float64 (N,), increasing, days since 1970 where `dated`, else as given; values: float64 (N,); skipped: rows without a value;
    fingerprint: SHA-256 of times and values."""

    times: np.ndarray
    values: np.ndarray
    dated: bool
    skipped: int = 0

    def __len__(self) -> int:
        return len(self.values)

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256(self.times.tobytes() + self.values.tobytes()).hexdigest()

    @property
    def usual_gap(self) -> float:
        """The median time from one entry to the next."""
        return float(np.median(np.diff(self.times)))

    @property
    def gaps(self) -> np.ndarray:
        """(N,): the time since the entry before in usual gaps; 1 for the first."""
        return np.concatenate([[1.0], np.diff(self.times) / self.usual_gap])

    def shown(self, time: float) -> str:
        """A time as a date, or as a number."""
        if not self.dated:
            return f"{time:g}"
        moment = datetime.fromtimestamp(time * DAY, UTC)
        return moment.date().isoformat() if moment.time() == datetime.min.time() else moment.replace(tzinfo=None).isoformat()


def _time(text: str) -> tuple[float, bool] | None:
    """Days or a number, and whether it is a date; None if it is neither."""
    try:
        return float(text), False
    except ValueError:
        pass
    try:
        moment = datetime.fromisoformat(text + "-01" if len(text) == 7 and text[4] == "-" else text)
    except ValueError:
        return None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() / DAY, True


def read_series(path: Path, time: str = "time", value: str = "value") -> Series:
    """The series of two columns of a CSV or JSON-lines file. A row without a value is left out: it leaves a longer gap.

    Raises:
        InputError: naming the line, for a column that is not there, a time that is no number and no ISO date, times that do not increase or
            of both kinds, a value that is no number; for fewer than two rows.
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
        kinds.add(moment[1])
        require(len(kinds) == 1, f"{time!r} in {here}", repr(row[time]), "give numbers or dates, not both")
        require(not times or moment[0] > times[-1], f"{time!r} in {here}", repr(row[time]), "sort the rows by time, one row a time")
        times.append(moment[0])
        values.append(found)
    require(len(times) >= 2, f"rows of {path}", len(times), "give two or more with a value")
    return Series(np.asarray(times), np.asarray(values), kinds == {True}, skipped)


class SeriesWindows(NamedTuple):
    """read: (W, C, 2): each entry's value and gap; ahead: (W, K): times of the targets since the last entry read, in usual gaps; target:
    (W, K); origin: (W,): the number of the first target."""

    read: np.ndarray
    ahead: np.ndarray
    target: np.ndarray
    origin: np.ndarray


def series_windows(series: Series, context: int, horizon: int, first: int = 0, last: int = 0) -> SeriesWindows:
    """Every window whose targets are entries `first` to `last` - 1 (0: all), with the `context` entries before them."""
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
