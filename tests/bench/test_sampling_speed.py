"""Tests of `bench sampling` at tiny sizes: existing rows are not measured again. No time is asserted."""

from importlib.util import find_spec
from pathlib import Path

import pytest
from rows import bench, bench_here, read_lines, write_rows

from bench import sampling
from lstm_jax import InputError

pytestmark = pytest.mark.usefixtures("quick_processes")


@pytest.mark.slow
@pytest.mark.skipif(find_spec("keras") is None, reason="keras is not installed")
def test_command(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    arguments = ["sampling", "--rounds", "1", "--units", "4", "--chars", "5", "--samples", "3", "--results", str(path)]
    run = bench(*arguments)
    assert run.returncode == 0, run.stderr[-3000:]
    rows = read_lines(path)
    methods = {"predict loop": "keras_jax"} | dict.fromkeys(("carried", "carried, 3 samples", "window", "window, 3 samples"), "ours")
    assert {row["method"]: row["peer"] for row in rows} == methods
    assert {(row["units"], row["chars"], row["round"]) for row in rows} == {(4, 5, 0)}
    assert "4 units, window: 3 samples take" in run.stdout
    again = bench_here(*arguments)
    assert again.stdout == "".join(line for line in run.stdout.splitlines(keepends=True) if not line.startswith("units 4, round"))
    assert len(path.read_text().splitlines()) == len(rows)


def _process(asked: list):
    """Return a replacement of `run_module` that appends each call to `asked` and returns made-up rows.

    A call of Keras writes the file of weights, and a call of this project needs that file.
    """

    def run_module(arguments: list[str]) -> list[dict]:
        module, _, *flags = arguments
        weights = Path(flags[flags.index("--weights") + 1])
        asked.append((module.rpartition(".")[2], *flags[flags.index("--chars") + 1 :]))
        if module.endswith("keras_tasks"):
            weights.touch()
            return [{"peer": "keras_jax", "method": "predict loop", "seconds": 10.0}]
        assert weights.exists(), "Keras weights: there is no such file"
        counts = sorted({1, *map(int, flags[flags.index("--samples") + 1 :])})
        names = [mode if count == 1 else f"{mode}, {count} samples" for mode in ("carried", "window") for count in counts]
        return [{"peer": "ours", "method": name, "seconds": 1.0} for name in names]

    return run_module


ARGUMENTS = ("sampling", "--rounds", "1", "--units", "4", "--chars", "5")


def test_a_round_that_was_interrupted_is_completed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A round is completed if the results have the row of Keras, but the file with Keras' weights is lost.

    Keras runs again to write its weights, and gets no second row. Then this project runs.
    """
    path, asked = tmp_path / "rows.jsonl", []
    monkeypatch.setattr(sampling.timing, "run_module", _process(asked))
    row = {"schema": 3, "measurement": "sampling", "cores": 2, "load": 1.0, "round": 0, "units": 4, "chars": 5}
    write_rows(path, [row | {"peer": "keras_jax", "method": "predict loop", "seconds": 10.0}])
    run = bench_here(*ARGUMENTS, "--samples", "1", "--results", str(path))
    assert run.returncode == 0, run.stderr
    assert asked == [("keras_tasks", "1"), ("ours_tasks", "5", "--samples", "1")]
    assert [row["method"] for row in read_lines(path)] == ["predict loop", "carried", "window"]


def test_other_numbers_of_samples_are_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A call with --samples adds rows only for the numbers of samples that have no rows yet.

    After three calls with different numbers, both methods of this project have one row for each number.
    """
    path, asked = tmp_path / "rows.jsonl", []
    monkeypatch.setattr(sampling.timing, "run_module", _process(asked))
    for samples in ("1,64", "1,16", "16,64"):
        run = bench_here(*ARGUMENTS, "--samples", samples, "--results", str(path))
        assert run.returncode == 0, run.stderr
    first = ["predict loop", "carried", "carried, 64 samples", "window", "window, 64 samples"]
    assert [row["method"] for row in read_lines(path)] == [*first, "carried, 16 samples", "window, 16 samples"]
    assert "4 units, carried: speedup over Keras' predict loop 10.0x\n" in run.stdout  # one process a side gives no interval
    assert "4 units, window: 16 samples take 1.00 times the time of one\n" in run.stdout


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
