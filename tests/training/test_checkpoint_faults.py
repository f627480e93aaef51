"""Tests that a save that fails leaves all finished checkpoints intact.

A save fails because of kill -9, a full disk, an error of the file system, or a state
that cannot be saved.
"""

import errno
import os
import signal
import subprocess
import sys
import threading
import time
import types

import numpy as np
import pytest
from made_checkpoints import assert_same, make_state

from lstm_jax.base.errors import InputError
from lstm_jax.training import checkpoint


@pytest.mark.parametrize("step", [12, 20])
@pytest.mark.parametrize(
    "function", ["write_atomically", "_save_arrays", "_leaf_record"]
)
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
    assert sorted(os.listdir(tmp_path)) == ["1000000", "1000000.manifest.json"]


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "no space left; free some"),
        (
            ValueError(
                'RESOURCE_EXHAUSTED: "a": No space left on device [os_error_code=28]'
            ),
            "no space left; free some",
        ),
        (
            ValueError("OUT_OF_RANGE: \n [os_error_code='27']"),
            r"File too large; allow larger files \(ulimit -f\)",
        ),
        (
            ValueError("OUT_OF_RANGE: \n [os_error_code='5']"),
            "Input/output error; name a folder",
        ),
    ],
)
def test_errors_of_the_file_system_are_said_in_a_line(
    error, message, folder, monkeypatch
):
    """An error of the file system, also one that TensorStore reports with an error
    number, is an `InputError` with a message of one line.

    Threads of Orbax that still run may later raise the error "Event loop is closed".
    This error is not shown to the user. Other errors in threads are shown.
    """

    def failing(*_):
        with checkpoint._quiet():
            raise error

    seen = []
    with monkeypatch.context() as patch:
        patch.setattr(sys, "unraisablehook", seen.append)
        patch.setattr(checkpoint, "_save_arrays", failing)
        with pytest.raises(InputError, match=message) as caught:
            checkpoint.save(folder, 20, make_state(20), {})
        for later in (RuntimeError("Event loop is closed"), RuntimeError("another")):
            sys.unraisablehook(types.SimpleNamespace(exc_value=later))
    assert "\n" not in str(caught.value)
    assert [str(one.exc_value) for one in seen] == ["another"]
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


def test_no_thread_stays_and_orbax_is_silent(tmp_path, capfd):
    before = threading.active_count()
    for step in range(5):
        checkpoint.save(tmp_path, step, make_state(0), {})
        checkpoint.restore(tmp_path, make_state(0))
    deadline = time.monotonic() + 20
    # orbax' event loops dismiss theirs without waiting
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threading.active_count() <= before
    assert capfd.readouterr() == ("", "")
