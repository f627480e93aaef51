"""Time series, which are read from a table and cut into windows."""

import contextlib
import hashlib
import math
import os
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta, timezone
from typing import Any, NamedTuple

import numpy as np
from numpy import ndarray

from lstm_jax.base.checks import Count, CountOrNone, check_number, frozen
from lstm_jax.base.errors import InputError, parsing, require
from lstm_jax.base.types import AnyPath
from lstm_jax.base.writing import user_path
from lstm_jax.lab.files.tables import as_number, table_rows

MISSING = ("", "na", "n/a", "#n/a", "<na>", "nan", "null", "none")
"""Texts that stand for a missing value, in lower case."""
NUMBER = "a number"
DAY = 86_400
TICKS = DAY * 1e6
"""Microseconds of a day. The gaps between dates are computed in microseconds, in which
they are exact."""


@frozen
class Series:
    """Time series of N values at increasing times. Arrays and lists of numbers are
    converted to float64.

    Raises:
        InputError: if `times` and `values` are not arrays of the same length with
            finite numbers, or if the times do not increase.
    """

    times: ndarray
    """(N,) float64: the times, in days since 1970-01-01 if `dated` is true, else as the
    numbers in the table."""
    values: ndarray
    """(N,) float64: the value at each time."""
    dated: bool
    """Whether the times are dates."""
    skipped: int = 0
    """Number of rows of the table that were left out because they have no value."""
    name: str = "the series"
    """Name of the table, for error messages."""
    offset: timedelta | None = None
    """Offset from UTC of the last time in the table, with which `shown` writes dates.
    None if the dates in the table have no offset."""

    def __post_init__(self):
        for name in ("times", "values"):
            remedy = "give an array (N,) of finite numbers"
            with parsing(name, remedy):
                array = np.asarray(getattr(self, name), np.float64)
            require(
                array.ndim == 1 and np.isfinite(array).all(), name, repr(array), remedy
            )
            object.__setattr__(self, name, array)
        require(
            len(self.times) == len(self.values),
            "values",
            len(self.values),
            f"give one for each of the {len(self.times)} times",
        )
        require(
            (self.times[1:] > self.times[:-1]).all(),
            "times",
            repr(self.times),
            "give increasing ones",
        )

    def __len__(self) -> int:
        return len(self.values)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the times and the values."""
        return hashlib.sha256(self.times.tobytes() + self.values.tobytes()).hexdigest()

    @property
    def usual_gap(self) -> float:
        """Median time from one entry to the next, in the unit of `times`."""
        return float(self._median_ticks / (TICKS if self.dated else 1))

    def _in_ticks(self, times: ndarray) -> ndarray:
        return np.rint(times * TICKS) if self.dated else times

    @property
    def _median_ticks(self) -> Any:
        return np.median(np.diff(self._in_ticks(self.times)))

    def times_after(self, count: int) -> ndarray:
        """Return the times (count,) of further entries, calendar months apart if all
        entries keep to these, else `usual_gap`.
        """
        ahead = np.arange(1, count + 1)
        ticks = self._in_ticks(self.times)
        # one day of each month; the last day
        for shift in (0, DAY * 1_000_000) if self.dated and len(self) > 1 else ():
            moments = (ticks + shift).astype("datetime64[us]")
            months = moments.astype("datetime64[M]")
            days = moments - months
            if (days == days[0]).all():
                step = int(np.median(np.diff(months).astype(np.int64)))
                return (
                    (months[-1] + step * ahead + days[0]).astype(np.int64) - shift
                ) / TICKS
        times = ticks[-1] + self._median_ticks * ahead
        return np.rint(times) / TICKS if self.dated else times

    def numbers(self, times: ndarray | Sequence) -> ndarray:
        """Return times as float64 numbers in the unit of `times`.

        They are numbers in this unit or, for a dated series, dates: datetime64 in UTC,
        `datetime.date`, or `datetime.datetime`, in UTC if it has no offset. An
        `InputError` is raised for others.
        """
        remedy = (
            "give numbers, or dates such as datetime64"
            if self.dated
            else "give numbers, as the series has"
        )
        # NumPy fails on lists of unequal lengths, and on integers beyond float64
        with parsing("times", remedy):
            found = np.asarray(times)
            objects = found.ravel().tolist() if found.dtype == object else []
            if objects and all(isinstance(t, date | np.datetime64) for t in objects):
                moments = [_in_utc(time) for time in objects]
                found = np.asarray(moments, "datetime64[us]").reshape(found.shape)
            if found.dtype.kind == "M":
                require(self.dated, "times", found.dtype, remedy)
                exact = found.astype("datetime64[us]")
                # NumPy wraps around what microseconds do not hold; NaT equals nothing
                held = exact.astype("datetime64[Y]") == found.astype("datetime64[Y]")
                remedy = "give times that datetime64 holds in microseconds"
                require(held.all(), "times", found[~held][:1].tolist(), remedy)
                return exact.astype(np.float64) / TICKS
            require(found.dtype.kind in "iuf", "times", found.tolist(), remedy)
            return found.astype(np.float64)

    @property
    def gaps(self) -> ndarray:
        """Time between each entry and the entry before it, divided by `usual_gap`, as
        an array (N,). The first entry has the gap 1.
        """
        return np.concatenate(
            [[1.0], self.gaps_between(self.times[:-1], self.times[1:])]
        )

    def gaps_between(self, begins: ndarray, ends: ndarray) -> ndarray:
        """Return the differences ends - begins, divided by `usual_gap`. Both arrays are
        times in the unit of `times`.
        """
        return (self._in_ticks(ends) - self._in_ticks(begins)) / self._median_ticks

    def shown(self, time: float) -> str:
        """Return a time of this series as text: an ISO date if the series is dated,
        else a number with up to 15 digits.

        With `offset`, a date is written with its time of day and this offset. Without
        it, the time of day is left out if it is 00:00.

        Raises:
            InputError: if the date is before the year 1 or after the year 9999.
        """
        if not self.dated:
            return f"{time:.15g}"
        with parsing(
            f"time {time:g} days since 1970",
            "a date ends with the year 9999: give the times as numbers",
        ):
            # of the seconds, as many as float64 days have
            digits = min(6, -math.ceil(math.log10(np.spacing(abs(time)) * DAY)))
            moment = datetime.fromtimestamp(round(time * DAY, digits), UTC)
            if self.offset is not None:
                return moment.astimezone(timezone(self.offset)).isoformat()
        return (
            moment.date().isoformat()
            if moment.time() == datetime.min.time()
            else moment.replace(tzinfo=None).isoformat()
        )


def _in_utc(time):
    return (
        time.astimezone(UTC).replace(tzinfo=None)
        if isinstance(time, datetime) and time.utcoffset() is not None
        else time
    )


_BASIC_DATES = {
    "%Y%m": 7,
    "%y%m%d": 10,
    "%Y%j": 10,
    "%Y%m%d": 10,
    "%Y%m%d%H": 16,
    "%Y%m%d%H%M": 16,
    "%Y%m%d%H%M%S": 19,
}
"""Dict from the format of a date in digits alone to the length of the same date in the
ISO format."""


def _basic_date(text: str) -> str:
    """Return the ISO date of a text that looks like a date in digits alone, such as
    202611 (a month), 20261125 or 2026329; else "".
    """
    for form, length in _BASIC_DATES.items():
        with contextlib.suppress(ValueError):
            moment = datetime.strptime(text, form)
            if moment.strftime(form) == text and (
                len(text) == 8 or 1900 <= moment.year < 2100
            ):
                return moment.isoformat()[:length]
    return ""


def _read_time(text: str, subject: str):
    """Parse the time of a row, and return it as a number or in days since 1970-01-01,
    its form, and its offset from UTC.
    """
    if (number := as_number(text)) is not None:
        require(
            math.isfinite(number),
            subject,
            repr(text),
            "give a finite number, or a date",
        )
        return number, NUMBER, None
    with parsing(
        subject, "give a number, or a date as in 2026-11-25 or 2026-11-25T08:00"
    ):
        date = datetime.fromisoformat(
            text + "-01" if len(text) == 7 and text[4] == "-" else text
        )
        offset = date.utcoffset()
        seconds = (date.replace(tzinfo=UTC) if offset is None else date).timestamp()
    return (
        seconds / DAY,
        f"a date with {'no' if offset is None else 'an'} offset from UTC",
        offset,
    )


def read_series(path: AnyPath, time: str = "time", value: str = "value") -> Series:
    """Read a time series from two columns of a CSV or JSON-lines file.

    A row without a value is left out. The series then has one longer gap, from the
    previous row to the next row.

    A time in digits alone, such as 20261125, is a number. If all times look like dates
    in such a format, and the numbers would have a wide gap at the end of a day, a month
    or a year, the series is refused.

    A date may have an offset from UTC, which may change within the file, for example
    because of summer time. If no date has an offset, all are read as UTC.

    Args:
        path: the file.
        time: name of the column of the times.
        value: name of the column of the values.

    Raises:
        InputError: if the file cannot be read, lacks a column, or separates its columns
            by semicolons or tabs; if a value is not a finite number, or a time neither
            a finite number nor an ISO date; if the times do not increase or are of
            several kinds; if fewer than two rows have a value; or if float64 cannot
            represent the gaps.
    """
    path = user_path(os.fspath(path))
    times, values = [], []
    form, offset, when, skipped, basic = "", None, "", 0, "yes"
    for number, row in table_rows(path, {time: "--time", value: "--value"}):
        here = f"line {number} of {path}"
        text = str(row.get(value)).strip()
        if text.lower() in MISSING:
            skipped += 1
            continue
        found = as_number(text)
        if found is None or not math.isfinite(found):
            raise InputError(
                f"{value!r} in {here}",
                repr(text),
                "give a finite number, or nothing where there is none",
            )
        when = str(row.get(time)).strip()
        subject = f"{time!r} in {here}"
        before = form
        moment, form, offset = _read_time(when, subject)
        if times:
            same = (
                "give numbers, dates with an offset as in 2026-11-25T08:00+01:00, "
                "or dates without one"
            )
            require(
                form == before, subject, f"{when!r}, the row before has {before}", same
            )
            require(
                moment > times[-1],
                subject,
                repr(when),
                "sort the rows by time, one row a time",
            )
        basic = basic and _basic_date(when)
        times.append(moment)
        values.append(found)
    require(
        len(times) > 1, f"rows of {path}", len(times), "give two or more with a value"
    )
    # numbers of months of one year, or of days of one month or year, have no wide gaps
    evenly = {6: 100, 7: 1000}.get(len(when), 0)
    if basic and not (evenly and times[0] // evenly == times[-1] // evenly):
        remedy = f"write {basic} for a date, or {when}.0 for a number"
        raise InputError(
            f"{time!r} of {path}", f"{when} and all others look like dates", remedy
        )
    series = Series(
        np.asarray(times),
        np.asarray(values),
        form != NUMBER,
        skipped,
        str(path),
        offset,
    )
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        gaps = series.gaps
        whole = (series.times[-1] - series.times[0]) / series.usual_gap
    even = (gaps > 0).all() and np.isfinite(gaps).all() and np.isfinite(whole)
    require(
        even,
        f"{time!r} of {path}",
        "gaps too wide or too unlike for numbers",
        "give times on another scale",
    )
    return series


class SeriesWindows(NamedTuple):
    """N windows of a time series. A window consists of C context entries, which a model
    reads, and the K targets that follow them.
    """

    read: ndarray
    """(N, C, 2): value of each context entry, and time since the previous entry in
    units of `Series.usual_gap`."""
    ahead: ndarray
    """(N, K): time from the window's last context entry to each target, in units of
    `Series.usual_gap`."""
    target: ndarray
    """(N, K): values of the targets."""
    origin: ndarray
    """(N,): index in the series of each window's first target."""


def series_windows(
    series: Series, context: int, horizon: int, first: int = 0, last: int = 0
) -> SeriesWindows:
    """Return all windows of a series whose targets lie in the entries `first` to
    `last` - 1.

    Args:
        series: the series.
        context: number of context entries of a window, which may lie before `first`.
        horizon: number of targets of a window.
        first: index of the first entry that may be a target.
        last: index after the last entry that may be a target, or 0 for the end.

    Raises:
        InputError: if a number is out of range.
    """
    context = check_number("context", context, Count)
    horizon = check_number("horizon", horizon, Count)
    first = check_number("first", first, CountOrNone)
    last = check_number("last", last, CountOrNone)
    require(
        last <= len(series),
        "last",
        last,
        f"the series has {len(series)} entries: give at most as many",
    )
    last = last or len(series)
    origins = np.arange(max(first, context), last - horizon + 1)
    both = np.stack([series.values, series.gaps], -1)
    back = origins[:, None] + np.arange(-context, 0)
    forth = origins[:, None] + np.arange(horizon)
    ahead = series.gaps_between(series.times[origins - 1][:, None], series.times[forth])
    return SeriesWindows(both[back], ahead, series.values[forth], origins)
