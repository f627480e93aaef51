"""Tests of `bench throughput`: FLOP counts, sweeps that keep their rows, rows of failures, and summaries. No time is asserted."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from importlib.util import find_spec

import numpy as np
import pytest
from rows import ROOT, TINY, complaint, failed, printed, read_lines, run_python, timed, write_rows

from bench import flops, peers, schema, summary, throughput, timing
from bench.peers import PEERS
from bench.report.page import line_record
from bench.workloads import make_arrays, workload
from lstm_jax import InputError
from lstm_jax.recurrence import BACKENDS
from lstm_jax.sweep.rows import read_rows

pytestmark = pytest.mark.usefixtures("quick_processes")


def test_flops_by_hand():
    a = workload("A:B=2,T=3,H=4,E=5,V=7")
    # six rows times kernel 5 x 16 and recurrent kernel 4 x 16; two rows times head 4 x 1; backward takes twice the forward
    assert flops.forward_flops(a) == {"projection": 6 * 80 * 2, "recurrence": 6 * 64 * 2, "head": 2 * 4 * 2}
    assert flops.parameters(a) == {"recurrent": 80 + 64 + 16, "head": 5, "embedding": 35}
    counts = {
        "A:B=2,T=3,H=4,E=5,V=7": 3 * (960 + 768 + 16),
        "B:B=2,T=3,H=4,V=7": 3 * (768 + 2 * 4 * 7 * 2),
        "evaluation:T=3,H=4,E=5,V=7": 25_000 * (3 * 80 * 2 + 3 * 64 * 2 + 8),
        "inference:B=2,T=3,H=4,E=5,V=7": 2 * (3 * 80 * 2 + 3 * 64 * 2 + 8),
        "recurrence:H=4,T=3,B=2": 3 * (6 * 64 * 2 + 6 * 64 * 2),
        "forward:H=4,T=3,B=2": 6 * 64 * 2 + 6 * 64 * 2,
    }
    assert {name: flops.step_flops(workload(name)) for name in counts} == counts
    moved = {
        # 165 small parameters and the 6 touched rows of 5 in the table, moved 9 times each; 6 ids, 2 labels
        "A:B=2,T=3,H=4,E=5,V=7": 9 * 165 + 9 * 30 + 6 + 2,
        # 165 small parameters, 6 rows of 5 of the table (7 at most), 6 ids, 2 logits
        "inference:B=2,T=3,H=4,E=5,V=7": 165 + 30 + 6 + 2,
        "evaluation:T=3,H=4,E=5,V=7": 165 + 35 + 75_000 + 25_000,
        "recurrence:H=4,T=3,B=2": 2 * (64 + 64 + 16) + 4 * 24,
    }
    assert {name: flops.least_bytes(workload(name)) / 4 for name in moved} == moved


def test_arrays_are_the_same_each_time():
    for name in TINY:
        first, again = make_arrays(workload(name)), make_arrays(workload(name))
        assert first.weights.keys() == again.weights.keys()
        for key, array in {"": first.inputs, **first.weights}.items():
            np.testing.assert_array_equal(array, {"": again.inputs, **again.weights}[key])
    for name in ("C", "A:Q=3", "A:cell=grue"):
        with pytest.raises(ValueError, match="give one of"):
            workload(name)


def test_candidates_are_read():
    changed = peers.read_candidate("ours:backend=reference:recurrent=0")
    assert peers.read_candidate("ours").key(workload("A")) == ("ours", "A", None, 0.2, 0.2, "float32", 0.0)
    assert changed.key(workload("A")) == ("ours", "A", "reference", 0.2, 0.0, "float32", 0.0)
    for name in ("ours:dtype=int8", "torch_lstm:dtype=bfloat16", "torchrl:backend=scan:dtype=bfloat16", "flax_nnx:backend=LSTMCell"):
        option, _, value = name.split(":")[-1].partition("=")
        assert getattr(peers.read_candidate(name).options(workload("A")), option) == value
    found = peers.read_candidates(["ours", "haiku"], ["compiled", "hoisted"], ["float32", "bfloat16"])
    backends = [f"ours:backend={backend}{dtype}" for backend in ("compiled", "hoisted") for dtype in ("", ":dtype=bfloat16")]
    assert [candidate.name for candidate in found] == [*backends, "haiku"]


@pytest.mark.parametrize(
    ("text", "remedy"),
    [
        ("ours:colour=red", "give ours no other options than backend, "),
        ("theirs", "give one of ours, "),
        ("ours:backend=none", "give one of "),
        ("ours:dtype=int4", "give float32, bfloat16 or int8"),
        ("torch_compiled:dtype=bfloat16", "give torch_compiled no other options than dropout, recurrent, as in torch_compiled:dropout="),
        ("ours:dropout=half", "give numbers as in ours:dropout=0.2"),
        ("ours:dropout=1", "give 0 or more, a rate below 1"),
        ("ours:recurrent=nan", "give 0 or more"),
        ("ours:slower=-1", "give 0 or more"),
        ("jax_scan:dropout=0", "give jax_scan no options"),
    ],
)
def test_candidates_that_are_refused(text, remedy):
    with pytest.raises(InputError, match=remedy):
        peers.read_candidate(text)


def test_table_of_peers():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for name, peer in PEERS.items():
        assert peer.name == name
        assert find_spec(f"bench.peers.{peer.module}") is not None
        assert peer.extra in extras or {*peer.packages} <= {"jax", "flax"}
        assert set(re.findall(r"{(.*?)}", peer.title)) <= set(peer.packages)
    rows = [{"candidate": "torch_lstm", "versions": {"torch": "2.13.0+cpu"}}]
    assert peers.title("torch_lstm", rows) == "PyTorch 2.13.0, nn.LSTM, fused Adam"
    assert peers.title("ours:recurrent=0:dropout=0", rows) == "this project, recurrent=0, dropout=0"
    assert peers.Peer("x", "X", "ours", ("no_such",), "peers").missing() == "no_such is missing: pip install '.[peers]'"


# peaks and the machine's present speed take time and are not tested here
QUICK = """
from bench import timing, throughput

throughput.noise = lambda row, fastest: ""
timing.fastest_probe = lambda: 0.0
timing.peaks = lambda: {f"{name}_{n}": 10.0 for name in ("gemm_gflops", "copy_gbs") for n in (1, 2)}
throughput.main()
"""
WORK = "recurrence:B=2,T=3,H=4"


@pytest.mark.slow
def test_a_sweep_that_is_killed_goes_on(tmp_path):
    """After kill -9 during a measurement, no row is lost or measured twice. An incomplete last line is skipped."""
    path, names = tmp_path / "rows.jsonl", ("ours", "ours:backend=reference")
    command = ["-c", QUICK, *f"--workload {WORK} --rounds 3 --seconds 0.05 --results {path} --peer".split(), *names]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    run = subprocess.Popen([sys.executable, *command], stdout=subprocess.DEVNULL, cwd=ROOT, env=environment, start_new_session=True)
    with run as sweep:
        while not path.exists() or len(path.read_text().splitlines()) < 3:
            assert sweep.poll() is None
            time.sleep(0.02)
        os.killpg(sweep.pid, signal.SIGKILL)
    before = read_lines(path)
    with path.open("a") as file:
        file.write('{"peer": "ours", "rou')
    run_python(command)
    rows = list(read_rows(path))
    assert rows[: len(before)] == before
    steps = [row for row in rows if row["measurement"] == "step"]
    assert sorted((row["candidate"], row["round"]) for row in steps) == sorted((name, number) for name in names for number in range(3))
    # a candidate that was checked is not checked again
    assert len({row["distance"] for row in steps if row["candidate"] == "ours"}) == 1


def test_a_sweep_keeps_its_rows(tmp_path):
    """On a single core, each peer gets a row. The row of a peer that fails, here because it needs a GPU, has the error."""
    path = tmp_path / "rows.jsonl"
    arguments = f"--workload {WORK} --peer ours ours:backend=cudnn --rounds 1 --seconds 0.05 --results {path}".split()
    one_core = ["taskset", "-c", str(min(os.sched_getaffinity(0)))] if shutil.which("taskset") else []
    assert "failed" in run_python(["-c", QUICK, *arguments], one_core)
    peak, good, bad = read_lines(path)
    assert [row["measurement"] for row in (peak, good, bad)] == ["peak", "step", "failed"]
    assert good["ms_per_step"] > 0
    assert good["cores"] == (1 if one_core else timing.CORES)
    assert good["backend_ran"] in BACKENDS
    assert good["flops"] == flops.step_flops(workload(WORK))
    assert "InputError" in bad["error"]
    for row in (good, bad):
        schema.check(row, "here")
    printed("throughput", *arguments, "--report")
    assert len(read_lines(path)) == 3


def test_noisy_rows_are_repeated(tmp_path, monkeypatch):
    """A noisy row is measured up to three times in all, also in later calls, and the distance from the reference is found once."""
    path, asked, noisy = tmp_path / "rows.jsonl", [], ["wide", "wide", "", "wide"]

    def process(arguments: list[str], **_: object) -> list[dict]:
        asked.append(arguments)
        return [timed("A", "ours", 1.0, probe_gflops=[1.0], distance=0.5) if "--seconds" in arguments else {}]

    monkeypatch.setattr(timing, "run_module", process)
    monkeypatch.setattr(timing, "peaks", dict)
    monkeypatch.setattr(timing, "fastest_probe", lambda: 0.0)
    monkeypatch.setattr(timing, "cpu", lambda: "chip")
    monkeypatch.setattr(throughput, "noise", lambda row, fastest: noisy.pop(0))
    item = {"workload": "A", "candidate": "ours", "round": 0, "git": "abc", "series": None}
    for most, number, count in ((1, 0, 1), (3, 0, 3), (3, 0, 3), (1, 1, 4), (1, 1, 4)):
        throughput.sweep([item | {"round": number}], {"ours": summary.PLAIN}, 0.1, path, most)
        rows = [row for row in read_lines(path) if row["measurement"] == "step"]
        assert len(rows) == count
    assert [(row["round"], row["noisy"]) for row in rows] == [(0, "wide"), (0, "wide"), (0, ""), (1, "wide")]
    assert ["--write-reference" in call for call in asked] == [True, False, False, False, False]
    assert [call[3:] for call in asked[2:]] == [["--checked", "0.5", "--seconds", "0.1"]] * 3


@pytest.mark.slow
def test_first_step(tmp_path):
    path = tmp_path / "rows.jsonl"
    arguments = f"throughput --first-step --workload {WORK} --rounds 1 --results {path} --peer ours".split()
    shown = run_python(["-m", "bench", *arguments, "ours:backend=cudnn"])
    rows = read_lines(path)
    caches = [(name, cache, name != "ours") for name in ("ours", "ours:backend=cudnn") for cache in ("cold", "warm")]
    assert [(row["candidate"], row["cache"], "error" in row) for row in rows] == caches
    assert all(row["build_seconds"] > 0 and row["first_step_seconds"] > 0 for row in rows[:2])
    assert "failed: ended with code 1" in shown
    printed(*arguments)
    assert len(read_lines(path)) == 4


def test_first_steps_of_a_series(tmp_path, monkeypatch):
    """A first step that failed is measured again. A call with --series measures and reports only rows of its own series."""
    path, asked = tmp_path / "rows.jsonl", []
    seconds = {"build_seconds": 1.0, "compile_seconds": 1.0, "cpu": "chip", "versions": {}, "backend_ran": "hoisted"}

    def process(arguments: list[str], **_: object) -> list[dict]:
        asked.append(arguments)
        if len(asked) in (1, 2, 4):
            raise subprocess.CalledProcessError(-9, arguments)
        return [seconds | {"first_step_seconds": float(len(asked))}]

    monkeypatch.setattr(timing, "run_module", process)
    arguments = ("throughput", "--first-step", "--workload", "B", "--peer", "ours", "--rounds", "1", "--results", path)
    failure = "failed: ended with code -9"
    for series, count, shown in (((), 2, failure), ((), 4, failure), ((), 6, "3.00"), ((), 6, "3.00"), (("--series", "s"), 8, "7.00")):
        assert shown in "\n".join(printed(*arguments, *series))
        assert len(asked) == count
    assert "none in " in complaint(*arguments, "--report", "--series", "other")


def test_summary_by_hand():
    """A candidate whose options change nothing on a workload is left out."""
    rows = [timed("A", name, ms * factor, n) for name, ms in (("ours", 2.0), ("haiku", 3.0)) for n, factor in enumerate((0.9, 1.0, 1.5))]
    rows += [timed("B", "ours", 4.0), failed("B", "haiku", "out of memory")]
    candidates = [peers.read_candidate(name) for name in ("ours", "haiku", "ours:dropout=0.2:recurrent=0.2")]
    lines = summary.summarize([workload("A"), workload("B")], candidates, rows)
    processes = [(line.work.name, line.candidate, len(line.rows)) for line in lines]
    assert processes == [("A", "ours", 3), ("A", "haiku", 3), ("B", "ours", 1), ("B", "haiku", 0)]
    ours, haiku, _, broken = lines
    assert (ours.ms, ours.speedup, haiku.ms, broken.error) == (2.0, None, 3.0, "out of memory")
    assert haiku.speedup is not None
    assert haiku.speedup[0] == pytest.approx(1.5)
    assert haiku.speedup[1] <= 1.5 <= haiku.speedup[2]
    assert summary.mean_speedup([2.0, 0.5, 4.0]).startswith("1.59x (")
    assert summary.mean_speedup([2.0, 0.5, 4.0]).endswith("0.50x to 4.00x, we are slower at 1 size")


def test_a_peer_in_another_dtype_is_compared_with_ours_in_it():
    """If ours in that dtype was not measured, ours in float32 takes its place. Ours in bfloat16 is compared with ours in float32."""
    times = {"ours": 4.0, "ours:dtype=bfloat16": 2.0, "torch_lstm": 6.0, "torch_lstm:dtype=bfloat16": 5.0}
    rows = [timed("A", name, ms, n, dtype=name.partition("dtype=")[2] or "float32") for name, ms in times.items() for n in range(2)]

    def speedups(rows: list[dict]) -> list[float | None]:
        return [
            line.speedup and line.speedup[0] for line in summary.summarize([workload("A")], list(map(peers.read_candidate, times)), rows)
        ]

    assert speedups(rows) == [None, pytest.approx(0.5), pytest.approx(1.5), pytest.approx(2.5)]
    assert speedups([row for row in rows if row["candidate"] != "ours:dtype=bfloat16"]) == [None, pytest.approx(1.5), pytest.approx(1.25)]


def test_report(tmp_path):
    """A speedup over a single process has no interval, and only noisy rows that are shown are counted."""
    counts, ms = {"ours": 3, "haiku": 1, "equinox": 2}, {"ours": 2.0, "haiku": 3.0, "equinox": 4.0}
    rows = [timed("A", name, ms[name], n, noisy="wide") for name, count in counts.items() for n in range(count)]
    _, equinox, haiku = summary.summarize([workload("A")], [peers.read_candidate(name) for name in ("equinox", "haiku")], rows)
    assert line_record(haiku)["speedup"] == [1.5, None, None]
    assert line_record(equinox)["speedup"] == [2.0, 2.0, 2.0]
    arguments = (
        "throughput",
        "--report",
        "--results",
        write_rows(tmp_path / "rows.jsonl", rows),
        "--commit",
        "abc",
        "--workload",
        "A",
        "--peer",
    )
    assert any(line.startswith("3 rows are noisy") for line in printed(*arguments, "ours"))
    lines = printed(*arguments, *counts)
    assert any(line.startswith("6 rows are noisy") for line in lines)
    assert any(re.search(r"haiku +3\.000 +1\.50x +853,333 ", line) for line in lines)
    assert any(re.search(r"equinox +4\.000 +2\.00x \(2\.00 to 2\.00\) ", line) for line in lines)


def test_rows_of_two_machines_are_not_mixed(tmp_path, monkeypatch):
    rows = [timed("A", name, 2.0, n, cpu=cpu) for name, cpu in (("ours", "chip"), ("haiku", "other chip")) for n in range(2)]
    path = write_rows(tmp_path / "rows.jsonl", rows)
    flags = ("--results", path, "--workload", "A", "--peer", "ours")
    subject = "bench: machines: chip, 2 cores and other chip, 2 cores; "
    assert complaint("throughput", "--report", "--commit", "abc", *flags).startswith(subject)
    write_rows(path, rows[2:])
    monkeypatch.setattr(throughput, "commit", lambda: "abc")
    monkeypatch.setattr(timing, "cpu", lambda: "chip")
    monkeypatch.setattr(timing, "CORES", 2)
    assert complaint("throughput", *flags, "--rounds", "9").startswith(subject)
    assert read_lines(path) == rows[2:]


def test_series_are_kept_apart():
    rows = [schema.rows_of(throughput.PATH, "step", git="8343e8c9e398", series=name) for name in ("", "recurrent dropout")]
    counts = [sum(row["workload"] == "A" and row["candidate"] == "ours" for row in summary.kept(part)) for part in rows]
    assert counts == [7, 18]
