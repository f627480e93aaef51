"""Tests that a save that fails leaves all finished checkpoints intact.

A save fails because of kill -9, a full disk, an error of the file system, or a state
that cannot be saved.
"""

import errno
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from made_checkpoints import assert_same, make_state

from lstm_jax.base.errors import InputError
from lstm_jax.training import checkpoint


@pytest.mark.parametrize("step", [12, 20])
@pytest.mark.parametrize("function", ["write_atomically", "_digest", "_on_host"])
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


@pytest.mark.slow(keep=1)
@pytest.mark.parametrize("delay", [0.0, 0.013, 0.03])
def test_kill_9_during_saves_leaves_the_last_finished_one(tmp_path, delay):
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(sys.path),
        "JAX_PLATFORMS": "cpu",
    }
    command = [sys.executable, "-c", SAVE_FOR_EVER, str(tmp_path)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
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
    assert sorted(os.listdir(tmp_path)) == ["1000000.safetensors"]


def test_a_full_disk_is_an_error_of_one_line(folder, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(InputError, match="No space left on device; free some"):
            checkpoint.save(folder, 20, make_state(20), {})
    assert sorted(os.listdir(folder)) == ["12.safetensors", "7.safetensors"]
    assert checkpoint.restore(folder, make_state(0)).step == 12


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"a": np.zeros((0, 2))}, "leaf a: shape"),
        ({"a": {"b": np.zeros(1)}, "a.b": np.zeros(1)}, "two leaves of the same path"),
    ],
)
def test_what_cannot_be_saved_is_refused(tmp_path, state, message):
    with pytest.raises(InputError, match=message):
        checkpoint.save(tmp_path / "run", 0, state, {})
    assert not (tmp_path / "run").exists()
