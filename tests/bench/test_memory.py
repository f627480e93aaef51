"""The memory benchmark at tiny sizes: a row a process, skipped when it is there; nothing is asserted of how much."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from bench import memory  # noqa: E402

pytestmark = pytest.mark.usefixtures("quick_processes")


def test_exponents() -> None:
    sizes = np.array([1, 10, 100])
    assert memory.exponent(sizes, 3 * sizes**0.5) == pytest.approx(0.5)
    assert memory.exponent(sizes, 2.0 * sizes) == pytest.approx(1)


def test_a_row_a_process(tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "rows.jsonl"
    arguments = ["--length", "5", "--sizes", "B=4,H=4,E=4,V=9", "--results", str(path)]
    run = subprocess.run(
        [sys.executable, "-m", "bench", "memory", *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert run.returncode == 0, run.stderr[-3000:]
    kept, again = (json.loads(line) for line in path.read_text().splitlines())
    assert (kept["remat"], again["remat"]) == ("none", "sqrt")
    for row in (kept, again):
        assert (row["B"], row["T"], row["H"]) == (4, 5, 4)
        assert 0 < row["before_mib"] <= row["peak_mib"]
    assert "remat sqrt, T 5: " in run.stdout
    monkeypatch.setattr(sys, "argv", ["memory", *arguments])
    monkeypatch.setattr(memory.timing, "run_module", lambda arguments: pytest.fail("what is there is not measured again"))
    memory.main()
    assert capsys.readouterr().out == run.stdout
