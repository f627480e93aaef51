"""Tests of `bench breakdown`: the row of a tiny workload, lower bounds of the times (floors), and the report. No time is asserted."""

import json

import numpy as np
import pytest
from rows import bench, bench_here
from tables import BACKENDS

from bench import breakdown
from bench.workloads import make_arrays, workload

TINY = "A:B=4,T=5,H=8,E=6,V=30"


@pytest.mark.slow
def test_a_row_names_the_parts() -> None:
    row = json.loads(bench("breakdown", "--one", "--workload", TINY).stdout.splitlines()[-1])
    assert row["workload"] == TINY
    assert len(row["samples_ms"]) == breakdown.ROUNDS
    compiled = {"LSTM forward", "LSTM backward", "Adam: rows about to be read", "Adam: rows with a gradient", "dropout masks"}
    assert compiled <= row["parts_ms"].keys() if "compiled" in BACKENDS else row["parts_ms"].keys() == {"XLA"}
    assert min(row["parts_ms"].values()) > 0


def test_floors() -> None:
    work = workload(TINY)
    arrays = make_arrays(work)
    found = breakdown.floors(work, arrays, gflops=2.0, copy_gbs=3.0)
    assert found["LSTM forward"] == pytest.approx(2 * 4 * 5 * (6 + 8) * 32 / 2e6)
    assert found["LSTM backward"] == pytest.approx(2 * found["LSTM forward"])
    rows = np.mean([len(np.unique(batch)) for batch in arrays.inputs.reshape(-1, 4, 5)])
    assert found["Adam: rows about to be read"] == pytest.approx(4 * 6 * rows * 6 / 3e6)
    assert found["dropout masks"] == pytest.approx(4 * 4 * 4 * (6 + 8) / 3e6)


def test_targets(tmp_path) -> None:
    line = '  %ffi_call.3 = (f32[2]{0}) custom-call(%a, %b), custom_call_target="lstm_jax_mask", api_version=API_VERSION_TYPED_FFI\n'
    (tmp_path / "module_0001.jit_run_steps.cpu_after_optimizations.txt").write_text(line + "  %dot.1 = f32[2]{0} dot(%a, %b)\n")
    assert breakdown.targets(tmp_path) == {"ffi_call.3": "lstm_jax_mask"}


def test_a_workload_without_rows() -> None:
    run = bench_here("breakdown", "--report", "--workload", "A:H=7")
    assert run.returncode == 2
    assert run.stderr.startswith("bench: workload: A:H=7; measure it first: ")
    unknown = bench_here("breakdown", "--report", "--commit", "deadbeef")
    assert unknown.returncode == 2
    assert unknown.stderr.startswith("bench: rows of commit deadbeef: none in ")


def test_report(capsys) -> None:
    row = {"workload": "A", "git": "abc", "ms_per_step": 2.0, "parts_ms": {"XLA": 0.5, "LSTM forward": 1.4}}
    breakdown.report(row | {"floors_ms": {"LSTM forward": 1.1}, "gemm_gflops": 400.0, "copy_gbs": 50.0})
    printed = capsys.readouterr().out
    assert "the parts sum to 95.0 % of it" in printed
    assert "LSTM forward                   1.400 ms, 70.0 %; floor 1.100, 0.300 above it" in printed
    assert "between                        0.100 ms,  5.0 %" in printed
