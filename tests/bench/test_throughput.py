"""Tests of `bench throughput`: FLOP counts, sweeps that keep their rows, rows of
failures, and summaries. No time is asserted.
"""

import argparse
import math
import os
import re
import shutil
import subprocess

import numpy as np
import pytest
from rows import (
    complaint,
    failed,
    printed,
    read_lines,
    run_python,
    timed,
    write_rows,
)

from bench import flops, hardware, peers, schema, summary, throughput, timing, worker
from bench.peers import read_candidate
from bench.workloads import workload
from lstm_jax import InputError
from lstm_jax.recurrence import BACKENDS


@pytest.mark.parametrize(
    ("name", "count", "moved"),
    [
        # six rows times kernel 5 x 16 and recurrent kernel 4 x 16, two rows times head
        # 4 x 1; backward takes twice the forward 165 small parameters and the 6 touched
        # rows of 5 in the table, moved 9 times each; 6 ids, 2 labels
        ("A:B=2,T=3,H=4,E=5,V=7", 3 * (960 + 768 + 16), 9 * 165 + 9 * 30 + 6 + 2),
        ("B:B=2,T=3,H=4,V=7", 3 * (768 + 2 * 4 * 7 * 2), 9 * (192 + 35) + 6 + 2),
        # 165 small parameters, 6 rows of 5 of the table (7 at most), 6 ids, 2 logits
        ("inference:B=2,T=3,H=4,E=5,V=7", 2 * (480 + 384 + 8), 165 + 30 + 6 + 2),
        (
            "evaluation:T=3,H=4,E=5,V=7",
            25_000 * (480 + 384 + 8),
            165 + 35 + 75_000 + 25_000,
        ),
        ("recurrence:H=4,T=3,B=2", 3 * (768 + 768), 2 * (144 + 48)),
        (
            "recurrence:H=8,T=5,B=4,cell=min_gru",
            3 * 2 * 20 * 8 * 16,
            2 * (9 * 16 + 20 * 16),
        ),
        (
            "forward:H=8,T=5,B=4,cell=lstm_full_gate_recurrence",
            2 * 20 * (16 * 32 + 24 * 24),
            17 * 32 + 24 * 24 + 20 * 16,
        ),
    ],
)
def test_operations_and_bytes_by_hand(name, count, moved):
    assert flops.step_flops(workload(name)) == count
    assert flops.least_bytes(workload(name)) == 4 * moved


def test_candidates_are_read():
    changed = peers.read_candidate("ours:backend=reference:recurrent=0")
    assert peers.read_candidate("ours").key(workload("A")) == (
        "ours",
        "A",
        None,
        0.2,
        0.2,
        "float32",
    )
    assert changed.key(workload("A")) == (
        "ours",
        "A",
        "reference",
        0.2,
        0.0,
        "float32",
    )


@pytest.mark.parametrize(
    ("text", "subject"),
    [
        ("ours:colour=red", "peer"),
        ("ours:backend=none", "backend"),
        ("ours:dtype=int4", "dtype"),
        ("torch_compiled:dtype=bfloat16", "peer"),
        ("ours:dropout=half", "peer"),
        ("ours:dropout=1", "dropout"),
        ("ours:recurrent=nan", "recurrent"),
        ("ours:slower=1", "peer"),
        ("jax_scan:dropout=0", "peer"),
    ],
)
def test_candidates_that_are_refused(text, subject):
    with pytest.raises(InputError, match=f"^{subject}: "):
        peers.read_candidate(text)


def test_titles_and_missing_packages():
    rows = [{"candidate": "torch_lstm", "versions": {"torch": "2.13.0+cpu"}}]
    assert peers.title("torch_lstm", rows) == "PyTorch 2.13.0, nn.LSTM, fused Adam"
    assert peers.title("ours:recurrent=0", rows) == "this project, recurrent=0"
    lacking = peers.Peer("x", "X", "ours", ("no_such",), "peers")
    assert lacking.missing() == "no_such is missing: pip install '.[peers]'"


# peaks and the machine's present speed take time and are not tested here
QUICK = """
from bench import timing, throughput

timing.noise = lambda row, fastest: ""
timing.fastest_probe = lambda: 0.0
timing.peaks = lambda: {f"{name}_{n}": 10.0 for name in ("gemm_gflops", "copy_gbs") for n in (1, 2)}
throughput.main()
"""
WORK = "recurrence:B=2,T=3,H=4"


@pytest.mark.slow
def test_a_sweep_keeps_its_rows(path):
    """On a single core, each peer gets a row. The row of a peer that fails, here
    because it needs a GPU, has the error.
    """
    arguments = (
        f"--workload {WORK} --peer ours ours:backend=cudnn --rounds 1 --seconds "
        f"0.05 --results {path}"
    ).split()
    one_core = (
        ["taskset", "-c", str(min(os.sched_getaffinity(0)))]
        if shutil.which("taskset")
        else []
    )
    assert "failed" in run_python(["-c", QUICK, *arguments], one_core)
    rows = read_lines(path)
    _, good, bad = rows
    assert [row["measurement"] for row in rows] == ["peak", "step", "failed"]
    assert good["ms_per_step"] > 0
    assert good["cores"] == (1 if one_core else timing.CORES)
    assert good["backend_ran"] in BACKENDS
    assert good["flops"] == flops.step_flops(workload(WORK))
    assert "InputError" in bad["error"]
    for row in rows:
        schema.check(row, "here")
    printed("throughput", *arguments, "--report")
    assert read_lines(path) == rows


@pytest.fixture
def process(monkeypatch):
    """Replace the processes by made-up rows, and return a list that gets their flags."""
    asked = []

    def run_module(arguments, **_):
        asked.append(arguments[3:])
        timings = {"probe_gflops": [1.0], "distance": 0.5}
        return [timed("A", "ours", 1.0, **timings) if "--seconds" in arguments else {}]

    monkeypatch.setattr(timing, "run_module", run_module)
    monkeypatch.setattr(timing, "peaks", dict)
    monkeypatch.setattr(timing, "fastest_probe", lambda: 0.0)
    return asked


ITEM = {"workload": "A", "candidate": "ours", "git": "abc", "round": 0}


def _steps(path):
    return [row for row in read_lines(path) if row["measurement"] == "step"]


def test_noisy_rows_are_repeated(path, process, monkeypatch):
    """A noisy row is measured up to three times in all, also in later calls, and the
    distance from the reference is found once.
    """
    noisy = ["wide", "wide", "", "wide"]
    monkeypatch.setattr(timing, "noise", lambda row, fastest: noisy.pop(0))
    for most, number, count in ((1, 0, 1), (3, 0, 3), (3, 0, 3), (1, 1, 4), (1, 1, 4)):
        throughput.sweep([ITEM | {"round": number}], 0.1, path, most)
        assert len(_steps(path)) == count
    found = [(row["round"], row["noisy"]) for row in _steps(path)]
    assert found == [(0, "wide"), (0, "wide"), (0, ""), (1, "wide")]
    assert ["--write-reference" in flags for flags in process] == [True] + [False] * 4
    flags = ["--checked", "0.5", "--seconds", "0.1", "--patience", "0.0", "--fastest"]
    assert process[2:] == [[*flags, fastest] for fastest in ("0.0", "1.0", "0.0")]


def test_rows_of_another_machine_do_not_count(path, process, monkeypatch):
    """A process that would end too late is left out."""
    monkeypatch.setattr(timing, "noise", lambda row, fastest: "")
    write_rows(path, [timed("A", "ours", 2.0, machine="another")])
    for number, until in ((0, math.inf), (0, math.inf), (1, -math.inf)):
        throughput.sweep([ITEM | {"round": number}], 0.1, path, 1, until)
        machines = [row["machine"] for row in _steps(path)]
        assert machines == ["another", hardware.machine_id()]


@pytest.mark.parametrize(
    ("patience", "kept"), [(60.0, [100.0, 99.0]), (0.0, [50.0, 100.0])]
)
def test_a_process_waits_for_quiet(patience, kept, monkeypatch):
    """A process with patience measures again while a product beside it is slow."""
    probes = iter([50.0, 100.0, 100.0, 99.0])
    monkeypatch.setattr(worker.hardware, "probe", lambda: next(probes))
    monkeypatch.setattr(timing, "SPREAD", np.inf)
    flags = argparse.Namespace(
        reference=None,
        checked=0.0,
        seconds=0.01,
        turns=False,
        patience=patience,
        fastest=100.0,
    )
    row = worker.timed_row(read_candidate("ours"), workload(WORK), flags)
    assert row["probe_gflops"] == kept


def test_first_steps(path, monkeypatch):
    """A pair of processes that failed is measured again."""
    asked = []
    row = {"build_seconds": 1.0, "compile_seconds": 1.0, "cpu": "chip"}
    row |= {"versions": {}, "backend_ran": "hoisted"}

    def process(arguments, **_):
        asked.append(arguments)
        if len(asked) == 2:
            raise subprocess.CalledProcessError(-9, arguments)
        return [row | {"first_step_seconds": float(len(asked))}]

    monkeypatch.setattr(timing, "run_module", process)
    monkeypatch.setattr(timing, "require_compiled", lambda: None)
    command = (
        f"throughput --first-step --workload B --peer ours --rounds 1 --results {path}"
    ).split()
    assert "none in " in complaint(*command)
    for _ in range(2):
        shown = "\n".join(printed(*command))
        assert re.search(r"B +ours +1\.00 +3\.00 +1\.00 +1\.00 +4\.00 +1", shown)
        assert len(asked) == 4


def summarized(works, names, rows):
    return summary.summarize(
        list(map(workload, works)), list(map(peers.read_candidate, names)), rows
    )


def test_summary_by_hand():
    """A candidate whose options change nothing on a workload is left out."""
    rows = [
        timed("A", name, ms * factor, n)
        for name, ms in (("ours", 2.0), ("haiku", 3.0))
        for n, factor in enumerate((0.9, 1.0, 1.5))
    ]
    rows += [timed("B", "ours", 4.0), failed("B", "haiku", "out of memory")]
    lines = summarized("AB", ("ours", "haiku", "ours:dropout=0.2:recurrent=0.2"), rows)
    processes = [(line.work.name, line.candidate, len(line.rows)) for line in lines]
    assert processes == [
        ("A", "ours", 3),
        ("A", "haiku", 3),
        ("B", "ours", 1),
        ("B", "haiku", 0),
    ]
    ours, haiku, _, broken = lines
    assert (ours.ms, ours.speedup, haiku.ms, broken.error) == (
        2.0,
        None,
        3.0,
        "out of memory",
    )
    assert haiku.speedup[0] == pytest.approx(1.5)
    assert haiku.speedup[1] <= 1.5 <= haiku.speedup[2]
    mean = summary.mean_speedup([2.0, 0.5, 4.0])
    assert mean.startswith("1.59x (")
    assert mean.endswith("0.50x to 4.00x, we are slower at 1 size")


def test_a_peer_in_another_dtype_is_compared_with_ours_in_it():
    """If ours in that dtype was not measured, ours in float32 takes its place. Ours in
    bfloat16 is compared with ours in float32.
    """
    times = {
        "ours": 4.0,
        "ours:dtype=bfloat16": 2.0,
        "torch_lstm": 6.0,
        "torch_lstm:dtype=bfloat16": 5.0,
    }
    rows = [
        timed("A", name, ms, n, dtype=name.partition("dtype=")[2] or "float32")
        for name, ms in times.items()
        for n in range(2)
    ]
    others = [row for row in rows if row["candidate"] != "ours:dtype=bfloat16"]
    for measured, speedups in ((rows, [0.5, 1.5, 2.5]), (others, [1.5, 1.25])):
        _, *lines = summarized("A", times, measured)
        assert [line.speedup[0] for line in lines] == pytest.approx(speedups)


def test_report(path):
    """A speedup over a single process has no interval, only noisy rows that are shown
    are counted, and lines have up to 100 characters.
    """
    rows = [
        timed("A", name, ms, n, noisy="wide")
        for name, count, ms in (
            ("ours", 3, 2.0),
            ("haiku", 1, 3.0),
            ("equinox", 2, 4.0),
        )
        for n in range(count)
    ]
    arguments = (
        f"throughput --report --results {write_rows(path, rows)} --commit abc "
        "--workload A --peer ours"
    ).split()
    assert "\nNOISY: 3 of 3 rows are noisy" in "\n".join(printed(*arguments))
    shown = "\n".join(printed(*arguments, "haiku", "equinox"))
    assert max(map(len, shown.split("peer", 1)[1].splitlines()[:7])) <= 100
    for pattern in (
        r"\nNOISY: 6 of 6 rows are noisy",
        r"\nA: faster than 0 of 2 peers beyond noise, slower than 0, undecided 2$",
        r"haiku +3\.000 +1\.50x +853,333 ",
        r"equinox +4\.000 +2\.00x \(2\.00 to 2\.00\) ",
    ):
        assert re.search(pattern, shown), pattern


def test_verdicts_use_quiet_rows():
    """A noisy row is left out, and a peer without two quiet rows is undecided. Our own
    loop is no peer.
    """
    times = {
        "ours": (4.0, 4.1, 1.0),
        "haiku": (6.0, 6.1, 1.0),
        "equinox": (3.0, 9.0, 1.0),
        "flax_nnx": (2.0, 2.1, 9.0),
        "own_loop": (9.0,),
    }
    rows = [
        timed("A", name, ms, n, noisy="wide" * (n == 2))
        for name, own in times.items()
        for n, ms in enumerate(own)
    ]
    rows += [
        timed("A", "torch_lstm", 9.0, noisy="wide"),
        failed("A", "flax_linen", "out of memory"),
    ]
    banner, verdict = summary.verdicts(rows)
    assert banner.startswith("NOISY: 5 of 15 rows are noisy")
    assert verdict.startswith(
        "A: faster than 1 of 4 peers beyond noise, slower than 1, undecided "
        "2; nearest flax_nnx, 0.51x ("
    )
