"""The benchmark of drawing characters at tiny sizes: rows that exist are skipped. No time is asserted."""

import json
from importlib.util import find_spec
from pathlib import Path

import pytest
from rows import bench, bench_here

from bench import sampling
from lstm_jax import InputError

pytestmark = pytest.mark.usefixtures("quick_processes")


@pytest.mark.skipif(find_spec("keras") is None, reason="keras is not installed")
def test_command(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    arguments = ["sampling", "--rounds", "1", "--units", "4", "--chars", "5", "--samples", "3", "--results", str(path)]
    run = bench(*arguments)
    assert run.returncode == 0, run.stderr[-3000:]
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    methods = {"predict loop": "keras_jax"} | dict.fromkeys(("carried", "carried, 3 samples", "window", "window, 3 samples"), "ours")
    assert {row["method"]: row["peer"] for row in rows} == methods
    assert {(row["units"], row["chars"], row["round"]) for row in rows} == {(4, 5, 0)}
    assert "4 units, window: 3 samples take" in run.stdout
    again = bench_here(*arguments)
    assert again.stdout == "".join(line for line in run.stdout.splitlines(keepends=True) if not line.startswith("4 units, round"))
    assert len(path.read_text().splitlines()) == len(rows)


def test_report_by_hand(capsys: pytest.CaptureFixture[str]) -> None:
    times = {"predict loop": 10.0, "carried": 0.1, "window": 1.0, "carried, 64 samples": 0.7, "window, 64 samples": 20.0}
    sampling.report([{"method": method, "seconds": seconds} for method, seconds in times.items()], 128, (1, 64))
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(" (95 % ")[0] for line in lines] == [
        "128 units, carried: speedup over Keras' predict loop 100.0x",
        "128 units, carried: 64 samples take 7.00 times the time of one",
        "128 units, window: speedup over Keras' predict loop 10.0x",
        "128 units, window: 64 samples take 20.00 times the time of one",
    ]
    with pytest.raises(InputError, match=r"^rows: 128 units: methods \[\]; measure first"):
        sampling.report([], 128, (64,))
