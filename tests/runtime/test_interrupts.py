"""A second SIGINT or SIGTERM ends a process, even while its main thread runs compiled code."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from lstm_jax.runtime import interrupts

PROGRAM = """
import jax, jax.numpy as jnp
from lstm_jax import cli
from lstm_jax.commands import COMMANDS
from lstm_jax.runtime.interrupts import noted_signals

def endless(console):
    with noted_signals():
        print("running", flush=True)
        jax.jit(lambda x: jax.lax.while_loop(lambda x: x >= 0, lambda x: x * 0 + 1, x))(jnp.ones(())).block_until_ready()

COMMANDS["backends"] = lambda: endless
raise SystemExit(cli.main(["backends"]))
"""


@pytest.mark.parametrize("numbers", [(signal.SIGINT, signal.SIGINT), (signal.SIGTERM, signal.SIGTERM)])
def test_a_second_signal_ends_a_running_step(numbers):
    with subprocess.Popen([sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "running\n"
            process.send_signal(numbers[0])
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(0.3)
            process.send_signal(numbers[1])
            assert process.wait(30) == 130
            assert process.stderr is not None
            assert process.stderr.read().splitlines()[-1] == "interrupted"
        finally:
            process.kill()


class Deleted:
    """Object that sends a SIGINT to this process in `__del__`, where Python ignores the `KeyboardInterrupt`."""

    def __del__(self):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.001)


def delete_and_wait():
    Deleted()
    for _ in range(500):
        time.sleep(0.01)


def run_until_interrupted():
    with interrupts.keep_interrupts(), pytest.raises(KeyboardInterrupt):
        delete_and_wait()


def test_a_signal_that_is_raised_again_counts_once(monkeypatch):
    ended = threading.Event()
    monkeypatch.setattr(interrupts, "_end", ended.set)
    with interrupts.end_on_second_signal():
        run_until_interrupted()
        assert not ended.wait(0.1)
    run_until_interrupted()  # here nothing counts
    with interrupts.end_on_second_signal(), interrupts.keep_interrupts():
        for _ in range(2):
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)
        assert ended.wait(10)


@pytest.mark.parametrize("count", [1, 2])
def test_signals_are_counted_and_nothing_is_left_behind(count, monkeypatch):
    """Each signal within `end_on_second_signal` reaches its handler. The first signal also prints a message.

    Only the second signal calls `_end`, which ends the process. Afterwards, the thread that watches for signals has ended, and no wakeup
    file descriptor is set.
    """
    ended, told, lines = threading.Event(), threading.Event(), []
    monkeypatch.setattr(interrupts, "_end", ended.set)
    monkeypatch.setattr(interrupts, "PATIENCE", 0.0)
    monkeypatch.setattr(interrupts, "print", lambda line, **_: (lines.append(line), told.set()), raising=False)
    threads, handled = threading.active_count(), []
    old = signal.signal(signal.SIGTERM, lambda number, _: handled.append(number))
    try:
        with interrupts.end_on_second_signal():
            for _ in range(count):
                os.kill(os.getpid(), signal.SIGTERM)
                assert told.wait(10)
            assert ended.wait(10 if count == 2 else 0.1) == (count == 2)
    finally:
        signal.signal(signal.SIGTERM, old)
    assert handled == [signal.SIGTERM] * count
    assert lines == ["interrupted; the running step is waited for, once more ends it at once"]
    assert threading.active_count() == threads
    assert signal.set_wakeup_fd(-1) == -1


def test_another_thread_is_left_alone():
    def run():
        with interrupts.end_on_second_signal():
            found.append(threading.active_count())

    found: list[int] = []
    before = threading.active_count()
    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert found == [before + 1]
