"""The memory benchmark at tiny sizes: a row for each process, and rows that exist are skipped; no amount is asserted."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from rows import bench, bench_here

from bench import memory

pytestmark = pytest.mark.usefixtures("quick_processes")


def test_exponents() -> None:
    sizes = np.array([1, 10, 100])
    assert memory.exponent(sizes, 3 * sizes**0.5) == pytest.approx(0.5)
    assert memory.exponent(sizes, 2.0 * sizes) == pytest.approx(1)


def test_a_row_a_process(tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "rows.jsonl"
    arguments = ["--length", "5", "--sizes", "B=4,H=4,E=4,V=9", "--results", str(path)]
    run = bench("memory", *arguments)
    assert run.returncode == 0, run.stderr[-3000:]
    kept, again = (json.loads(line) for line in path.read_text().splitlines())
    assert (kept["remat"], again["remat"]) == ("none", "sqrt")
    for row in (kept, again):
        assert (row["B"], row["T"], row["H"]) == (4, 5, 4)
        assert 0 < row["before_mib"] <= row["peak_mib"]
    assert "remat sqrt, T 5: " in run.stdout
    monkeypatch.setattr(sys, "argv", ["memory", *arguments])
    monkeypatch.setattr(memory.timing, "run_module", lambda arguments: pytest.fail("rows that exist are not measured again"))
    memory.main()
    lines = run.stdout.splitlines(keepends=True)
    assert [line.startswith("A:T=5,B=4") for line in lines] == [True, True, False, False]
    assert capsys.readouterr().out == "".join(lines[2:])


def test_report_of_runs() -> None:
    lines = bench_here("memory", "--run", "--report").stdout.splitlines()
    assert [line.rpartition("}: ")[2] for line in lines] == [
        "peak 760 MiB resident, 216 s",
        "peak 676 MiB resident, 359 s",
        "peak 769 MiB resident, 279 s",
    ]
