"""Tests of `bench memory` at tiny sizes: each process gives a row, and existing rows are not measured again. No amount is asserted."""

import sys
from pathlib import Path

import numpy as np
import pytest
from rows import bench, bench_here, read_lines, write_rows

from bench import memory

pytestmark = pytest.mark.usefixtures("quick_processes")


def test_exponents() -> None:
    sizes = np.array([1, 10, 100])
    assert memory.exponent(sizes, 3 * sizes**0.5) == pytest.approx(0.5)
    assert memory.exponent(sizes, 2.0 * sizes) == pytest.approx(1)


@pytest.mark.slow
def test_a_row_a_process(tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "rows.jsonl"
    arguments = ["--length", "5", "--sizes", "B=4,H=4,E=4,V=9", "--results", str(path)]
    run = bench("memory", *arguments)
    assert run.returncode == 0, run.stderr[-3000:]
    kept, again = read_lines(path)
    assert (kept["remat"], again["remat"]) == ("none", "sqrt")
    for row in (kept, again):
        assert (row["B"], row["T"], row["H"]) == (4, 5, 4)
        assert 0 < row["before_mib"] <= row["peak_mib"]
    assert "remat sqrt, T 5: " in run.stdout
    monkeypatch.setattr(sys, "argv", ["memory", *arguments])
    monkeypatch.setattr(memory.timing, "run_module", lambda arguments: pytest.fail("rows that exist are not measured again"))
    memory.main()
    lines = run.stdout.splitlines(keepends=True)
    assert [line.startswith("workload A:T=5,B=4") for line in lines] == [True, True, False, False]
    assert capsys.readouterr().out == "".join(lines[2:])


def _memory_row(T: int, peak: float, sizes: str = "", git: str = "abc") -> dict:
    name = f"A:T={T}{sizes}"
    row = {"schema": 3, "measurement": "step_memory", "git": git, "workload": name, "backend": None, "backend_ran": "hoisted"}
    return row | {"B": 32, "T": T, "H": 128, "E": 128, "V": 20_000, "remat": "none", "before_mib": 100.0, "peak_mib": peak}


def test_report_of_the_sizes_asked_for(tmp_path: Path) -> None:
    """The report contains only rows of the requested sizes.

    Its fit of peak memory against T, the number of steps, uses only peaks above the peak at the smallest T.
    """
    path = tmp_path / "rows.jsonl"
    mine = [_memory_row(T, peak) for T, peak in ((1, 200.0), (100, 200.0), (1000, 210.0), (10_000, 300.0))]
    other = [_memory_row(T, 9000.0, ",H=8") for T in (1, 50)]
    write_rows(path, mine + other)
    run = bench_here("memory", "--report", "--commit", "abc", "--results", str(path))
    assert run.stdout.splitlines() == [
        "remat none, T 1: peak 200 MiB, 100 before the first step",
        "remat none, T 100: peak 200 MiB, 100 before the first step",
        "remat none, T 1,000: peak 210 MiB, 100 before the first step",
        "remat none, T 10,000: peak 300 MiB, 100 before the first step",
        "remat none: above T 1 it grows as T ** 1.00 from T 1,000 to 10,000",
    ]
    few = bench_here("memory", "--report", "--commit", "abc", "--results", str(path), "--length", "1,50", "--sizes", "H=8")
    assert few.stdout.splitlines() == [f"remat none, T {T}: peak 9000 MiB, 100 before the first step" for T in (1, 50)]
    none = bench_here("memory", "--report", "--commit", "abc", "--results", str(path), "--length", "7")
    assert none.returncode == 2
    assert none.stderr.startswith("bench: rows of commit abc: none of A:T=7; measure them first, or report some of A:T=1, A:T=100")


def test_a_run_that_fails_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the training process fails, here because its text is missing, the command prints one line of error and writes no row."""
    monkeypatch.setenv("LSTM_JAX_DATA", str(tmp_path))
    run = bench_here("memory", "--run", "--results", str(tmp_path / "rows.jsonl"))
    assert (run.returncode, run.stderr) == (2, "bench: process: ended with code 2; see its message above\n")
    assert not (tmp_path / "rows.jsonl").exists()


def test_report_of_runs() -> None:
    lines = bench_here("memory", "--run", "--report").stdout.splitlines()
    assert [line.rpartition("}: ")[2] for line in lines] == [
        "peak 760 MiB resident, 216 s",
        "peak 676 MiB resident, 359 s",
        "peak 769 MiB resident, 279 s",
    ]
