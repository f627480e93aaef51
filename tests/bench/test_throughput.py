"""Tests of `bench throughput`: FLOP counts, sweeps that keep their rows, rows of failures, and summaries. No time is asserted."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from rows import ROOT, TINY, bench, bench_here, failed, read_lines, run_python, timed, write_rows

from bench import flops, peers, schema, summary, throughput, timing
from bench.peers import PEERS
from bench.report.page import line_record
from bench.workloads import make_arrays, workload
from lstm_jax import InputError
from lstm_jax.recurrence import BACKENDS
from lstm_jax.sweep.rows import read_rows

pytestmark = pytest.mark.usefixtures("quick_processes")

RATE = 0.2


def test_flops_by_hand() -> None:
    a = workload("A:B=2,T=3,H=4,E=5,V=7")
    # six rows times kernel 5 x 16 and recurrent kernel 4 x 16; two rows times head 4 x 1; backward takes twice the forward
    assert flops.forward_flops(a) == {"projection": 6 * 80 * 2, "recurrence": 6 * 64 * 2, "head": 2 * 4 * 2}
    assert flops.step_flops(a) == 3 * (960 + 768 + 16)
    assert flops.parameters(a) == {"recurrent": 80 + 64 + 16, "head": 5, "embedding": 35}
    # 165 small parameters and the 6 touched rows of 5 in the table, moved 9 times each; 6 ids, 2 labels
    assert flops.least_bytes(a) == 4 * (9 * 165 + 9 * 30 + 6 + 2)
    b = workload("B:B=2,T=3,H=4,V=7")
    assert flops.step_flops(b) == 3 * (768 + 2 * 4 * 7 * 2)
    evaluation = workload("evaluation:T=3,H=4,E=5,V=7")
    assert flops.step_flops(evaluation) == 25_000 * (3 * 80 * 2 + 3 * 64 * 2 + 8)
    inference = workload("inference:B=2,T=3,H=4,E=5,V=7")
    assert flops.step_flops(inference) == 2 * (3 * 80 * 2 + 3 * 64 * 2 + 8)
    # 165 small parameters, 6 rows of 5 of the table (7 at most), 6 ids, 2 logits
    assert flops.least_bytes(inference) == 4 * (165 + 30 + 6 + 2)
    assert flops.least_bytes(evaluation) == 4 * (165 + 35 + 75_000 + 25_000)
    cell = workload("recurrence:H=4,T=3,B=2")
    assert flops.step_flops(cell) == 3 * (6 * 64 * 2 + 6 * 64 * 2)
    assert flops.least_bytes(cell) == 4 * (2 * (64 + 64 + 16) + 4 * 24)
    assert [round(flops.step_flops(workload(name)) / 1e9, 1) for name in "AB"] == [2.0, 2.0]


def test_arrays_are_the_same_each_time() -> None:
    for name in TINY:
        work = workload(name)
        first, again = make_arrays(work), make_arrays(work)
        assert first.weights.keys() == again.weights.keys()
        for key, array in first.weights.items():
            np.testing.assert_array_equal(array, again.weights[key])
            assert array.dtype == np.float32
        np.testing.assert_array_equal(first.inputs, again.inputs)
    with pytest.raises(ValueError, match="give one of"):
        workload("C")
    with pytest.raises(ValueError, match="sizes"):
        workload("A:Q=3")


def test_candidates_are_read() -> None:
    plain, changed = peers.read_candidate("ours"), peers.read_candidate("ours:backend=reference:recurrent=0")
    assert plain.key(workload("A")) == ("ours", "A", None, RATE, RATE, "float32", 0.0)
    assert changed.key(workload("A")) == ("ours", "A", "reference", RATE, 0.0, "float32", 0.0)
    assert changed.arguments() == ["ours", "--backend", "reference", "--recurrent-dropout", "0.0"]
    assert plain.key(workload("A")) != peers.read_candidate("ours:dtype=bfloat16").key(workload("A"))
    assert peers.read_candidate("flax_nnx:backend=LSTMCell").backend == "LSTMCell"
    in_bfloat16 = ("torch_lstm:dtype=bfloat16", "torchrl:backend=scan:dtype=bfloat16")
    assert [peers.read_candidate(name).dtype for name in ("ours:dtype=int8", *in_bfloat16)] == ["int8", "bfloat16", "bfloat16"]
    unknown = ("ours:colour=red", "theirs", "ours:backend=none", "ours:dtype=int4", "torch_compiled:dtype=bfloat16", "haiku:backend=x")
    for wrong in (*unknown, "ours:dropout=half", "ours:dropout=1", "ours:recurrent=nan", "ours:slower=-1"):
        with pytest.raises(InputError, match=r"give "):
            peers.read_candidate(wrong)
    for wrong, said in (
        ("jax_scan:dropout=0", "give jax_scan no options"),
        ("torchrl:x=1", "no other options than backend, dtype, as in torchrl:backend="),
    ):
        with pytest.raises(InputError, match=said):
            peers.read_candidate(wrong)
    found = peers.read_candidates(["ours", "haiku"], ["compiled", "hoisted"], ["float32", "bfloat16"])
    assert [candidate.name for candidate in found] == [
        "ours:backend=compiled",
        "ours:backend=compiled:dtype=bfloat16",
        "ours:backend=hoisted",
        "ours:backend=hoisted:dtype=bfloat16",
        "haiku",
    ]


def test_table_of_peers() -> None:
    """Each peer names an existing module and, if it imports further packages, an extra of this project.

    The title of a peer contains only versions of packages that its rows record.
    """
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for name, peer in PEERS.items():
        assert peer.name == name
        assert find_spec(f"bench.peers.{peer.module}") is not None
        assert peer.extra in extras or not peer.imports
        assert set(re.findall(r"{(.*?)}", peer.title)) <= set(peer.packages)
    rows = [{"candidate": "torch_lstm", "versions": {"torch": "2.13.0+cpu"}}]
    assert peers.title("torch_lstm", rows) == "PyTorch 2.13.0, nn.LSTM, fused Adam"
    assert peers.title("ours:recurrent=0:dropout=0", rows) == "this project, recurrent=0, dropout=0"
    missing = peers.Peer("x", "X", "ours", imports=("no_such_package",), extra="peers").missing()
    assert missing == "no_such_package is missing: pip install '.[peers]'"


# peaks and the machine's present speed take time and are not tested here
QUICK = "from bench import timing, throughput; throughput.noise = lambda row, fastest: ''; timing.fastest_probe = lambda: 0.0; "
QUICK += "timing.peaks = lambda: "
QUICK += "{f'{name}_{n}': 10.0 for name in ('gemm_gflops', 'copy_gbs') for n in (1, 2)}; throughput.main()"


@pytest.mark.slow
def test_a_sweep_that_is_killed_goes_on(tmp_path: Path) -> None:
    """After kill -9 during a measurement, a sweep continues without losing a row or measuring one twice.

    An incomplete last line, which a killed sweep may leave in the file of rows, is skipped.
    """
    path = tmp_path / "rows.jsonl"
    arguments = ["--workload", "recurrence:B=2,T=3,H=4", "--peer", "ours", "ours:backend=reference", "--rounds", "3", "--seconds", "0.05"]
    command = [sys.executable, "-c", QUICK, *arguments, "--results", str(path)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, cwd=ROOT, env=environment, start_new_session=True) as sweep:
        while not path.exists() or len(path.read_text().splitlines()) < 3:
            assert sweep.poll() is None
            time.sleep(0.02)
        os.killpg(sweep.pid, signal.SIGKILL)
    before = read_lines(path)
    with path.open("a") as file:
        file.write('{"peer": "ours", "rou')
    run = run_python(command[1:])
    assert run.returncode == 0, run.stderr[-3000:]
    assert "torn, skipped" in run.stderr
    rows = list(read_rows(path))
    assert rows[: len(before)] == before
    processes = [(row["candidate"], row["round"]) for row in rows if row["measurement"] == "step"]
    assert sorted(processes) == sorted((name, number) for name in ("ours", "ours:backend=reference") for number in range(3))
    # a candidate that was checked is not checked again
    assert len({row["distance"] for row in rows if row.get("candidate") == "ours"}) == 1


def test_a_sweep_keeps_its_rows(tmp_path: Path) -> None:
    """A call of `bench throughput` on a single core writes one row for each peer, and `--report` adds no row.

    The row of a peer that fails has the error in place of the step time.
    """
    path, work = tmp_path / "rows.jsonl", "recurrence:B=2,T=3,H=4"
    failing = "ours:backend=cudnn"  # needs a GPU
    arguments = ["--workload", work, "--peer", "ours", failing, "--rounds", "1", "--seconds", "0.05", "--results", str(path)]
    one_core = ["taskset", "-c", str(min(os.sched_getaffinity(0)))] if shutil.which("taskset") else []
    run = run_python(["-c", QUICK, *arguments], one_core)
    assert run.returncode == 0, run.stderr[-3000:]
    peak, good, bad = read_lines(path)
    assert [row["measurement"] for row in (peak, good, bad)] == ["peak", "step", "failed"]
    assert good["ms_per_step"] > 0
    assert good["cores"] == (1 if one_core else timing.CORES)
    assert good["samples"]
    assert good["backend_ran"] in BACKENDS
    assert good["flops"] == flops.step_flops(workload(work))
    assert "InputError" in bad["error"]
    assert "ms_per_step" not in bad
    assert "failed" in run.stdout
    again = bench_here("throughput", *arguments, "--report")
    assert again.returncode == 0, again.stderr[-3000:]
    assert len(path.read_text().splitlines()) == 3


@pytest.mark.slow
def test_first_step(tmp_path: Path) -> None:
    """Each round has one process with an empty compilation cache ("cold"), and one with a filled cache ("warm").

    A process that fails gives a row, too. Processes that have rows without an error are not run again.
    """
    path = tmp_path / "rows.jsonl"
    arguments = ["throughput", "--first-step", "--workload", "recurrence:B=2,T=3,H=4", "--rounds", "1", "--results", str(path)]
    run = bench(*arguments, "--peer", "ours", "ours:backend=cudnn")
    assert run.returncode == 0, run.stderr[-3000:]
    rows = read_lines(path)
    assert [(row["candidate"], row["cache"], "error" in row) for row in rows] == [
        ("ours", "cold", False),
        ("ours", "warm", False),
        ("ours:backend=cudnn", "cold", True),
        ("ours:backend=cudnn", "warm", True),
    ]
    assert all(row["build_seconds"] > 0 and row["first_step_seconds"] > 0 for row in rows[:2])
    assert "failed: ended with code 1" in run.stdout
    again = bench_here(*arguments, "--peer", "ours")
    assert again.returncode == 0
    assert len(path.read_text().splitlines()) == 4


def test_summary_by_hand() -> None:
    """The summary has medians and speedups of made-up rows, and leaves out a candidate whose options change nothing on a workload."""
    rows = [timed("A", name, ms * factor, n) for name, ms in (("ours", 2.0), ("haiku", 3.0)) for n, factor in enumerate((0.9, 1.0, 1.5))]
    rows += [timed("B", "ours", 4.0), failed("B", "haiku", "out of memory")]
    candidates = [peers.read_candidate(name) for name in ("ours", "haiku", "ours:dropout=0.2:recurrent=0.2")]
    lines = summary.summarize([workload("A"), workload("B")], candidates, rows)
    processes = [(line.work.name, line.candidate, line.processes) for line in lines]
    assert processes == [("A", "ours", 3), ("A", "haiku", 3), ("B", "ours", 1), ("B", "haiku", 0)]
    ours, haiku, _, broken = lines
    assert (ours.ms, ours.speedup, haiku.ms, broken.error) == (2.0, None, 3.0, "out of memory")
    assert haiku.speedup is not None
    assert haiku.speedup[0] == pytest.approx(1.5)
    assert haiku.speedup[1] <= 1.5 <= haiku.speedup[2]
    assert summary.mean_speedup([2.0, 0.5, 4.0]).startswith("1.59x (")
    assert summary.mean_speedup([2.0, 0.5, 4.0]).endswith("0.50x to 4.00x, we are slower at 1 size")


def test_a_peer_in_another_dtype_is_compared_with_ours_in_it() -> None:
    """PyTorch in bfloat16 is compared with this project in bfloat16 or, if that was not measured, in float32.

    This project in bfloat16 is always compared with itself in float32.
    """
    names = ("ours", "ours:dtype=bfloat16", "torch_lstm", "torch_lstm:dtype=bfloat16")
    times = dict(zip(names, (4.0, 2.0, 6.0, 5.0), strict=True))
    rows = [timed("A", name, ms, n) | {"dtype": name.partition("dtype=")[2] or "float32"} for name, ms in times.items() for n in range(2)]
    candidates = [peers.read_candidate(name) for name in names]

    def speedups(rows: list[dict]) -> list[float | None]:
        return [line.speedup and line.speedup[0] for line in summary.summarize([workload("A")], candidates, rows)]

    assert speedups(rows) == [None, pytest.approx(0.5), pytest.approx(1.5), pytest.approx(2.5)]
    assert speedups([row for row in rows if row["candidate"] != "ours:dtype=bfloat16"]) == [None, pytest.approx(1.5), pytest.approx(1.25)]


def test_one_process_gives_no_interval(tmp_path: Path) -> None:
    """If one side has a single process, the speedup has no interval in the report, and the ends of the interval are None on the page."""
    counts = {"ours": 3, "haiku": 1, "equinox": 2}
    rows = [timed("A", name, ms, n) for name, ms in (("ours", 2.0), ("haiku", 3.0), ("equinox", 4.0)) for n in range(counts[name])]
    _, equinox, haiku = summary.summarize([workload("A")], [peers.read_candidate(name) for name in ("equinox", "haiku")], rows)
    assert haiku.speedup is not None
    assert equinox.speedup is not None
    assert summary.speedup_text(haiku.speedup) == "1.50x"
    assert summary.speedup_text(equinox.speedup) == "2.00x (2.00 to 2.00)"
    assert line_record(haiku, None)["speedup"] == [1.5, None, None]
    path = tmp_path / "rows.jsonl"
    write_rows(path, rows)
    run = bench_here("throughput", "--report", "--results", str(path), "--commit", "abc", "--workload", "A", "--peer", "ours", "haiku")
    assert re.search(r"haiku +3\.000 +1\.50x +853,333 ", run.stdout), run.stdout


def test_rows_of_two_machines_are_not_mixed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of one commit from two machines are not reported together, and a sweep refuses a file with rows of another machine."""
    rows = [timed("A", "ours", 2.0, n, cpu="chip") for n in range(2)] + [timed("A", "haiku", 3.0, n, cpu="other chip") for n in range(2)]
    path = write_rows(tmp_path / "rows.jsonl", rows)
    flags = ("--results", str(path), "--workload", "A", "--peer", "ours")
    run = bench_here("throughput", "--report", "--commit", "abc", *flags)
    assert (run.returncode, run.stderr) == (2, "bench: machines: chip, 2 cores and other chip, 2 cores; report rows of one machine\n")
    write_rows(path, rows[2:])
    monkeypatch.setattr(throughput, "commit", lambda: "abc")
    monkeypatch.setattr(throughput, "cpu", lambda: "chip")
    run = bench_here("throughput", *flags, "--rounds", "9")
    assert run.returncode == 2
    assert run.stderr.startswith(f"bench: machines: chip, {timing.CORES} cores and other chip, 2 cores; measure on one machine, or give ")
    assert path.read_text().splitlines() == [json.dumps(row) for row in rows[2:]]


def test_only_noisy_rows_that_are_shown_are_counted(tmp_path: Path) -> None:
    rows = [timed("A", name, 2.0, n, noisy="wide") for name in ("ours", "haiku") for n in range(2)]
    path = write_rows(tmp_path / "rows.jsonl", rows)
    arguments = ("throughput", "--report", "--commit", "abc", "--results", str(path), "--workload", "A", "--peer")
    assert "2 rows are noisy" in bench_here(*arguments, "ours").stdout
    assert "4 rows are noisy" in bench_here(*arguments, "ours", "haiku").stdout


def test_first_steps_of_a_series(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A call with --series measures first steps even if there are rows without a series. Each call reports only rows of its own series."""
    path, asked = tmp_path / "rows.jsonl", []
    seconds = {"build_seconds": 1.0, "compile_seconds": 1.0, "cpu": "chip", "versions": {}, "backend_ran": "hoisted"}

    def process(arguments: list[str], **_: object) -> list[dict]:
        asked.append(arguments)
        return [seconds | {"first_step_seconds": float(len(asked))}]

    monkeypatch.setattr(timing, "run_module", process)
    arguments = ["throughput", "--first-step", "--workload", "B", "--peer", "ours", "--rounds", "1", "--results", str(path)]
    for extra, cold in (([], "1.00"), (["--series", "s"], "3.00"), (["--series", "s"], "3.00"), ([], "1.00")):
        run = bench_here(*arguments, *extra)
        assert run.returncode == 0, run.stderr
        assert re.search(rf"B +ours +1\.00 +{cold} ", run.stdout), run.stdout
    assert len(asked) == 4
    none = bench_here(*arguments, "--report", "--series", "other")
    assert (none.returncode, none.stderr.partition(":")[0]) == (2, "bench")
    assert ": none in " in none.stderr


def test_a_first_step_that_failed_is_measured_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    path, work, candidate, asked = tmp_path / "rows.jsonl", workload("A"), peers.read_candidate("ours"), []
    times = {"build_seconds": 1.0, "first_step_seconds": 2.0, "compile_seconds": 0.5, "cpu": "x", "versions": {}, "backend_ran": "y"}

    def process(arguments: list[str], **_: object) -> list[dict]:
        asked.append(arguments)
        if len(asked) in (1, 2, 4):
            raise subprocess.CalledProcessError(-9, arguments)
        return [times]

    monkeypatch.setattr(timing, "run_module", process)
    failed = "failed: ended with code -9"
    for count, shown in ((2, failed), (4, failed), (6, "2.00"), (6, "2.00")):
        throughput.sweep_first_step([timing.Process(work, candidate, 0)], path, "abc")
        throughput.report_first_step([work], [candidate], path, "abc")
        assert len(asked) == count
        assert shown in capsys.readouterr().out


def test_series_are_kept_apart() -> None:
    """`rows_of` returns either the rows of a named series of measurements or the rows without a series.

    The two sets of rows are kept apart, although both have rows of the workload A at the same commit.
    """
    rows = [schema.rows_of(throughput.PATH, "step", git="8343e8c9e398", series=name) for name in ("", "recurrent dropout")]
    counts = [sum(row["workload"] == "A" and row["candidate"] == "ours" for row in summary.kept(part)) for part in rows]
    assert counts == [7, 18]
    assert {row["workload"] for row in rows[1]} == {"A"}
