"""Checkpoints are restored bit by bit. In place of a damaged one, an older one is
restored. The checkpoint of another model is refused.
"""

import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from made_checkpoints import Pair, assert_same, make_state

from lstm_jax.base import processes
from lstm_jax.base.errors import InputError
from lstm_jax.training import checkpoint


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


def test_flipped_bits_and_lost_bytes_are_noticed(folder):
    path = folder / "12.safetensors"
    good = path.read_bytes()
    for bit in range(0, 8 * len(good), 331):
        bad = bytearray(good)
        bad[bit // 8] ^= 1 << bit % 8
        path.write_bytes(bad)
        assert_falls_back(folder, "damaged")
    for content in (b"", good[:5], good[:-1], good + b"x"):
        path.write_bytes(content)
        assert_falls_back(folder, "damaged")
    path.write_bytes(good)
    assert checkpoint.restore(folder, make_state(0)).step == 12


def test_other_libraries_can_read_a_checkpoint(two_steps):
    """The file is one of safetensors; NumPy has no bfloat16, which ml_dtypes adds."""
    numpy = pytest.importorskip("safetensors.numpy", reason="safetensors is missing")
    found = numpy.load_file(two_steps / "12.safetensors")
    state = make_state(12)
    for name in ("table", "minus_zero", "step", "key", "host"):
        assert found[name].dtype == state[name].dtype
        assert found[name].tobytes() == np.asarray(state[name]).tobytes()


def test_checkpoints_that_are_replaced_while_they_are_read(folder, monkeypatch):
    """If another process saves step 20 and removes the older checkpoints while they are
    read, step 20 is restored.
    """
    read = checkpoint._read

    def read_late(*arguments):
        monkeypatch.setattr(checkpoint, "_read", read)
        checkpoint.save(folder, 20, make_state(20), {})
        checkpoint.prune(folder, 1)
        return read(*arguments)

    monkeypatch.setattr(checkpoint, "_read", read_late)
    found = checkpoint.restore(folder, make_state(0))
    assert (found.step, found.rejected) == (20, ())
    assert_same(found.state, make_state(20))


def test_without_a_good_one_the_error_says_why(folder, tmp_path):
    for step in (7, 12):
        (folder / f"{step}.safetensors").write_text("")
    with pytest.raises(InputError, match=r"all are damaged .*step 12: its header"):
        checkpoint.restore(folder, make_state(0))
    for empty in (tmp_path / "absent", tmp_path):
        assert checkpoint.steps(empty) == []
        with pytest.raises(InputError, match="none is there"):
            checkpoint.restore(empty, make_state(0))


def test_other_files_are_left_alone(folder):
    for name in ("config.json", "12.txt", "notes.safetensors"):
        (folder / name).write_text("mine")
    (folder / "plots").mkdir()
    (folder / ".9.safetensors.0a1b2c3d.tmp").write_text("half")
    checkpoint.save(folder, 20, make_state(20), {})
    checkpoint.prune(folder, 3)
    assert checkpoint.steps(folder) == [7, 12, 20]
    assert {"config.json", "12.txt", "notes.safetensors", "plots"} < set(
        os.listdir(folder)
    )
    assert not [name for name in os.listdir(folder) if name.startswith((".9", "9"))]


def test_saving_a_step_again_replaces_it(folder):
    (folder / "12.safetensors").write_text("x")
    for seed in (13, 14, 15):
        checkpoint.save(folder, 12, make_state(seed), {"seed": seed})
        found = checkpoint.restore(folder, make_state(0))
        assert (found.step, found.rejected, found.extra) == (12, (), {"seed": seed})
        assert_same(found.state, make_state(seed))
        assert len(os.listdir(folder)) == 2


def test_prune_keeps_the_newest_intact_ones(folder):
    checkpoint.save(folder, 100, make_state(1), {})
    checkpoint.prune(folder, keep=5)
    assert checkpoint.steps(folder) == [7, 12, 100]
    (folder / "100.safetensors").write_text("x")
    checkpoint.prune(folder, keep=2)
    assert checkpoint.steps(folder) == [7, 12, 100]
    checkpoint.prune(folder, keep=1)
    assert checkpoint.steps(folder) == [12, 100]
    checkpoint.prune(folder, keep=1, newest=12)
    assert sorted(os.listdir(folder)) == ["12.safetensors"]
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
