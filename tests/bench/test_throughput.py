"""The throughput benchmark: peers do the same work as ours, FLOPs are counted right, a failure is a row. No time is asserted.

Peers run in processes of their own: they warn at import, and Keras takes one backend a process.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from rows import ROOT, bench, failed, timed

from bench import flops, machine, peers, schema, summary, throughput, timing, worker
from bench.peers import PEERS
from bench.peers.base import Built, Options
from bench.workloads import make_arrays, recurrence, workload
from lstm_jax import InputError
from lstm_jax.recurrence import BACKENDS
from lstm_jax.sweep.rows import read_rows

pytestmark = pytest.mark.usefixtures("quick_processes")

TINY = ("A:B=4,T=5,H=8,E=6,V=30", "B:B=4,T=5,H=8,V=7", "recurrence:B=4,T=5,H=8")
RATE = 0.2

PERTURBED = """
import sys
import time
from dataclasses import replace
from pathlib import Path
import numpy as np
from bench import worker
from bench.peers.base import Options
from bench.workloads import make_arrays, workload

folder, peer, names = Path(sys.argv[1]), sys.argv[2], sys.argv[3].split()
for name in names:
    work = workload(name)
    arrays = make_arrays(work)
    with np.load(folder / f"{work.kind}.npz") as reference:
        for off in arrays.weights:
            weights = arrays.weights | {off: 1.01 * arrays.weights[off]}
            built = worker.build(peer, work, replace(arrays, weights=weights), Options(None))
            try:
                print("passed", work.kind, off, worker.distances(work, built, reference))
            except ValueError as error:
                print("refused", work.kind, off, error)
"""
CHECK = """
import json, sys
import numpy as np
from pathlib import Path
from bench import worker
from bench.peers import PEERS
from bench.peers.base import Options
from bench.workloads import make_arrays, workload

if "jax" in sys.argv[1]:
    import jax
    jax.config.update("jax_disable_most_optimizations", True)
folder, peers, names = Path(sys.argv[2]), sys.argv[3].split(), sys.argv[4].split()
for name in names:
    work = workload(name)
    arrays = make_arrays(work)
    path = folder / f"{work.kind}.npz"
    if not path.exists():
        from bench.peers import ours
        ours.write_reference(path, work, arrays, "reference")
    for candidate in peers:
        peer, _, backend = candidate.partition(":")
        if PEERS[peer].lacks(work):
            continue
        built = worker.build(peer, work, arrays, Options(backend or None, work.dropout, work.recurrent_dropout))
        if work.kind == "sentiment":
            built.run(1)
        with np.load(path) as reference:
            distances = worker.distances(work, built, reference)
        print(json.dumps({"peer": candidate, "kind": work.kind, "distances": distances, "note": built.note}))
"""


def _run(arguments: Sequence[str], first: Sequence[str] = ()) -> subprocess.CompletedProcess[str]:
    """first: what the command starts with, before Python."""
    environment = os.environ | {"KERAS_BACKEND": "jax", "PYTHONPATH": str(ROOT)}
    return subprocess.run([*first, sys.executable, *arguments], capture_output=True, text=True, cwd=ROOT, env=environment)


def _check(folder: Path, peers: Sequence[str], names: Sequence[str] = TINY) -> dict[tuple[str, str], dict]:
    run = _run(["-c", CHECK, "" if "torch_lstm" in peers else "jax", str(folder), " ".join(peers), " ".join(names)])
    assert run.returncode == 0, run.stderr[-3000:]
    rows = [json.loads(line) for line in run.stdout.splitlines() if line.startswith("{")]
    found = {(row["peer"], row["kind"]): row for row in rows}
    assert len(found) == sum(not PEERS[peer.partition(":")[0]].lacks(workload(name)) for peer in peers for name in names)
    return found


@pytest.fixture(scope="module")
def references(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the references, against which ours has been checked."""
    folder = tmp_path_factory.mktemp("references")
    for row in _check(folder, ["ours"]).values():
        assert max(row["distances"].values()) < 1e-5
    return folder


def _groups() -> list[list[str]]:
    """Peers that share a process, those of one framework: all of the table but ours and those that need a GPU or compile for minutes."""
    groups: dict[tuple[str, ...], list[str]] = {}
    for name, peer in PEERS.items():
        if name not in ("ours", "torch_compiled") and not peer.gpu:
            groups.setdefault(peer.imports[-1:], []).append(name)
    return list(groups.values())


@pytest.mark.parametrize("peers", _groups(), ids=" ".join)
def test_peers_do_the_same_work(references: Path, peers: list[str]) -> None:
    for peer in peers:
        for name in PEERS[peer].imports:
            if find_spec(name) is None:
                pytest.skip(f"{name} is not installed")
    rows = _check(references, peers)  # raises beyond 1e-4
    for (peer, kind), row in rows.items():
        if kind == "sentiment" and not peer.startswith(("keras", "own_loop")):
            assert "no recurrent dropout" in row["note"]


def test_loops_of_ones_own(references: Path) -> None:
    """Every loop with our layer, and Keras with our layers, does the same work."""
    loops = [f"own_loop:{loop}" for loop in ("donated", "functions", "train_step")]
    _check(references, [*loops, "keras_jax:accelerated"])  # raises beyond 1e-4


def test_peers_that_reset_the_state(tmp_path: Path) -> None:
    rl = ["torchrl"] * (find_spec("torchrl") is not None)
    rows = _check(tmp_path, ["ours", "jax_scan", "flax_scan", *rl], ["resets:B=4,T=9,H=8,R=30"])  # raises beyond 1e-4
    assert len(rows) == 3 + len(rl)
    assert PEERS["torch_lstm"].lacks(workload("resets")) == "no resets in resets"
    arrays = make_arrays(workload("resets"))
    assert arrays.resets is not None
    assert abs(arrays.resets.mean() - 0.03) < 0.005
    assert make_arrays(workload("resets:B=2,T=3,H=4,R=0")).resets is None


@pytest.mark.skipif(find_spec("torch") is None, reason="torch is not installed")
@pytest.mark.parametrize("cell", ["gru", "simple_rnn"])
def test_peers_with_another_cell(cell: str, tmp_path: Path) -> None:
    _check(tmp_path, ["torch_lstm", "ours", "keras_jax"], [f"recurrence:B=4,T=5,H=8,cell={cell}"])  # raises beyond 1e-4


def test_ours_with_any_cell(tmp_path: Path) -> None:
    """Whole training steps; a peer says what it lacks."""
    _check(tmp_path, ["ours"], ["A:B=4,T=3,H=4,E=3,V=20,cell=min_gru", "B:B=4,T=3,H=4,V=5,cell=lstm_coupled"])
    work = workload("B:cell=lstm_coupled")
    assert (work.cell, work.gates) == ("lstm_coupled", 3)
    assert PEERS["torch_lstm"].lacks(work) == "no lstm_coupled in B"
    assert PEERS["torch_lstm"].lacks(workload("A:cell=gru")) == "no gru in A"
    assert not PEERS["torch_lstm"].lacks(workload("recurrence:cell=gru"))
    assert not PEERS["ours"].lacks(work)
    assert sorted(make_arrays(workload("recurrence:H=4,cell=gru")).cell()) == ["bias", "kernel", "recurrent_bias", "recurrent_kernel"]
    assert flops.step_flops(workload("recurrence:H=8,T=5,B=4,cell=gru")) == 3 * 2 * 4 * 5 * (8 + 8) * 24
    assert flops.step_flops(workload("recurrence:H=8,T=5,B=4,cell=min_gru")) == 3 * 2 * 4 * 5 * 8 * 16
    with pytest.raises(ValueError, match="give one of lstm, gru"):
        workload("A:cell=grue")


@pytest.mark.skipif(find_spec("torch") is None, reason="torch is not installed")
def test_a_peer_with_weights_off_by_one_percent_is_refused(references: Path) -> None:
    """Whichever array of weights it is."""
    run = _run(["-c", PERTURBED, str(references), "torch_lstm", " ".join(TINY)])
    assert run.returncode == 0, run.stderr[-3000:]
    lines = run.stdout.splitlines()
    assert len(lines) == sum(len(make_arrays(workload(name)).weights) for name in TINY)
    assert all(line.startswith("refused") for line in lines), run.stdout


def test_a_peer_that_needs_a_gpu(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Without a GPU it is skipped, and the reason printed; with one its processes compute in float32, and its rows are kept apart."""
    found = [peers.read_candidate("ours"), peers.read_candidate("jax_rnn")]
    monkeypatch.setattr(machine, "gpu", lambda: False)
    assert peers.installed(found) == found[:1]
    assert capsys.readouterr().out == "jax_rnn: skipped, a GPU is missing\n"
    assert "NVIDIA_TF32_OVERRIDE" not in timing.pinned()
    monkeypatch.setattr(machine, "gpu", lambda: True)
    assert peers.installed(found) == found
    assert timing.pinned().items() >= machine.GPU_SETTINGS.items()


@pytest.mark.parametrize("name", TINY)
def test_cudnn_without_it(monkeypatch: pytest.MonkeyPatch, references: Path, peer_rules, name: str) -> None:
    """With jax.experimental.rnn's reference in its place the peer does the same work; its weights come back as they went."""
    from jax.experimental import rnn

    from bench.peers import jax_rnn, jax_step

    def lstm(x, h, c, weights, lengths, features: int, units: int, *options):
        return rnn.lstm_ref(x, h, c, *rnn.unpack_lstm_weights(weights, features, units, 1, False), lengths, features, units, *options[:3])

    monkeypatch.setattr(rnn, "lstm", lstm)
    work = workload(name)
    arrays = make_arrays(work)
    model = jax_rnn.model(work, arrays, Options())
    for key, array in model.to_ours(model.params).items():
        np.testing.assert_array_equal(array, arrays.weights[key])
    with np.load(references / f"{work.kind}.npz") as reference, peer_rules():
        assert max(worker.distances(work, jax_step.build(work, arrays, model), reference).values()) < 1e-5


def test_an_answer_that_is_off_is_refused() -> None:
    work = workload(TINY[0])
    right = {"w": np.ones(3), "loss": np.ones(())}
    reference = {"outputs": np.ones(4), "keras/w": np.ones(3), "keras/loss": np.ones(())}

    def built(outputs: np.ndarray, step: dict[str, np.ndarray], **options) -> Built:
        return Built(lambda count: None, lambda: outputs, lambda: step, "keras", [], **options)

    assert max(worker.distances(work, built(np.ones(4), right), reference).values()) == 0
    off = right | {"w": np.array([1, 1, 1.001])}
    for wrong in (built(np.full(4, 1.001), right), built(np.ones(4), off), built(np.ones(3), right), built(np.full(4, np.nan), right)):
        with pytest.raises(ValueError, match=r"outputs|w: "):
            worker.distances(work, wrong, reference)
    with pytest.raises(ValueError, match="arrays"):
        worker.distances(work, built(np.ones(4), {"w": np.ones(3)}), reference)
    worker.distances(work, built(np.ones(4), off, excluded={"w": np.array([False, False, True])}), reference)


def test_flops_by_hand() -> None:
    a = workload("A:B=2,T=3,H=4,E=5,V=7")
    # six rows: by kernel 5 x 16, by recurrent kernel 4 x 16; a head of 4 x 1 on two rows; backward twice the forward
    assert flops.forward_flops(a) == {"projection": 6 * 80 * 2, "recurrence": 6 * 64 * 2, "head": 2 * 4 * 2}
    assert flops.step_flops(a) == 3 * (960 + 768 + 16)
    assert flops.parameters(a) == {"recurrent": 80 + 64 + 16, "head": 5, "embedding": 35}
    # 165 small parameters 9 times, the table 6 times and its 6 touched rows of 5 thrice, 6 ids, 2 labels
    assert flops.least_bytes(a) == 4 * (9 * 165 + 9 * 30 + 6 + 2)
    b = workload("B:B=2,T=3,H=4,V=7")
    assert flops.step_flops(b) == 3 * (768 + 2 * 4 * 7 * 2)
    evaluation = workload("evaluation:T=3,H=4,E=5,V=7")
    assert flops.step_flops(evaluation) == 25_000 * (3 * 80 * 2 + 3 * 64 * 2 + 8)
    cell = recurrence(4, 3, 2)
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
    unknown = ("ours:colour=red", "theirs", "ours:backend=none", "ours:dtype=int8", "torch_lstm:dtype=bfloat16", "haiku:backend=x")
    for wrong in (*unknown, "ours:dropout=half"):
        with pytest.raises(InputError, match=r"give "):
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
    """Each row names a module that exists, an extra of the project, and a title whose versions its rows have."""
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


# peaks take time and are not tested here
QUICK = "from bench import timing, throughput; throughput.noise = lambda row, fastest: ''; timing.peaks = lambda: "
QUICK += "{f'{name}_{n}': 10.0 for name in ('gemm_gflops', 'copy_gbs') for n in (1, 2)}; throughput.main()"


def test_a_sweep_that_is_killed_goes_on(tmp_path: Path) -> None:
    """Kill -9 while a process is timed, and a torn last line as a machine that goes down may leave: no row lost, none doubled."""
    path = tmp_path / "rows.jsonl"
    arguments = ["--workload", "recurrence:B=2,T=3,H=4", "--peer", "ours", "ours:backend=reference", "--rounds", "3", "--seconds", "0.05"]
    command = [sys.executable, "-c", QUICK, *arguments, "--results", str(path)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, cwd=ROOT, env=environment, start_new_session=True) as sweep:
        while not path.exists() or len(path.read_text().splitlines()) < 3:
            assert sweep.poll() is None
            time.sleep(0.02)
        os.killpg(sweep.pid, signal.SIGKILL)
    before = [json.loads(line) for line in path.read_text().splitlines()]
    with path.open("a") as file:
        file.write('{"peer": "ours", "rou')
    run = _run(command[1:])
    assert run.returncode == 0, run.stderr[-3000:]
    assert "torn, skipped" in run.stderr
    rows = list(read_rows(path))
    assert rows[: len(before)] == before
    processes = [(row["candidate"], row["round"]) for row in rows if row["measurement"] == "step"]
    assert sorted(processes) == sorted((name, number) for name in ("ours", "ours:backend=reference") for number in range(3))
    # a candidate that was checked is not checked again
    assert len({row["distance"] for row in rows if row.get("candidate") == "ours"}) == 1


def test_a_sweep_keeps_its_rows(tmp_path: Path) -> None:
    """A row a process, skipped when it is there; a peer that fails leaves a row that says so, and is tried again. One core suffices."""
    path, work = tmp_path / "rows.jsonl", "recurrence:B=2,T=3,H=4"
    failing = "ours:backend=cudnn"  # needs a GPU
    arguments = ["--workload", work, "--peer", "ours", failing, "--rounds", "1", "--seconds", "0.05", "--results", str(path)]
    one_core = ["taskset", "-c", str(min(os.sched_getaffinity(0)))] if shutil.which("taskset") else []
    run = _run(["-c", QUICK, *arguments], one_core)
    assert run.returncode == 0, run.stderr[-3000:]
    peak, good, bad = (json.loads(line) for line in path.read_text().splitlines())
    assert [row["measurement"] for row in (peak, good, bad)] == ["peak", "step", "failed"]
    assert good["ms_per_step"] > 0
    assert good["cores"] == (1 if one_core else timing.CORES)
    assert good["samples"]
    assert good["backend_ran"] in BACKENDS
    assert good["flops"] == flops.step_flops(workload(work))
    assert "InputError" in bad["error"]
    assert "ms_per_step" not in bad
    assert "failed" in run.stdout
    again = _run(["-c", QUICK, *arguments, "--report"])
    assert again.returncode == 0, again.stderr[-3000:]
    assert len(path.read_text().splitlines()) == 3


def test_first_step(tmp_path: Path) -> None:
    """A cold and a warm process of each round; a failure is a row; what has rows is skipped."""
    path = tmp_path / "rows.jsonl"
    arguments = ["throughput", "--first-step", "--workload", "recurrence:B=2,T=3,H=4", "--rounds", "1", "--results", str(path)]
    arguments += ["--peer", "ours", "ours:backend=cudnn"]
    run = bench(*arguments)
    assert run.returncode == 0, run.stderr[-3000:]
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(row["candidate"], row["cache"], "error" in row) for row in rows] == [
        ("ours", "cold", False),
        ("ours", "warm", False),
        ("ours:backend=cudnn", "cold", True),
        ("ours:backend=cudnn", "warm", True),
    ]
    assert all(row["build_seconds"] > 0 and row["first_step_seconds"] > 0 for row in rows[:2])
    assert "failed: ended with code 1" in run.stdout
    again = bench(*arguments)
    assert again.returncode == 0
    assert len(path.read_text().splitlines()) == 4


def test_summary_by_hand() -> None:
    """Medians and speedups of rows made up; a candidate that equals ours on a workload is left out."""
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


def test_series_are_kept_apart() -> None:
    """Workload A of the commit was measured twice: against peers, and with and without recurrent dropout."""
    rows = [schema.rows_of(throughput.PATH, "step", git="8343e8c9e398", series=name) for name in ("", "recurrent dropout")]
    counts = [sum(row["workload"] == "A" and row["candidate"] == "ours" for row in summary.kept(part)) for part in rows]
    assert counts == [7, 18]
    assert {row["workload"] for row in rows[1]} == {"A"}
