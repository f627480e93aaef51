"""The benchmarks of compilation and of drawing, at tiny sizes: what is there is skipped, a failure is a row. No time is asserted."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from rows import ROOT

from bench import compile as compiling
from bench import generation
from lstm_jax import InputError

pytestmark = pytest.mark.usefixtures("quick_processes")


def bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "bench", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)})


def test_compile(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    arguments = ["compile", "--workload", "recurrence:B=2,T=3,H=4", "--peer", "ours", "ours:backend=cudnn", "--rounds", "1"]
    run = bench(*arguments, "--results", str(path))
    assert run.returncode == 0, run.stderr[-3000:]
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(row["side"], row["cache"], "error" in row) for row in rows] == [
        ("ours", "cold", False),
        ("ours", "warm", False),
        ("ours:backend=cudnn", "cold", True),
        ("ours:backend=cudnn", "warm", True),
    ]
    assert "failed: ended with code 1" in run.stdout
    again = bench(*arguments, "--results", str(path))
    assert again.returncode == 0
    assert len(path.read_text().splitlines()) == 4


@pytest.mark.skipif(find_spec("keras") is None, reason="keras is not installed")
def test_generation(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    arguments = ["generation", "--pairs", "1", "--units", "4", "--chars", "5", "--samples", "3", "--results", str(path)]
    run = bench(*arguments)
    assert run.returncode == 0, run.stderr[-3000:]
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    ways = {"predict loop", "carried", "carried, 3 samples", "window", "window, 3 samples"}
    assert {row["way"] for row in rows} == ways
    assert {(row["units"], row["chars"], row["pair"]) for row in rows} == {(4, 5, 0)}
    assert "4 units, window: 3 samples cost" in run.stdout
    again = bench(*arguments)
    assert again.stdout == "".join(line for line in run.stdout.splitlines(keepends=True) if not line.startswith("4 units, pair"))
    assert len(path.read_text().splitlines()) == len(rows)


def test_rows_of_older_versions_are_the_source_s() -> None:
    assert generation.of({"way": "carried"}, 128, 400)
    assert not generation.of({"way": "carried", "units": 64}, 128, 400)
    with pytest.raises(InputError, match=r"^rows: 128 units, 400 characters: 0; measure first"):
        generation.report([], 128, 400, (64,))


def test_presets() -> None:
    assert set(compiling.PRESETS) == set(generation.PAIRS) == {"quick", "standard", "full"}
