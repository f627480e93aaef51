"""Tests of `bench sampling` at tiny sizes: existing rows are not measured again. No
time is asserted.
"""

from pathlib import Path

import pytest
from rows import made, printed, read_lines, run_python, write_rows

from bench import sampling
from bench.schema import SAMPLING

ARGUMENTS = ["sampling", "--rounds", "1", "--units", "4", "--chars", "5", "--samples"]


@pytest.mark.slow
def test_command(path, keras):
    arguments = [*ARGUMENTS, "3", "--results", str(path)]
    first = run_python(["-m", "bench", *arguments]).splitlines()
    rows = read_lines(path)
    methods = {"predict loop": "keras_jax"} | dict.fromkeys(
        ("carried", "carried, 3 samples", "window", "window, 3 samples"), "ours"
    )
    assert {row["method"]: row["peer"] for row in rows} == methods
    assert {(row["units"], row["chars"], row["round"]) for row in rows} == {(4, 5, 0)}
    assert printed(*arguments) == [
        line for line in first if not line.startswith("units 4, round")
    ]
    assert read_lines(path) == rows


@pytest.fixture
def asked(monkeypatch) -> list:
    """Replace the processes by made-up rows, and return a list that gets each call. Our
    process needs the weights that Keras writes.
    """
    calls = []

    def run_function(function, weights, units, chars, samples=()):
        calls.append((chars, *samples))
        if "keras_tasks" in function:
            Path(weights).touch()
            return [{"peer": "keras_jax", "method": "predict loop", "seconds": 10.0}]
        assert Path(weights).exists()
        return [
            {"method": sampling.method_of(mode, count), "seconds": 1.0}
            for mode in ("carried", "window")
            for count in sorted({1, *samples})
        ]

    monkeypatch.setattr(sampling.timing, "run_function", run_function)
    return calls


def test_a_round_that_was_interrupted_is_completed(path, asked):
    """The results have the row of Keras, but the file with its weights is lost: Keras
    runs again, and gets no second row.
    """
    row = made(
        SAMPLING,
        round=0,
        units=4,
        chars=5,
        peer="keras_jax",
        method="predict loop",
        seconds=10.0,
    )
    write_rows(path, [row])
    printed(*ARGUMENTS, "1", "--results", path)
    assert asked == [(1,), (5, 1)]
    assert [row["method"] for row in read_lines(path)] == [
        "predict loop",
        "carried",
        "window",
    ]


def test_other_numbers_of_samples_are_measured(path, asked):
    lines = [
        printed(*ARGUMENTS, samples, "--results", path)
        for samples in ("1,64", "1,16", "16,64")
    ][-1]
    first = [
        "predict loop",
        "carried",
        "carried, 64 samples",
        "window",
        "window, 64 samples",
    ]
    assert [row["method"] for row in read_lines(path)] == [
        *first,
        "carried, 16 samples",
        "window, 16 samples",
    ]
    # one process a side gives no interval
    assert "4 units, carried: speedup over Keras' predict loop 10.0x" in lines
    assert "4 units, window: 16 samples take 1.00 times the time of one" in lines
    assert "4 units, window: speedup over Keras' predict loop 10.0x" in lines
    assert len(asked) == 4
