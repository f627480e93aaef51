"""Time series: reading them from tables, their gaps, and their windows."""

import re
from datetime import timedelta

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from refused import refused

from lstm_jax.lab.forecast.data import Series, read_series, series_windows


def write(path, *lines: str):
    path.write_text("\n".join(lines) + "\n")
    return path


def test_dates_numbers_and_missing_values(tmp_path):
    path = write(
        tmp_path / "a.csv",
        "when,sold,more",
        "2026-01-01,1,x",
        "2026-01-02,,x",
        "2026-01-03,N/A,x",
        "2026-01-05T12:00,4.5,x",
    )
    series = read_series(path, "when", "sold")
    assert_array_equal(series.values, [1, 4.5])
    assert_allclose(np.diff(series.times), [4.5])
    assert (series.dated, series.skipped, len(series)) == (True, 2, 2)
    assert [series.shown(t) for t in series.times] == [
        "2026-01-01",
        "2026-01-05T12:00:00",
    ]
    months = read_series(
        write(
            tmp_path / "m.csv",
            "time,value",
            "1958-03,315.7",
            "1958-04,317.5",
            "1958-05,317.6",
        )
    )
    assert_array_equal(np.diff(months.times), [31, 30])
    assert months.shown(months.times[0]) == "1958-03-01"
    numbers = read_series(
        write(
            tmp_path / "n.jsonl",
            '{"time": 0.5, "value": 1}',
            '{"time": 2, "value": null}',
            '{"time": 3, "value": -2}',
        )
    )
    assert_array_equal(numbers.times, [0.5, 3])
    assert (numbers.dated, numbers.skipped) == (False, 1)
    assert [numbers.shown(time) for time in (1764061201.25, 20261128.0)] == [
        "1764061201.25",
        "20261128",
    ]


def test_times_of_day_are_exact(tmp_path):
    """Times that are microseconds apart have exact gaps and are shown exactly; a time
    of the year 1700 is shown to the second.

    Times are stored as days since 1970-01-01 in float64. In 1700, the distance between
    adjacent float64 numbers exceeds one microsecond.
    """
    lines = [f"2026-11-25T08:00:00.{n:06},1" for n in (0, 1, 2, 3, 5, 7, 8, 9)]
    series = read_series(write(tmp_path / "a.csv", "time,value", *lines))
    assert_array_equal(series.gaps, [1, 1, 1, 1, 2, 2, 1, 1])
    assert_array_equal(
        series_windows(series, 3, 2).ahead, [[1, 3], [2, 4], [2, 3], [1, 2]]
    )
    assert [series.shown(t) for t in series.times] == [
        line[:-2].removesuffix(".000000") for line in lines
    ]
    old = read_series(
        write(tmp_path / "b.csv", "time,value", "1700-11-25T08:07:07,1", "1700-11-26,1")
    )
    assert [old.shown(t) for t in old.times] == ["1700-11-25T08:07:07", "1700-11-26"]


@pytest.mark.parametrize(
    ("lines", "found"),
    [
        (["1,2", "1,3"], "'time' in line 3 of .*: '1'; sort the rows by time"),
        (
            ["1,2", "2026-01-01,3"],
            "'time' in line 3 of .*: '2026-01-01', the row before has a "
            "number; give numbers, dates with an offset",
        ),
        (["soon,2"], "'time' in line 2 of .*: 'soon'; give a number, or a date"),
        (
            ["10000-01-01,1"],
            "'time' in line 2 of .*: '10000-01-01'; give a number, or a date",
        ),
        (["inf,1"], "'time' in line 2 of .*: 'inf'; give a finite number"),
        (["2024_01,2"], "'time' in line 2 of .*: '2024_01'; give a number, or a date"),
        (
            ["1,much"],
            "'value' in line 2 of .*: 'much'; give a finite number, or nothing",
        ),
        (
            ["1,1_000"],
            "'value' in line 2 of .*: '1_000'; give a finite number, or nothing",
        ),
        (["1,inf"], "'value' in line 2 of .*: 'inf'; give a finite number"),
        (["1,2"], "rows of .*: 1; give two or more with a value"),
        (["0,1", "1e-300,2", "1e300,3", "2e300,4"], "'time' of .*: gaps too wide"),
        (
            ["2026-01-01,1", "2026-01-02T00:00Z,2"],
            "'time' in line 3 of .*: .*, the row before has a date with no "
            "offset from UTC",
        ),
        (
            ["2026-01-01T00:00+02:00,1", "2026-01-02,2"],
            "'time' in line 3 of .*: .*, the row before has a date with an "
            "offset from UTC",
        ),
    ],
)
def test_what_is_wrong(tmp_path, lines, found):
    refused(
        f"^{found}", read_series, write(tmp_path / "series.csv", "time,value", *lines)
    )


def test_a_header_that_is_wrong(tmp_path):
    for lines, subject in (
        (("", "time,value"), "line 1 of .*: empty"),
        (("when,value", "1,2"), "column 'time' in line 1 of .*--time"),
    ):
        refused(f"^{subject}", read_series, write(tmp_path / "a.csv", *lines))


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("times", ["a", "b", "c"]),
        ("times", [[0], [1], [2]]),
        ("times", [0, 1, 1]),
        ("values", [0, np.nan, 2]),
        ("values", [0, 0]),
    ],
)
def test_a_series_that_is_none(name, value):
    refused(
        f"^{name}: ",
        Series,
        **{
            "times": np.arange(3.0),
            "values": np.zeros(3),
            "dated": False,
            name: np.array(value),
        },
    )


def test_dates_without_hyphens(tmp_path):
    """Times that all look like dates without hyphens, such as 20261130, are refused.

    If they were read as numbers, the gap between November 30 and December 1 would be 71
    instead of 1. If only some of the times look like dates, all of them are read as
    numbers.
    """
    lines = ["20261128,1", "20261129,2", "20261130,3", "20261201,4"]
    path = tmp_path / "a.csv"
    for times, shown in (
        (("20261130", "20261201"), "2026-12-01"),
        (("20261128230000", "20261128230005"), "2026-11-28T23:00:05"),
        (("240131", "240201"), "2024-02-01"),
        (("2023365", "2024001"), "2024-01-01"),
        (("202412", "202501"), "2025-01"),
    ):
        refused(
            f"write {shown} for a date, or {times[1]}.0 for a number",
            read_series,
            write(path, "time,value", *(f"{time},1" for time in times)),
        )
    # seconds since 1970
    assert not read_series(
        write(path, "time,value", "1712011200,1", "1712011260,2")
    ).dated
    # months of one year, days of one month, days of one year, and no dates
    for numbers in (
        (202501, 202502),
        (240130, 240131),
        (2024001, 2024002),
        (202511, 202512, 202513),
        (212511, 212601),
    ):
        assert not read_series(
            write(path, "time,value", *(f"{number},1" for number in numbers))
        ).dated
    # not all of them are dates of 8 digits
    for more in ("20261232,5", "20261202.0,5", "100000000,5"):
        series = read_series(write(path, "time,value", *lines, more))
        assert (series.dated, series.times[3] - series.times[2]) == (False, 71)


@pytest.mark.parametrize(
    ("mark", "lines", "shown"),
    [
        (";", ['"time";"value";more', "2026-01-01;1,5;x"], "semicolons; "),
        ("\t", ["time\tvalue", "1\t2.5"], "tabs; "),
    ],
)
def test_columns_that_commas_do_not_separate(tmp_path, mark, lines, shown):
    found = (
        rf"separated by {shown}give commas, .*read_csv\('semi.csv', "
        rf"sep={re.escape(repr(mark))},"
    )
    refused(found, read_series, write(tmp_path / "semi.csv", *lines))
    assert read_series(
        write(tmp_path / "name.csv", "a;b,value", "1,2", "2,3"), "a;b"
    ).values.tolist() == [2, 3]


def test_times_with_an_offset_from_utc(tmp_path):
    """Times with an offset from UTC have the right gaps when summer time ends, and are
    shown with the offset of the last entry.
    """
    lines = [
        "2026-10-25T00:00+02:00,1",
        "2026-10-25T02:00+02:00,2",
        "2026-10-25T03:00+01:00,3",
    ]
    series = read_series(str(write(tmp_path / "a.csv", "time,value", *lines)))
    assert_allclose(np.diff(series.times) * 24, [2, 2])
    assert series.offset == timedelta(hours=1)
    assert [series.shown(t) for t in series.times] == [
        f"2026-10-{day}:00:00+01:00" for day in ("24T23", "25T01", "25T03")
    ]
    assert series.shown(series.times_after(11)[-1]) == "2026-10-26T01:00:00+01:00"
    zulu = read_series(
        write(
            tmp_path / "z.csv",
            "time,value",
            "2026-01-01T00:00:00.5Z,1",
            "2026-01-02T00:00Z,2",
        )
    )
    assert [zulu.shown(t) for t in zulu.times] == [
        "2026-01-01T00:00:00.500000+00:00",
        "2026-01-02T00:00:00+00:00",
    ]
    refused("a date ends with the year 9999", zulu.shown, 3e6)


@pytest.mark.parametrize(
    ("times", "following"),
    [
        (["2019-11", "2019-12", "2020-01"], ["2020-02-01", "2020-03-01"]),
        (["2023-11-30", "2023-12-31", "2024-01-31"], ["2024-02-29", "2024-03-31"]),
        (
            ["2024-01-15T12:00", "2024-04-15T12:00", "2024-07-15T12:00"],
            ["2024-10-15T12:00:00", "2025-01-15T12:00:00"],
        ),
        (["2020-02-01", "2021-02-01"], ["2022-02-01", "2023-02-01"]),
        (["2020-01-30", "2020-01-31", "2020-02-01"], ["2020-02-02", "2020-02-03"]),
        (["2020-01-30", "2020-02-29", "2020-03-30"], ["2020-04-29", "2020-05-29"]),
    ],
)
def test_further_times(tmp_path, times, following):
    series = read_series(
        write(tmp_path / "a.csv", "time,value", *(f"{time},1" for time in times))
    )
    assert [series.shown(time) for time in series.times_after(2)] == following


@given(
    st.integers(2, 12),
    st.integers(1, 5),
    st.integers(1, 4),
    st.integers(0, 6),
    st.integers(0, 12),
    st.integers(0, 99),
)
def test_windows(count, context, horizon, first, last, seed):
    """Each window holds the entries before and after its origin, and all of its targets
    lie in the entries `first` to `last` - 1.
    """
    rng = np.random.default_rng(seed)
    last = min(last, count) or count
    series = Series(
        np.cumsum(rng.integers(1, 4, count)).astype(float),
        rng.normal(size=count),
        False,
    )
    found = series_windows(series, context, horizon, first, last)
    origins = [
        n for n in range(count) if n >= context and first <= n and n + horizon <= last
    ]
    assert found.origin.tolist() == origins
    for number, origin in enumerate(origins):
        assert_array_equal(
            found.read[number, :, 0], series.values[origin - context : origin]
        )
        assert_array_equal(
            found.read[number, :, 1], series.gaps[origin - context : origin]
        )
        assert_array_equal(
            found.target[number], series.values[origin : origin + horizon]
        )
        apart = (
            series.times[origin : origin + horizon] - series.times[origin - 1]
        ) / series.usual_gap
        assert_allclose(found.ahead[number], apart)
