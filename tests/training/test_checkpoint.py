"""A checkpoint comes back bit by bit, or the one before it does: flipped bits, lost files, kill -9, a full disk."""

import errno
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
import types
from collections import namedtuple
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec

from lstm_jax.errors import InputError
from lstm_jax.training import checkpoint

Pair = namedtuple("Pair", "mu nu")


def make_state(seed: int):
    """A tree with each dtype, sharded and replicated leaves, and the bit patterns that a careless copy loses."""
    mesh = Mesh(np.array(jax.devices()), ("batch",))
    rows, all_over = NamedSharding(mesh, PartitionSpec("batch")), NamedSharding(mesh, PartitionSpec())
    rng = np.random.default_rng(seed)
    table = rng.standard_normal((40, 8)).astype(np.float32)
    table.view(np.uint32)[:4, 0] = [0x7FC00001, 0x7F800001, 0xFFC12345, 0x80000000]  # quiet, signalling, negative NaN; -0.0
    half = rng.integers(0, 2**16, (6, 3), np.uint16).view(jnp.bfloat16)
    return {
        "table": jax.device_put(table, rows),
        "minus_zero": jax.device_put(np.full((16, 2), -0.0, np.float32), rows),
        "optimizer": (Pair(jax.device_put(half, all_over), jax.device_put(np.int32([seed, -1]), all_over)), ()),
        "step": jax.device_put(np.int32(seed), all_over),
        "key": jax.device_put(np.uint32([2**32 - 1, seed]), all_over),
        "host": rng.standard_normal((3, 2)).astype(np.float32),
    }


def assert_same(got, want):
    assert jax.tree.structure(got) == jax.tree.structure(want)
    for left, right in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        assert type(left) is type(right)
        assert left.dtype == right.dtype
        assert left.shape == right.shape
        assert np.asarray(left).tobytes() == np.asarray(right).tobytes()
        if isinstance(left, jax.Array):
            assert left.sharding == right.sharding


@pytest.fixture(scope="module")
def two_steps(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "checkpoints"
    for step in (7, 12):
        checkpoint.save(folder, step, make_state(step), {"epoch": step, "rate": 0.1})
    return folder


@pytest.fixture
def folder(two_steps, tmp_path) -> Path:
    """Good steps 7 and 12, to be spoilt."""
    return Path(shutil.copytree(two_steps, tmp_path / "copy"))


def files_of(folder: Path, step: int) -> list[Path]:
    arrays = [path for path in (folder / str(step)).rglob("*") if path.is_file()]
    return [*sorted(arrays), folder / f"{step}.manifest.json"]


def assert_falls_back(folder: Path, reason: str):
    found = checkpoint.restore(folder, make_state(0))
    assert found.step == 7
    assert [step for step, _ in found.rejected] == [12]
    assert reason in found.rejected[0][1]
    assert_same(found.state, make_state(7))


def test_round_trip_is_bit_exact_and_keeps_shardings(two_steps):
    found = checkpoint.restore(two_steps, make_state(0))
    assert (found.step, found.extra, found.rejected) == (12, {"epoch": 12, "rate": 0.1}, ())
    assert_same(found.state, make_state(12))


def test_shapes_and_shardings_alone_are_enough_to_restore(two_steps):
    def describe(leaf):
        return leaf if isinstance(leaf, np.ndarray) else jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)

    assert_same(checkpoint.restore(two_steps, jax.tree.map(describe, make_state(0))).state, make_state(12))
    bare = {"a": jnp.arange(3)}
    checkpoint.save(two_steps.parent / "bare", 0, bare, {})
    restored = checkpoint.restore(two_steps.parent / "bare", {"a": jax.ShapeDtypeStruct((3,), jnp.int32)}).state
    assert restored["a"].tolist() == [0, 1, 2]


def test_restores_onto_another_sharding(two_steps):
    like = make_state(0)
    like["table"] = jax.device_put(like["table"], like["step"].sharding)
    found = checkpoint.restore(two_steps, like).state
    assert found["table"].sharding == like["step"].sharding
    assert np.asarray(found["table"]).tobytes() == np.asarray(make_state(12)["table"]).tobytes()


@pytest.mark.parametrize("seed", range(20))
def test_one_flipped_bit_anywhere_is_noticed(folder, seed):
    dice = random.Random(seed)
    path = dice.choice(files_of(folder, 12))
    content = bytearray(path.read_bytes())
    content[dice.randrange(len(content))] ^= 1 << dice.randrange(8)
    path.write_bytes(content)
    assert_falls_back(folder, "damaged")


def test_one_flipped_bit_in_each_file_is_noticed(folder):
    for path in files_of(folder, 12):
        good = path.read_bytes()
        bad = bytearray(good)
        bad[len(bad) // 2] ^= 4
        path.write_bytes(bad)
        assert_falls_back(folder, "damaged")
        path.write_bytes(good)
    assert checkpoint.restore(folder, make_state(0)).step == 12


def test_every_bit_of_the_manifest_counts(folder):
    path = folder / "12.manifest.json"
    good = path.read_bytes()
    for place in range(0, len(good), 7):
        for bit in range(8):
            path.write_bytes(good[:place] + bytes([good[place] ^ 1 << bit]) + good[place + 1 :])
            assert checkpoint._read_manifest(folder, 12) is None


def test_a_manifest_of_another_step_is_damaged(folder):
    shutil.copy(folder / "7.manifest.json", folder / "12.manifest.json")
    assert_falls_back(folder, "manifest")


@pytest.mark.parametrize("size", [0, -1])
def test_a_truncated_file_is_noticed(folder, size):
    for path in files_of(folder, 12):
        good = path.read_bytes()
        path.write_bytes(good[:size])
        assert_falls_back(folder, "manifest" if path.suffix == ".json" else "bytes instead of")
        path.write_bytes(good)


def test_a_lost_file_an_added_file_and_a_lost_folder_are_noticed(folder):
    for path in files_of(folder, 12)[:-1]:
        content = path.read_bytes()
        path.unlink()
        assert_falls_back(folder, "missing")
        path.write_bytes(content)
    (folder / "12" / "stray").write_text("")
    assert_falls_back(folder, "added")
    shutil.rmtree(folder / "12")
    assert_falls_back(folder, "missing")


def test_what_orbax_cannot_read_is_rejected(folder, monkeypatch):
    true_restore = checkpoint._orbax_restore

    def fails_on_12(arrays, wanted):
        if arrays.name == "12":
            raise ValueError("DATA_LOSS")
        return true_restore(arrays, wanted)

    monkeypatch.setattr(checkpoint, "_orbax_restore", fails_on_12)
    assert_falls_back(folder, "orbax cannot read it: DATA_LOSS")


def test_what_orbax_reads_wrongly_is_rejected(folder, monkeypatch):
    true_restore = checkpoint._orbax_restore

    def flips_a_sign(arrays, wanted):
        leaves = true_restore(arrays, wanted)
        return leaves | {"minus_zero": -leaves["minus_zero"]} if arrays.name == "12" else leaves

    monkeypatch.setattr(checkpoint, "_orbax_restore", flips_a_sign)
    assert_falls_back(folder, "leaf minus_zero is damaged")


def test_without_a_good_one_the_error_says_why(folder, tmp_path):
    for step in (7, 12):
        (folder / f"{step}.manifest.json").write_text("")
    with pytest.raises(InputError, match=r"all are damaged .*step 12: the manifest"):
        checkpoint.restore(folder, make_state(0))
    for empty in (tmp_path / "absent", tmp_path):
        assert checkpoint.steps(empty) == []
        with pytest.raises(InputError, match="none is there"):
            checkpoint.restore(empty, make_state(0))


def test_a_step_without_manifest_is_ignored_and_then_removed(folder):
    (folder / "12.manifest.json").unlink()
    found = checkpoint.restore(folder, make_state(0))
    assert (found.step, found.rejected) == (7, ())
    checkpoint.save(folder, 20, make_state(20), {})
    assert sorted(os.listdir(folder)) == ["20", "20.manifest.json", "7", "7.manifest.json"]


def test_other_files_are_left_alone(folder):
    for name in ("config.json", "12.txt", "notes.manifest.json"):
        (folder / name).write_text("mine")
    (folder / "plots").mkdir()
    (folder / "9.orbax-checkpoint-tmp").mkdir()
    (folder / "9.manifest.json.tmp").write_text("half")
    checkpoint.save(folder, 20, make_state(20), {})
    assert checkpoint.steps(folder) == [7, 12, 20]
    assert {"config.json", "12.txt", "notes.manifest.json", "plots"} < set(os.listdir(folder))
    assert not [name for name in os.listdir(folder) if name.startswith("9")]


@pytest.mark.parametrize("step", [12, 20])
@pytest.mark.parametrize("function", ["_write_manifest", "_orbax_save", "_leaf_record"])
def test_a_save_that_fails_midway_disturbs_nothing(folder, monkeypatch, step, function):
    def fail(*_):
        raise RuntimeError("killed")

    before = sorted(os.listdir(folder))
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, function, fail)
        with pytest.raises(RuntimeError, match="killed"):
            checkpoint.save(folder, step, make_state(99), {})
    assert sorted(os.listdir(folder)) == before
    assert_same(checkpoint.restore(folder, make_state(0)).state, make_state(12))


def test_a_rename_that_fails_commits_nothing(folder, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint.os, "replace", lambda *_: (_ for _ in ()).throw(PermissionError(errno.EACCES, "Permission denied")))
        with pytest.raises(InputError, match="Permission denied"):
            checkpoint.save(folder, 20, make_state(20), {})
    assert checkpoint.steps(folder) == [7, 12]
    assert not list(folder.glob("*.tmp"))


def test_saving_a_step_again_replaces_it(folder):
    for seed in (13, 14, 15):
        checkpoint.save(folder, 12, make_state(seed), {"seed": seed})
        found = checkpoint.restore(folder, make_state(0))
        assert (found.step, found.extra) == (12, {"seed": seed})
        assert_same(found.state, make_state(seed))
        assert len(os.listdir(folder)) == 4


def test_saving_over_a_damaged_step_mends_it(folder):
    (folder / "12.manifest.json").write_text("x")
    checkpoint.save(folder, 12, make_state(13), {})
    found = checkpoint.restore(folder, make_state(0))
    assert (found.step, found.rejected) == (12, ())
    assert len(os.listdir(folder)) == 4


SAVE_FOR_EVER = """
import sys
from pathlib import Path
import numpy as np
from lstm_jax.training import checkpoint
for step in range(10**6):
    checkpoint.save(Path(sys.argv[1]), step, {"table": np.full((2000, 128), step, np.float32)}, {"step": step})
    checkpoint.prune(Path(sys.argv[1]), keep=3)
    print(step, flush=True)
"""


@pytest.mark.parametrize("delay", [0.0, 0.013, 0.03])
def test_kill_9_during_saves_leaves_the_last_finished_one(tmp_path, delay):
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", SAVE_FOR_EVER, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        while (line := process.stdout.readline()) != "4\n":
            assert line, "the saving process ended by itself"
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        last = int(([4, *process.stdout.read().split()])[-1])
    assert process.returncode == -signal.SIGKILL
    like = {"table": np.zeros((2000, 128), np.float32)}
    found = checkpoint.restore(tmp_path, like)
    assert found.step in (last, last + 1)
    assert found.rejected == ()
    assert found.extra == {"step": found.step}
    assert (found.state["table"] == found.step).all()
    checkpoint.save(tmp_path, 10**6, like, {})
    checkpoint.prune(tmp_path, keep=1)
    assert sorted(os.listdir(tmp_path)) == ["1000000", "1000000.manifest.json"]


def test_prune_keeps_the_newest(folder):
    checkpoint.save(folder, 100, make_state(1), {})
    checkpoint.prune(folder, keep=5)
    assert checkpoint.steps(folder) == [7, 12, 100]
    checkpoint.prune(folder, keep=2)
    assert sorted(os.listdir(folder)) == ["100", "100.manifest.json", "12", "12.manifest.json"]


def test_prune_does_not_count_damaged_ones(folder):
    (folder / "12.manifest.json").write_text("x")
    checkpoint.prune(folder, keep=1)
    assert checkpoint.steps(folder) == [7, 12]
    checkpoint.save(folder, 20, make_state(20), {})
    checkpoint.prune(folder, keep=1)
    assert checkpoint.steps(folder) == [20]
    assert checkpoint.restore(folder, make_state(0)).step == 20


def test_prune_keeps_at_least_one(folder):
    with pytest.raises(InputError, match="keep 1 or more"):
        checkpoint.prune(folder, keep=0)


@pytest.mark.parametrize(
    "error",
    [OSError(errno.ENOSPC, "No space left on device"), ValueError('RESOURCE_EXHAUSTED: "a": No space left on device [os_error_code=28]')],
)
def test_a_full_disk_is_said_in_a_line(folder, monkeypatch, error):
    def full(*_):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "_orbax_save", full)
        with pytest.raises(InputError, match="no space left; free some"):
            checkpoint.save(folder, 20, make_state(20), {})
    assert checkpoint.restore(folder, make_state(0)).step == 12


def test_too_little_space_is_noticed_before_anything_is_written(folder, monkeypatch):
    usage = shutil.disk_usage(folder)
    monkeypatch.setattr(checkpoint.shutil, "disk_usage", lambda _: usage._replace(free=100))
    with pytest.raises(InputError, match="no space left"):
        checkpoint.save(folder, 20, make_state(20), {})
    assert checkpoint.steps(folder) == [7, 12]


def test_a_limit_of_files_is_noticed_before_anything_is_written(folder, monkeypatch):
    monkeypatch.setattr(checkpoint.resource, "getrlimit", lambda _: (100, 100))
    with pytest.raises(InputError, match=r"^checkpoint folder .*: File too large; allow larger files \(ulimit -f\)"):
        checkpoint.save(folder, 20, make_state(20), {})
    assert checkpoint.steps(folder) == [7, 12]


@pytest.mark.parametrize(
    ("code", "message"),
    [(errno.EFBIG, r"File too large; allow larger files \(ulimit -f\)"), (errno.EIO, "Input/output error; name a folder")],
)
def test_errors_that_tensorstore_reports_are_said_in_a_line(code, message, folder, monkeypatch):
    """Also where other threads of orbax are still at it: what they say of the event loop is nothing to a user."""

    def failing(*_):
        with checkpoint._quiet():
            raise ValueError(f"OUT_OF_RANGE: Error writing \"a/0\": Failed to write [os_error_code='{code}']")

    seen = []
    monkeypatch.setattr(sys, "unraisablehook", seen.append)
    monkeypatch.setattr(checkpoint, "_orbax_save", failing)
    with pytest.raises(InputError, match=message):
        checkpoint.save(folder, 20, make_state(20), {})
    for error in (RuntimeError("Event loop is closed"), RuntimeError("another")):
        sys.unraisablehook(types.SimpleNamespace(exc_value=error))
    assert [str(one.exc_value) for one in seen] == ["another"]


def test_leaves_that_older_versions_did_not_save(folder):
    like = make_state(0) | {"behind": np.arange(3)}
    with pytest.raises(InputError, match="leaf behind of step 12: not in the checkpoint"):
        checkpoint.restore(folder, like)
    found = checkpoint.restore(folder, like, added=("behind",)).state
    assert found.pop("behind").tolist() == [0, 1, 2]
    assert_same(found, make_state(12))


def changed(**leaves):
    return make_state(0) | leaves


@pytest.mark.parametrize(
    ("like", "message"),
    [
        (lambda: changed(table=np.zeros((41, 8), np.float32)), r"leaf table of step 12: saved as .*40, 8.*wanted as .*41, 8"),
        (lambda: changed(step=np.float32(0)), r"leaf step of step 12: saved as .*int32.*wanted as .*float32"),
        (lambda: changed(second=np.zeros(2)), r"leaf second of step 12: not in the checkpoint"),
        (lambda: {"table": make_state(0)["table"]}, r"leaf host of step 12: not in this model"),
        (lambda: changed(step=changed()["step"], optimizer=Pair(np.zeros(1), np.zeros(1))), r"leaf optimizer\.0\.mu .*not in this model"),
    ],
)
def test_another_model_is_the_users_error_and_names_the_leaf(two_steps, like, message):
    with pytest.raises(InputError, match=message):
        checkpoint.restore(two_steps, like())


def test_a_sharding_that_does_not_divide_is_the_users_error(tmp_path):
    checkpoint.save(tmp_path, 0, {"a": np.zeros(3, np.float32)}, {})
    sharding = NamedSharding(AbstractMesh((2,), ("batch",)), PartitionSpec("batch"))
    with pytest.raises(InputError, match="leaf a of step 0"):
        checkpoint.restore(tmp_path, {"a": jax.ShapeDtypeStruct((3,), np.float32, sharding=sharding)})


@pytest.mark.parametrize(
    ("step", "state", "extra", "message"),
    [
        (-1, {"a": np.zeros(1)}, {}, "checkpoint step"),
        (0, {}, {}, "tree without leaves"),
        (0, {"a": 1.0}, {}, "leaf a: float"),
        (0, {"a": np.zeros((0, 2))}, {}, "leaf a: shape"),
        (0, {"a": {"b": np.zeros(1)}, "a.b": np.zeros(1)}, {}, "two leaves of the same path"),
        (0, {"a": np.zeros(1)}, {"a": object()}, "checkpoint extra"),
    ],
)
def test_what_cannot_be_saved_is_refused(tmp_path, step, state, extra, message):
    with pytest.raises(InputError, match=message):
        checkpoint.save(tmp_path / "run", step, state, extra)
    assert not (tmp_path / "run").exists()


def test_a_typed_random_key_is_refused_with_the_remedy(tmp_path):
    with pytest.raises(InputError, match="key_data"):
        checkpoint.save(tmp_path, 0, {"key": jax.random.key(0)}, {})


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"checkpoint folder .*file"):
        checkpoint.save(tmp_path / "file", 0, make_state(0), {})


def test_no_thread_stays_and_orbax_is_silent(tmp_path, capfd):
    before = threading.active_count()
    for step in range(5):
        checkpoint.save(tmp_path, step, make_state(0), {})
        checkpoint.restore(tmp_path, make_state(0))
    deadline = time.monotonic() + 20
    while threading.active_count() > before and time.monotonic() < deadline:  # orbax' event loops dismiss theirs without waiting
        time.sleep(0.01)
    assert threading.active_count() <= before
    assert capfd.readouterr() == ("", "")


def test_importing_the_module_leaves_orbax_alone():
    code = "import sys, lstm_jax.training.checkpoint; sys.exit('orbax.checkpoint' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)})
