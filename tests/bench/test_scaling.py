"""Tests of `bench scaling` at tiny sizes: the measured points, curves and exponents of rows, and the figure. No time is asserted."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from rows import bench, read_lines, write_rows

from bench import RESULTS, scaling
from lstm_jax import InputError

pytestmark = pytest.mark.usefixtures("quick_processes")


def test_each_point_once() -> None:
    found = scaling.points(scaling.GRID, scaling.MIDDLE)
    assert len(found) == sum(len(sizes) for sizes in scaling.GRID.values()) - 2  # the middle is in each
    assert found.count(scaling.MIDDLE) == 1
    assert all(sum(point[letter] != size for letter, size in scaling.MIDDLE.items()) <= 1 for point in found)


def test_curves_of_rows() -> None:
    """A curve has the median time and the median peak memory over the rounds, for each value of one size (T, H or B).

    The curve uses only rows with the same number of devices, in which the other two sizes have their values in `middle`.
    """
    middle = {"T": 10, "H": 4, "B": 2}

    def line(ms: float, devices: int = 1, **sizes: int) -> dict:
        return middle | {"devices": devices, "ms_per_step": ms, "peak_mib": 100 + ms} | sizes

    rows = [line(1.0), line(3.0), line(5.0), line(6.0, T=20), line(9.0, H=8), line(70.0, T=20, H=8), line(2.0, devices=2)]
    by_steps, by_units = scaling.curves(rows, middle, (1, 2))
    assert (by_steps.letter, by_steps.devices, by_steps.sizes, by_steps.ms, by_steps.mib) == ("T", 1, [10, 20], [3.0, 6.0], [103.0, 106.0])
    assert (by_units.letter, by_units.sizes, by_units.ms) == ("H", [4, 8], [3.0, 9.0])
    assert "as T ** 1.00 (last two sizes 1.00)" in scaling.describe(by_steps)
    assert "as H ** 1.58" in scaling.describe(by_units)


@pytest.mark.parametrize("power", [0.5, 1.0, 2.0])
def test_exponents_above_a_constant(power: float) -> None:
    sizes = np.array([20, 40, 80, 160, 320])
    assert scaling.exponent_above_constant(sizes, 250 + 0.003 * sizes**power) == pytest.approx(power, abs=0.011)


def test_a_file_with_rows_of_another_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of another command in the file of results, which have no field "git", do not count as measured points.

    If the file has rows of another machine, the sweep raises an error.
    """
    row = next(row for row in map(json.loads, (RESULTS / "accuracy.jsonl").read_text().splitlines()) if "git" not in row)
    path = tmp_path / "rows.jsonl"
    write_rows(path, [row])
    asked = []
    known = json.loads((RESULTS / "scaling.jsonl").read_text().splitlines()[0])
    measured = {name: value for name, value in known.items() if name not in ("schema", "measurement", "sample_count", "git", "round")}
    monkeypatch.setattr(scaling.timing, "run_module", lambda arguments: asked.append(arguments) or [measured])
    item = {"round": 0, "devices": 1, "T": 3, "H": 4, "B": 2}
    scaling.sweep([item], 0.01, path, "abc")
    assert len(asked) == 1
    monkeypatch.setattr(scaling, "cpu", lambda: "another chip")
    with pytest.raises(InputError, match=r"^machines: .*another chip, .*; measure on one machine, or give another file in --results$"):
        scaling.sweep([item | {"round": 1}], 0.01, path, "abc")


@pytest.mark.slow
def test_a_sweep(tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    path, figure = tmp_path / "rows.jsonl", tmp_path / "figures" / "scaling.png"
    command = ["scaling", "--grid", "T=3:6", "--middle", "T=3,H=4,B=2", "--devices", "2", "--rounds", "1"]
    command += ["--seconds", "0.02", "--results", str(path), "--figure", str(figure)]
    run = bench(*command)
    assert run.returncode == 0, run.stderr[-3000:]
    rows = read_lines(path)
    assert [(row["T"], row["H"], row["E"], row["B"], row["devices"]) for row in rows] == [(3, 4, 4, 2, 2), (6, 4, 4, 2, 2)]
    for row in rows:
        assert row["ms_per_step"] > 0
        assert row["samples"]
        assert row["peak_mib"] > 0
    assert "T 3 to 6, devices 2: time " in run.stdout
    for form in (figure, figure.with_suffix(".svg")):
        assert 0 < form.stat().st_size < 2**20
    monkeypatch.setattr(sys, "argv", command)
    monkeypatch.setattr(scaling.timing, "run_module", lambda arguments: pytest.fail("rows that exist are not measured again"))
    scaling.main()
    assert capsys.readouterr().out == "".join(line + "\n" for line in run.stdout.splitlines() if not line.startswith("round"))
