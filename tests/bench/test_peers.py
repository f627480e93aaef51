"""The peers of the throughput benchmark do the same work as this project: the same outputs, and the same weights or gradients after a step.

The peers run in processes of their own, because some of them give warnings when they are imported, and because Keras can use only one
backend in a process.
"""

import json
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from rows import TINY, run_python

from bench import flops, machine, peers, timing, worker
from bench.peers import PEERS
from bench.peers.base import Built, Options
from bench.workloads import GRIDS, make_arrays, workload

pytestmark = pytest.mark.usefixtures("quick_processes", "quick_compiles")

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
def check(folder, peers, names):
    for name in names:
        work = workload(name)
        arrays = make_arrays(work)
        path = folder / f"{work.kind}.npz"
        if not path.exists():
            from bench.peers import ours
            ours.write_reference(path, work, arrays)
        for candidate in peers:
            peer, _, backend = candidate.partition(":")
            if PEERS[peer].lacks(work):
                continue
            built = worker.build(peer, work, arrays, Options(backend or None, work.dropout, work.recurrent_dropout))
            if work.kind == "sentiment":
                built.run(1)
            with np.load(path) as reference:
                distances = worker.distances(work, built, reference)
            print(json.dumps({"folder": str(folder), "peer": candidate, "kind": work.kind, "distances": distances, "note": built.note}))


for folder, peers, names in json.loads(sys.argv[2]):
    check(Path(folder), peers, names)
"""


EVERY_KIND = (*TINY, "inference:B=3,T=5,H=4,E=3,V=20")


class Work(NamedTuple):
    """Workloads that some peers compute, and the folder of the reference results.

    `peers` and `names` are the names of the peers and of the workloads. `folder` has one file of reference results for each kind of
    workload.
    """

    folder: Path
    peers: Sequence[str]
    names: Sequence[str] = EVERY_KIND


def _check(*works: Work) -> list[dict[tuple[str, str], dict]]:
    """Let the peers of each `Work` compute its workloads, all in one process, and return one dict of rows for each `Work`.

    The key of a row is the pair of its peer and its kind of workload. The process fails if the results of a peer differ from the reference
    results by a relative error above 1e-4.
    """
    own = any("torch_lstm" in work.peers for work in works)
    run = run_python(["-c", CHECK, "" if own else "jax", json.dumps([(str(work.folder), *work[1:]) for work in works])])
    assert run.returncode == 0, run.stderr[-3000:]
    rows = [json.loads(line) for line in run.stdout.splitlines() if line.startswith("{")]
    found = []
    for work in works:
        found.append({(row["peer"], row["kind"]): row for row in rows if row["folder"] == str(work.folder)})
        assert len(found[-1]) == sum(not PEERS[peer.partition(":")[0]].lacks(workload(name)) for peer in work.peers for name in work.names)
    return found


@pytest.fixture(scope="module")
def references(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of the reference results, which the backend "reference" computes.

    The fixture checks that the relative errors of the default backend are below 1e-5.
    """
    folder = tmp_path_factory.mktemp("references")
    for row in _check(Work(folder, ["ours"]))[0].values():
        assert max(row["distances"].values()) < 1e-5
    return folder


OWN_LOOPS = {"own_loop": [f"own_loop:{loop}" for loop in ("donated", "functions", "train_step")], "keras_jax": ["keras_jax:accelerated"]}
"""Dict from the name of a peer to more candidates: further training loops with our layer, and Keras with its layers replaced by ours."""


def _groups() -> list[list[str]]:
    """Return groups of names of peers, one group for each framework.

    The groups do not contain this project, peers that need a GPU, and the slow peer `torch_compiled`.
    """
    groups: dict[tuple[str, ...], list[str]] = {}
    for name, peer in PEERS.items():
        if name not in ("ours", "torch_compiled") and not peer.gpu:
            groups.setdefault(peer.imports[-1:], []).extend([name, *OWN_LOOPS.get(name, ())])
    return list(groups.values())


WITHOUT_JAX = """
import sys
from bench import worker
from bench.peers.base import Options
from bench.workloads import make_arrays, workload

for name in sys.argv[2:]:
    work = workload(name)
    built = worker.build(sys.argv[1], work, make_arrays(work), Options(None, work.dropout, work.recurrent_dropout))
    built.after_one_step(), built.outputs()
    print(name, "jax" in sys.modules)
"""


@pytest.mark.slow
@pytest.mark.parametrize("peer", [name for name, peer in PEERS.items() if not peer.loads_jax])
def test_peers_without_jax_do_not_load_it(peer: str) -> None:
    """A peer whose attribute `loads_jax` is false does not import JAX, because the import would add to its memory and its time.

    The test builds and runs the model of each such peer. A model that uses torch.compile is only built, because its compilation takes long.
    """
    for name in PEERS[peer].imports:
        if find_spec(name) is None:
            pytest.skip(f"{name} is not installed")
    names = [name for name in EVERY_KIND if not PEERS[peer].lacks(workload(name))]
    script = WITHOUT_JAX if peer != "torch_compiled" else WITHOUT_JAX.replace("    built.after_one_step(), built.outputs()\n", "")
    run = run_python(["-c", script, peer, *names])
    assert run.returncode == 0, run.stderr[-3000:]
    assert run.stdout.splitlines() == [f"{name} False" for name in names]


@pytest.mark.slow
@pytest.mark.parametrize("peers", _groups(), ids=" ".join)
def test_peers_do_the_same_work(references: Path, peers: list[str]) -> None:
    for peer in peers:
        for name in PEERS[peer.partition(":")[0]].imports:
            if find_spec(name) is None:
                pytest.skip(f"{name} is not installed")
    (rows,) = _check(Work(references, peers))
    for (peer, kind), row in rows.items():
        if kind == "sentiment" and not peer.startswith(("keras", "own_loop")):
            assert "no recurrent dropout" in row["note"]


@pytest.mark.slow
def test_resets_and_other_cells(tmp_path: Path) -> None:
    """The peers agree with the reference results on a workload with resets, and on workloads with the cells GRU and simple RNN.

    This project also agrees on training steps with the cells min_gru and lstm_coupled.
    """
    others = ("torch_compiled", "keras_torch", "keras_tensorflow")  # a minute of compilation, and Keras takes one backend a process
    here = [peer for name, peer in PEERS.items() if not peer.missing() and name not in others]
    resets = Work(tmp_path / "resets", [peer.name for peer in here if peer.resets], ["resets:B=4,T=9,H=8,R=30"])
    cells = [
        Work(
            tmp_path / cell,
            [peer.name for peer in here if peer.name == "ours" or cell in peer.cells],
            [f"{name}:B=4,T=5,H=8,cell={cell}" for name in GRIDS],
        )
        for cell in ("gru", "simple_rnn")
    ]
    steps = Work(tmp_path / "steps", ["ours"], ["A:B=4,T=3,H=4,E=3,V=20,cell=min_gru", "B:B=4,T=3,H=4,V=5,cell=lstm_coupled"])
    works = (resets, *cells, steps)
    for work in works:
        work.folder.mkdir()
    assert all(_check(*works))


def test_workloads_with_resets() -> None:
    assert PEERS["torch_lstm"].lacks(workload("resets")) == "no resets in resets"
    arrays = make_arrays(workload("resets"))
    assert arrays.resets is not None
    assert abs(arrays.resets.mean() - 0.03) < 0.005
    assert make_arrays(workload("resets:B=2,T=3,H=4,R=0")).resets is None


def test_workloads_with_any_cell() -> None:
    """The numbers of parameters and FLOPs of a workload depend on its cell.

    If a peer does not support a workload, its method `lacks` names the unsupported cell or kind of workload.
    """
    work = workload("B:cell=lstm_coupled")
    assert (work.cell, work.gates) == ("lstm_coupled", 3)
    assert PEERS["torch_lstm"].lacks(work) == "no lstm_coupled in B"
    assert PEERS["torch_lstm"].lacks(workload("A:cell=gru")) == "no gru in A"
    assert not PEERS["torch_lstm"].lacks(workload("recurrence:cell=gru"))
    assert not PEERS["ours"].lacks(work)
    assert sorted(make_arrays(workload("recurrence:H=4,cell=gru")).cell()) == ["bias", "kernel", "recurrent_bias", "recurrent_kernel"]
    assert flops.step_flops(workload("recurrence:H=8,T=5,B=4,cell=gru")) == 3 * 2 * 4 * 5 * (8 + 8) * 24
    assert flops.step_flops(workload("recurrence:H=8,T=5,B=4,cell=min_gru")) == 3 * 2 * 4 * 5 * 8 * 16
    assert flops.step_flops(workload("forward:H=8,T=5,B=4,cell=gru")) == 2 * 4 * 5 * (8 + 8) * 24
    full = workload("forward:H=8,T=5,B=4,cell=lstm_full_gate_recurrence")
    assert (flops.step_flops(full), flops.parameters(full)["recurrent"]) == (
        2 * 4 * 5 * ((8 + 8) * 32 + 24 * 24),
        (8 + 8 + 1) * 32 + 24 * 24,
    )
    assert PEERS["keras_jax"].lacks(workload("forward")) == "no workload of the kind forward"
    with pytest.raises(ValueError, match="give one of lstm, gru"):
        workload("A:cell=grue")


@pytest.mark.slow
@pytest.mark.skipif(find_spec("torch") is None, reason="torch is not installed")
def test_a_peer_with_weights_off_by_one_percent_is_refused(references: Path) -> None:
    """A peer is refused if any one of its arrays of weights is 1 % too large."""
    run = run_python(["-c", PERTURBED, str(references), "torch_lstm", " ".join(TINY)])
    assert run.returncode == 0, run.stderr[-3000:]
    lines = run.stdout.splitlines()
    assert len(lines) == sum(len(make_arrays(workload(name)).weights) for name in TINY)
    assert all(line.startswith("refused") for line in lines), run.stdout


def test_a_peer_that_needs_a_gpu(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """On a machine without a GPU, a peer that needs a GPU is skipped, and the reason is printed.

    On a machine with a GPU, the measured processes get the settings for float32 without TF32.
    """
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
    """If JAX's `lstm_ref` replaces cuDNN's LSTM, the results of the peer `jax_rnn` agree with the reference results.

    Converting the weights to the layout of the peer and back returns the same weights.
    """
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
