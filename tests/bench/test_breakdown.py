"""Tests of `bench breakdown`: the row of a tiny workload, lower bounds of the times
(floors), and the report. No time is asserted.
"""

import numpy as np
import pytest
from rows import TINY, complaint
from tables import BACKENDS

from bench import breakdown, timing
from bench.workloads import make_arrays, workload


@pytest.mark.slow
def test_a_row_names_the_parts():
    row = timing.run_function("bench.breakdown:measure", name=TINY[0])
    assert row["workload"] == TINY[0]
    assert len(row["samples_ms"]) == breakdown.ROUNDS
    compiled = set(breakdown.PARTS.values())
    assert (
        compiled <= row["parts_ms"].keys()
        if "compiled" in BACKENDS
        else row["parts_ms"].keys() == {"XLA"}
    )
    assert min(row["parts_ms"].values()) > 0


def test_floors():
    work = workload(TINY[0])
    arrays = make_arrays(work)
    found = breakdown.floors(work, arrays, gemm_gflops=2.0, copy_gbs=3.0)
    forward = 2 * 4 * 5 * (6 + 8) * 32 / 2e6
    rows = (
        np.mean([len(np.unique(batch)) for batch in arrays.inputs.reshape(-1, 4, 5)])
        * 6
        * 6
    )
    want = {
        "LSTM forward": forward,
        "LSTM backward": 2 * forward,
        "dropout masks": 4 * 4 * 4 * (6 + 8) / 3e6,
        "XLA": 4 * 2 * 4 * 5 * 6 / 3e6,
    }
    want |= {
        "Adam: rows about to be read": 4 * rows / 3e6,
        "Adam: rows with a gradient": 4 * (rows + 4 * 5 * 6) / 3e6,
    }
    assert found == pytest.approx(want)


def test_targets(tmp_path):
    line = (
        "  %ffi_call.3 = (f32[2]{0}) custom-call(%a, %b), "
        'custom_call_target="lstm_jax_mask", api_version=API_VERSION_TYPED_FFI\n'
    )
    (tmp_path / "module_0001.jit_run_steps.cpu_after_optimizations.txt").write_text(
        line + "  %dot.1 = f32[2]{0} dot(%a, %b)\n"
    )
    assert breakdown.targets(tmp_path) == {"ffi_call.3": "lstm_jax_mask"}


def test_report(capsys):
    row = {
        "workload": "A",
        "git": "abc",
        "ms_per_step": 2.0,
        "parts_ms": {"XLA": 0.5, "LSTM forward": 1.4},
    }
    breakdown.report(
        row
        | {"floors_ms": {"LSTM forward": 1.1}, "gemm_gflops": 400.0, "copy_gbs": 50.0}
    )
    shown = capsys.readouterr().out
    assert "the parts sum to 95.0 % of it" in shown
    assert (
        "LSTM forward                   1.400 ms, 70.0 %; floor 1.100, 0.300 above it"
        in shown
    )
    assert "between                        0.100 ms,  5.0 %" in shown
    assert complaint("breakdown", "--report", "--workload", "A:H=7").startswith(
        "bench: workload: A:H=7; "
    )
