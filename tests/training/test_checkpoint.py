"""Checkpoints are restored bit by bit. In place of a damaged one, an older one is
restored. The checkpoint of another model is refused.
"""

import os
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from made_checkpoints import Pair, assert_same, make_state

from lstm_jax.base import processes
from lstm_jax.base.errors import InputError
from lstm_jax.base.writing import read_summed, summed_json
from lstm_jax.training import checkpoint


def files_of(folder: Path, step: int) -> list[Path]:
    files = [path for path in (folder / str(step)).rglob("*") if path.is_file()]
    return [*sorted(files), folder / f"{step}.manifest.json"]


def assert_falls_back(folder: Path, reason: str):
    found = checkpoint.restore(folder, make_state(0))
    assert found.step == 7
    assert [step for step, _ in found.rejected] == [12]
    assert reason in found.rejected[0][1]
    assert_same(found.state, make_state(7))


def test_round_trip_is_bit_exact_and_keeps_shardings(two_steps):
    found = checkpoint.restore(two_steps, make_state(0))
    assert (found.step, found.extra, found.rejected) == (
        12,
        {"epoch": 12, "rate": 0.1},
        (),
    )
    assert_same(found.state, make_state(12))


def test_shapes_and_shardings_alone_are_enough_to_restore(two_steps):
    def describe(leaf):
        return (
            leaf
            if isinstance(leaf, np.ndarray)
            else jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)
        )

    assert_same(
        checkpoint.restore(two_steps, jax.tree.map(describe, make_state(0))).state,
        make_state(12),
    )
    bare = {"a": jnp.arange(3)}
    checkpoint.save(two_steps.parent / "bare", 0, bare, {})
    restored = checkpoint.restore(
        two_steps.parent / "bare", {"a": jax.ShapeDtypeStruct((3,), jnp.int32)}
    ).state
    assert restored["a"].tolist() == [0, 1, 2]


@pytest.mark.parametrize("generator", ["threefry2x32", "rbg"])
def test_random_keys(tmp_path, generator):
    """Keys made by `jax.random.key` are restored as keys of the same generator, also if
    `ShapeDtypeStruct` objects describe them.

    A key of another generator is refused.
    """

    def made(seed):
        key = jax.random.key(seed, impl=generator)
        return {
            "key": key,
            "keys": jax.device_put(
                jax.random.split(key, 4), make_state(0)["table"].sharding
            ),
        }

    saved, others = made(3), made(0)
    checkpoint.save(tmp_path, 0, saved, {})
    for like in (
        others,
        jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), others),
    ):
        restored = checkpoint.restore(tmp_path, like).state
        assert like is not others or restored["keys"].sharding.is_equivalent_to(
            saved["keys"].sharding, 1
        )
        for name in ("key", "keys"):
            assert restored[name].dtype == saved[name].dtype
            assert (
                jax.random.key_data(restored[name]).tolist()
                == jax.random.key_data(saved[name]).tolist()
            )
        assert (
            jax.random.normal(restored["key"], (3,)).tolist()
            == jax.random.normal(saved["key"], (3,)).tolist()
        )
    with pytest.raises(
        InputError,
        match=r"^checkpoint leaf key of step 0: saved as \('key<.+>', \[\]\), "
        r"wanted as \('key<urbg>', \[\]\)",
    ):
        checkpoint.restore(
            tmp_path, others | {"key": jax.random.key(0, impl="unsafe_rbg")}
        )


def test_one_flipped_bit_or_a_lost_byte_in_each_file_is_noticed(folder):
    for path in files_of(folder, 12):
        good = path.read_bytes()
        bad = bytearray(good)
        bad[len(bad) // 2] ^= 4
        for content in (bad, good[:-1]):
            path.write_bytes(content)
            assert_falls_back(folder, "damaged")
        path.write_bytes(good)
    assert checkpoint.restore(folder, make_state(0)).step == 12


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


def test_what_orbax_cannot_read_or_reads_wrongly_is_rejected(folder, monkeypatch):
    true_restore = checkpoint._restore_arrays

    def fails_on_12(path, wanted):
        if path.name == "12":
            raise ValueError("DATA_LOSS")
        return true_restore(path, wanted)

    def flips_a_sign(path, wanted):
        leaves = true_restore(path, wanted)
        return (
            leaves | {"minus_zero": -leaves["minus_zero"]}
            if path.name == "12"
            else leaves
        )

    for fault, reason in (
        (fails_on_12, "orbax cannot read it: DATA_LOSS"),
        (flips_a_sign, "leaf minus_zero is damaged"),
    ):
        monkeypatch.setattr(checkpoint, "_restore_arrays", fault)
        assert_falls_back(folder, reason)


def test_checkpoints_that_are_replaced_while_they_are_read(folder, monkeypatch):
    """If another process saves step 20 and removes the older checkpoints while they are
    read, step 20 is restored.
    """
    load, calls = checkpoint._load, []

    def load_late(*arguments):
        calls.append(arguments)
        if len(calls) > 1:
            return load(*arguments)
        checkpoint.save(folder, 20, make_state(20), {})
        checkpoint.prune(folder, 1)
        return {}, "orbax cannot read it"

    monkeypatch.setattr(checkpoint, "_load", load_late)
    found = checkpoint.restore(folder, make_state(0))
    assert (found.step, found.rejected) == (20, ())
    assert_same(found.state, make_state(20))


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
    assert (found.step, found.unfinished, found.rejected) == (7, (12,), ())
    checkpoint.save(folder, 20, make_state(20), {})
    assert sorted(os.listdir(folder)) == [
        "20",
        "20.manifest.json",
        "7",
        "7.manifest.json",
    ]


def test_other_files_are_left_alone(folder):
    for name in ("config.json", "12.txt", "notes.manifest.json"):
        (folder / name).write_text("mine")
    (folder / "plots").mkdir()
    (folder / "9.orbax-checkpoint-tmp").mkdir()
    (folder / ".9.manifest.json.0a1b2c3d.tmp").write_text("half")
    checkpoint.save(folder, 20, make_state(20), {})
    assert checkpoint.steps(folder) == [7, 12, 20]
    assert {"config.json", "12.txt", "notes.manifest.json", "plots"} < set(
        os.listdir(folder)
    )
    assert not [name for name in os.listdir(folder) if name.startswith((".9", "9"))]


def test_saving_a_step_again_replaces_it(folder):
    (folder / "12.manifest.json").write_text("x")
    for seed in (13, 14, 15):
        checkpoint.save(folder, 12, make_state(seed), {"seed": seed})
        found = checkpoint.restore(folder, make_state(0))
        assert (found.step, found.rejected, found.extra) == (12, (), {"seed": seed})
        assert_same(found.state, make_state(seed))
        assert len(os.listdir(folder)) == 4


def test_prune_keeps_the_newest_intact_ones(folder):
    checkpoint.save(folder, 100, make_state(1), {})
    checkpoint.prune(folder, keep=5)
    assert checkpoint.steps(folder) == [7, 12, 100]
    (folder / "100.manifest.json").write_text("x")
    checkpoint.prune(folder, keep=2)
    assert checkpoint.steps(folder) == [7, 12, 100]
    checkpoint.prune(folder, keep=1)
    assert checkpoint.steps(folder) == [12, 100]
    checkpoint.prune(folder, keep=1, newest=12)
    assert sorted(os.listdir(folder)) == ["12", "12.manifest.json"]
    assert [checkpoint.damage(folder, step) for step in (7, 12)] == [
        "it is missing",
        "",
    ]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"table": np.zeros((41, 8), np.float32)},
            r"leaf table of step 12: saved as .*40, 8.*wanted as .*41, 8",
        ),
        (
            {"step": np.float32(0)},
            r"leaf step of step 12: saved as .*int32.*wanted as .*float32",
        ),
        ({"second": np.zeros(2)}, r"leaf second of step 12: not in the checkpoint"),
        ({"host": None}, r"leaf host of step 12: not in this model"),
        (
            {"optimizer": Pair(np.zeros(1), np.zeros(1))},
            r"leaf optimizer\.0\.mu .*not in this model",
        ),
    ],
)
def test_another_model_is_the_users_error_and_names_the_leaf(
    two_steps, change, message
):
    with pytest.raises(InputError, match=message):
        checkpoint.restore(two_steps, make_state(0) | change)


def test_each_process_asks_the_others(monkeypatch):
    """`_agreed` tells each process whether any process has found damage in a
    checkpoint.

    A process that has found damage itself also takes part in the exchange, because the
    other processes wait for its answer.
    """
    asked = []
    monkeypatch.setattr(
        processes, "largest", lambda *numbers: asked.append(numbers) or (1,)
    )
    assert checkpoint._agreed("cut off") == "cut off"
    assert checkpoint._agreed("") == "another process found it damaged"
    assert asked == [(True,), (False,)]


@pytest.mark.parametrize(
    "change",
    [
        {"step": 7},
        {"folder": None},
        {"extra": []},
        {"leaves": {"w": 3}},
        {"files": {"a": {}}},
    ],
)
def test_a_manifest_of_other_content_is_damaged(folder, change):
    path = folder / "12.manifest.json"
    content = read_summed(path.read_bytes())
    assert content is not None
    path.write_bytes(summed_json(content | change))
    assert_falls_back(folder, "manifest")
