"""Tests of `bench memory` at tiny sizes: each process gives a row, and existing rows
are not measured again. No amount is asserted.
"""

import pytest
from rows import complaint, made, printed, read_lines, run_python, write_rows

from bench.schema import STEP_MEMORY


@pytest.mark.slow
def test_a_row_a_process(path):
    first = run_python(
        ["-m", "bench", "memory", "--length", "5", "--results", str(path)]
    ).splitlines()
    rows = read_lines(path)
    found = [(row["remat"], row["B"], row["T"], row["backend"]) for row in rows]
    assert found == [("none", 32, 5, None), ("sqrt", 32, 5, None)]
    assert all(0 < row["before_mib"] <= row["peak_mib"] for row in rows)
    assert printed("memory", "--length", "5", "--results", path) == first[2:]
    assert read_lines(path) == rows


def test_report_of_the_sizes_asked_for(path):
    """The fit of peak memory against T uses only peaks above the peak at the smallest
    T.
    """
    peaks = {1: 200.0, 100: 200.0, 1000: 210.0, 10_000: 300.0}
    about = {"backend": None, "remat": "none", "before_mib": 100.0}
    rows = [
        made(STEP_MEMORY, workload=f"A:T={T}", T=T, peak_mib=peak, **about)
        for T, peak in peaks.items()
    ]
    write_rows(path, rows)
    arguments = ("memory", "--report", "--commit", "abc", "--results", path)
    expected = [
        f"remat none, T {T:,}: peak {peak:.0f} MiB, 100 before the first step"
        for T, peak in peaks.items()
    ]
    assert printed(*arguments) == [
        *expected,
        "remat none: above T 1 it grows as T ** 1.00 from T 1,000 to 10,000",
    ]
    assert printed(*arguments, "--length", "1,100") == expected[:2]
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
