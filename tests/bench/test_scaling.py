"""Tests of `bench scaling` at tiny sizes: curves and exponents of rows, the sweep, and
the figure. No time is asserted.
"""

import json

import numpy as np
import pytest
from rows import complaint, made, printed, read_lines, write_rows

from bench import RESULTS, scaling
from bench.schema import RUN_MEMORY

MIDDLE = {"T": 10, "H": 4, "B": 2}
COMMAND = ["scaling", "--devices", "2", "--rounds", "1", "--seconds", "0.02"]


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    """Replace the sizes by tiny ones; the middle is a point of both varied sizes."""
    monkeypatch.setattr(scaling, "MIDDLE", MIDDLE)
    monkeypatch.setattr(scaling, "GRID", {"T": (10, 20), "H": (4,)})


def test_curves_of_rows():
    """A curve uses only rows with the same number of devices, in which the other two
    sizes have their values in `middle`.
    """

    def line(ms, devices=1, **sizes):
        return (
            MIDDLE
            | {"devices": devices, "ms_per_step": ms, "peak_mib": 100 + ms}
            | sizes
        )

    rows = [
        line(1.0),
        line(3.0),
        line(5.0),
        line(6.0, T=20),
        line(9.0, H=8),
        line(70.0, T=20, H=8),
        line(2.0, devices=2),
    ]
    by_steps, by_units = scaling.curves(rows)
    assert by_steps == scaling.Curve("T", 1, [10, 20], [3.0, 6.0], [103.0, 106.0])
    assert (by_units.letter, by_units.sizes, by_units.ms) == ("H", [4, 8], [3.0, 9.0])
    text = (
        ": T 10 to 20, devices 1: time 3.000 to 6.000 ms, as T ** 1.00 (last two "
        "sizes 1.00); memory 103 to 106 MiB"
    )
    assert scaling.describe(by_steps) == text
    assert "as H ** 1.58" in scaling.describe(by_units)


@pytest.mark.parametrize("power", [0.5, 2.0])
def test_exponents_above_a_constant(power):
    sizes = np.array([20, 40, 80, 160, 320])
    assert scaling.exponent_above_constant(
        sizes, 250 + 0.003 * sizes**power
    ) == pytest.approx(power, abs=0.011)


def test_points_are_measured_once(path, tmp_path, monkeypatch):
    """Rows of another command or machine do not count; a report has curves of each
    machine.
    """
    asked = []
    write_rows(path, [made(RUN_MEMORY)])
    known = json.loads((RESULTS / "scaling.jsonl").read_text().splitlines()[0])
    measured = {
        name: value
        for name, value in known.items()
        if name not in ("schema", "measurement", "sample_count", "git", "round")
    }
    monkeypatch.setattr(
        scaling.timing,
        "run_function",
        lambda name, point, **_: asked.append(point) or measured,
    )
    monkeypatch.setattr(scaling.timing, "CORES", 2)
    flags = ("--results", path, "--figure", tmp_path / "figure.png")
    for _ in range(2):
        printed(*COMMAND, *flags)
    assert asked == [MIDDLE | {"T": T} for T in (10, 20)]
    mine = scaling.hardware.machine_id()
    monkeypatch.setattr(scaling.hardware, "machine_id", lambda: "ab12")
    measured["cpu"] = "another chip"
    names = [line.split(": ")[0] for line in printed(*COMMAND, *flags)[-2:]]
    assert (len(asked), names) == (
        4,
        ["another chip, 2 cores (ab12)", f"AMD EPYC, 2 cores ({mine})"],
    )
    assert printed(*COMMAND, *flags, "--report", "--machine", "ab12")[0].startswith(
        "another chip"
    )
    assert complaint(*COMMAND, *flags, "--report", "--machine", "ef56").startswith(
        "bench: machine: ef56; name one of another chip, 2 cores ("
    )


@pytest.mark.slow
def test_a_sweep(path, tmp_path):
    figure = tmp_path / "figures" / "scaling.png"
    command = [*COMMAND, "--results", str(path), "--figure", str(figure)]
    printed(*command)
    rows = read_lines(path)
    assert [
        (row["T"], row["H"], row["E"], row["B"], row["devices"]) for row in rows
    ] == [(10, 4, 4, 2, 2), (20, 4, 4, 2, 2)]
    assert all(
        row["ms_per_step"] > 0 and row["samples"] and row["peak_mib"] > 0
        for row in rows
    )
    assert all(
        0 < form.stat().st_size < 2**20 for form in (figure, figure.with_suffix(".svg"))
    )
