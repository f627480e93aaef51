"""The peers of the throughput benchmark do the same work as this project: the same
outputs, and the same weights or gradients after a step.

The peers run in processes of their own, because some of them give warnings when they
are imported, and because Keras can use only one backend in a process.
"""

import json
import os
from collections import defaultdict

import numpy as np
import pytest
from rows import TINY, run_python

from bench import hardware, peers, timing, worker
from bench.peers import PEERS, base, ours
from bench.peers.base import Built
from bench.workloads import GRIDS, make_arrays, workload

CHECK = """
import json, sys
import numpy as np
from pathlib import Path
from bench import worker
from bench.peers import read_candidate
from bench.workloads import make_arrays, workload

if "jax" in sys.argv[1]:
    import jax
    jax.config.update("jax_disable_most_optimizations", True)
folder = Path(sys.argv[2])
for text, name in json.loads(sys.argv[3]):
    work, candidate = workload(name), read_candidate(text)
    arrays, path = make_arrays(work), folder / f"{name}.npz"
    if not path.exists():
        from bench.peers import ours
        ours.write_reference(path, work, arrays)
    built = worker.build(candidate.peer, work, arrays, candidate.options(work))
    if work.kind == "sentiment":
        built.run(1)
    with np.load(path) as reference:
        distance = max(worker.distances(work, built, reference).values())
    print(json.dumps({"candidate": text, "kind": work.kind, "note": built.note, "distance": distance}))
"""
EVERY_KIND = (*TINY, "inference:B=3,T=5,H=4,E=3,V=20")


def _check(folder, candidates, names=EVERY_KIND, quick="jax"):
    """Let candidates compute the workloads that they can run, all in one process, and
    return a row for each.

    A row has the largest relative error of a result.
    """
    pairs = [
        (text, name)
        for name in names
        for text in candidates
        if not PEERS[text.partition(":")[0]].lacks(workload(name))
    ]
    lines = run_python(
        ["-c", CHECK, quick, str(folder), json.dumps(pairs)]
    ).splitlines()
    rows = [json.loads(line) for line in lines if line.startswith("{")]
    assert len(rows) == len(pairs)
    for row in rows:
        assert row["distance"] < 1e-4, row
    return rows


@pytest.fixture(scope="module")
def references(tmp_path_factory, peer_rules):
    """Return the folder of the reference results, from which the default backend
    differs by less than 1e-5.
    """
    folder = tmp_path_factory.mktemp("references")
    with peer_rules(), pytest.MonkeyPatch.context() as patch:
        # the tests have two devices, whatever the machine has
        patch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
        for work in map(workload, EVERY_KIND):
            arrays, path = make_arrays(work), folder / f"{work.name}.npz"
            ours.write_reference(path, work, arrays)
            built = worker.build(
                "ours", work, arrays, peers.read_candidate("ours").options(work)
            )
            if work.kind == "sentiment":
                built.run(1)
            with np.load(path) as reference:
                assert max(worker.distances(work, built, reference).values()) < 1e-5
    return folder


MORE = {
    "own_loop": [
        f"own_loop:backend={loop}" for loop in ("donated", "functions", "train_step")
    ],
    "keras_jax": ["keras_jax:backend=accelerated"],
}


def _groups():
    """Return the candidates by framework, without this project and the slow peer `torch_compiled`."""
    groups = defaultdict(list)
    for name, peer in PEERS.items():
        if name not in ("ours", "torch_compiled"):
            framework = (
                peer.packages[-1]
                if peer.packages and peer.packages[-1] not in ("flax", "jax")
                else name[:4]
            )
            groups[framework] += [name, *MORE.get(name, ())]
    return list(groups.values())


@pytest.mark.slow
@pytest.mark.parametrize("candidates", _groups(), ids=" ".join)
def test_peers_do_the_same_work(references, candidates):
    missing = {text: PEERS[text.partition(":")[0]].missing() for text in candidates}
    if all(missing.values()):
        pytest.skip(missing[candidates[0]])
    candidates = [text for text in candidates if not missing[text]]
    for row in _check(
        references, candidates, quick="" if "torch_lstm" in candidates else "jax"
    ):
        if row["kind"] == "sentiment":
            assert ("no recurrent dropout" in row["note"]) != PEERS[
                row["candidate"].partition(":")[0]
            ].recurrent_dropout


WITHOUT_JAX = """
import sys
from bench import worker
from bench.peers.base import Options
from bench.workloads import make_arrays, workload

for name in sys.argv[2:]:
    work = workload(name)
    built = worker.build(sys.argv[1], work, make_arrays(work), Options(None, work.dropout, work.recurrent_dropout))
    if sys.argv[1] != "torch_compiled":  # its compilation takes long
        built.after_one_step(), built.outputs()
    print(name, "jax" in sys.modules)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "peer", [name for name, peer in PEERS.items() if not peer.loads_jax]
)
def test_peers_without_jax_do_not_load_it(peer):
    """The import of JAX would add to the memory and the time of such a peer."""
    if missing := PEERS[peer].missing():
        pytest.skip(missing)
    names = [name for name in EVERY_KIND if not PEERS[peer].lacks(workload(name))]
    assert run_python(["-c", WITHOUT_JAX, peer, *names]).splitlines() == [
        f"{name} False" for name in names
    ]


@pytest.mark.slow
def test_resets_and_other_cells(tmp_path):
    # a minute of compilation, and Keras takes one backend a process
    others = ("torch_compiled", "keras_torch", "keras_tensorflow")
    here = [
        name
        for name, peer in PEERS.items()
        if not peer.missing() and name not in others
    ]
    resets = "resets:B=4,T=9,H=8,R=30"
    _check(
        tmp_path,
        here,
        [resets, f"{resets},cell=lstm_no_output_activation", "forward:B=4,T=9,H=8"],
    )
    for cell in ("gru", "simple_rnn"):
        names = [f"{name}:B=4,T=5,H=8,cell={cell}" for name in GRIDS]
        _check(
            tmp_path,
            [name for name in here if name == "ours" or cell in PEERS[name].cells],
            names,
        )
    _check(
        tmp_path,
        ["ours"],
        ["A:B=4,T=3,H=4,E=3,V=20,cell=min_gru", "B:B=4,T=3,H=4,V=5,cell=lstm_coupled"],
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("peer", "name"),
    [
        ("xlstm", "recurrence:B=2,T=6,H=8,E=5,N=2,cell=slstm"),
        ("mlstm_kernels", "recurrence:B=2,T=6,H=8,E=5,N=2,cell=mlstm"),
        ("memax", "recurrence:B=2,T=6,H=8,E=5,cell=lru"),
        ("memax", "resets:B=2,T=9,H=8,E=5,R=30,cell=lru"),
    ],
)
def test_successors_of_the_lstm(tmp_path, peer, name):
    if missing := PEERS[peer].missing():
        pytest.skip(missing)
    _check(tmp_path, [peer, "ours"], [name])


@pytest.mark.parametrize(
    ("peer", "name", "lack"),
    [
        ("torch_lstm", "resets", "no resets in resets"),
        ("torch_lstm", "A:cell=gru", "no gru in A"),
        ("torch_lstm", "recurrence:cell=gru", ""),
        ("ours", "B:cell=lstm_coupled", ""),
        ("keras_jax", "forward", "no workload of the kind forward"),
        ("memax", "resets", "no lstm in resets"),
        ("memax", "resets:cell=lstm_no_output_activation", ""),
    ],
)
def test_what_a_peer_lacks(peer, name, lack):
    assert PEERS[peer].lacks(workload(name)) == lack


def test_evaluation_in_batches():
    ids = np.arange(14).reshape(7, 2)
    built = base.served(
        workload("inference:B=3,T=2"), ids, lambda batch: batch.sum(1, keepdims=True)
    )
    np.testing.assert_array_equal(built.outputs(), ids.sum(1))


def test_workloads_with_resets_and_any_cell():
    resets = make_arrays(workload("resets")).resets
    assert resets is not None
    assert abs(resets.mean() - 0.03) < 0.005
    assert make_arrays(workload("resets:B=2,T=3,H=4,R=0")).resets is None
    assert sorted(make_arrays(workload("recurrence:H=4,cell=gru")).cell()) == [
        "bias",
        "kernel",
        "recurrent_bias",
        "recurrent_kernel",
    ]


@pytest.mark.parametrize("gpu", [False, True])
def test_float32_without_tf32_on_a_gpu(gpu, monkeypatch):
    monkeypatch.setattr(hardware, "gpu", lambda: gpu)
    assert (timing.pinned().items() >= hardware.GPU_SETTINGS.items()) == gpu


def test_an_answer_that_is_off_is_refused():
    right = {"w": np.ones(3), "loss": np.ones(())}
    off = right | {"w": np.array([1, 1, 1.001])}
    reference = {
        "outputs": np.ones(4),
        "keras/w": np.ones(3),
        "keras/loss": np.ones(()),
    }

    def distance(outputs, step, **options):
        built = Built(print, lambda: outputs, lambda: step, "keras", [], **options)
        return max(worker.distances(workload(TINY[0]), built, reference).values())

    assert (
        distance(np.ones(4), right)
        == distance(np.ones(4), off, excluded={"w": np.array([False, False, True])})
        == 0
    )
    outputs = np.full(4, 1.001), np.ones(3), np.full(4, np.nan)
    for wrong in (
        *((array, right) for array in outputs),
        (np.ones(4), off),
        (np.ones(4), {"w": np.ones(3)}),
    ):
        with pytest.raises(ValueError, match=r"outputs|w: |arrays"):
            distance(*wrong)
