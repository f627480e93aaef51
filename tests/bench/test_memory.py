"""Tests of `bench memory` at tiny sizes: each process gives a row, and existing rows
are not measured again. No amount is asserted.
"""

import pytest
from rows import complaint, made, printed, read_lines, run_python, write_rows

from bench.schema import STEP_MEMORY


@pytest.mark.slow
def test_a_row_a_process(path):
    arguments = [
        "memory",
        "--length",
        "5",
        "--sizes",
        "B=4,H=4,E=4,V=9",
        "--results",
        str(path),
    ]
    first = run_python(["-m", "bench", *arguments]).splitlines()
    rows = read_lines(path)
    assert [(row["remat"], row["B"], row["T"], row["H"]) for row in rows] == [
        ("none", 4, 5, 4),
        ("sqrt", 4, 5, 4),
    ]
    assert all(0 < row["before_mib"] <= row["peak_mib"] for row in rows)
    assert [line.startswith("workload A:T=5,B=4") for line in first] == [
        True,
        True,
        False,
        False,
    ]
    assert printed(*arguments) == first[2:]
    assert read_lines(path) == rows


def _row(T, peak, sizes=""):
    return made(
        STEP_MEMORY,
        workload=f"A:T={T}{sizes}",
        T=T,
        backend=None,
        remat="none",
        before_mib=100.0,
        peak_mib=peak,
    )


def test_report_of_the_sizes_asked_for(path):
    """The fit of peak memory against T uses only peaks above the peak at the smallest
    T.
    """
    mine = [
        _row(T, peak)
        for T, peak in ((1, 200.0), (100, 200.0), (1000, 210.0), (10_000, 300.0))
    ]
    write_rows(path, mine + [_row(T, 9000.0, ",H=8") for T in (1, 50)])
    arguments = ("memory", "--report", "--commit", "abc", "--results", path)
    peaks = {"1": 200, "100": 200, "1,000": 210, "10,000": 300}
    expected = [
        f"remat none, T {T}: peak {peak} MiB, 100 before the first step"
        for T, peak in peaks.items()
    ]
    assert printed(*arguments) == [
        *expected,
        "remat none: above T 1 it grows as T ** 1.00 from T 1,000 to 10,000",
    ]
    few = [
        f"remat none, T {T}: peak 9000 MiB, 100 before the first step" for T in (1, 50)
    ]
    assert printed(*arguments, "--length", "1,50", "--sizes", "H=8") == few
    assert complaint(*arguments, "--length", "7").startswith(
        "bench: rows of commit abc: none of A:T=7; "
    )


def test_a_run_that_fails_is_one_line(path, tmp_path, monkeypatch):
    """The training process fails, here because its text is missing, and no row is
    written.
    """
    monkeypatch.setenv("LSTM_JAX_DATA", str(tmp_path))
    assert complaint("memory", "--run", "--results", path).startswith(
        "bench: process: ended with code 2; "
    )
    assert not path.exists()


def test_report_of_runs():
    lines = printed("memory", "--run", "--report")
    assert [line.rpartition("}: ")[2] for line in lines[:2]] == [
        "peak 760 MiB resident, 216 s",
        "peak 676 MiB resident, 359 s",
    ]
