"""A second SIGINT or SIGTERM ends a process, even in compiled code, and none is lost if
Python or a library swallows the exception.
"""

import contextlib
import os
import signal
import threading
import time

import pytest
from running import running, signal_and_go_on

from lstm_jax.lab.machine import interrupts
from lstm_jax.lab.machine.interrupts import interrupted, keep_interrupts, noted_signals

PROGRAM = """
import jax, jax.numpy as jnp
from lstm_jax.lab import cli
from lstm_jax.lab.commands import COMMANDS
from lstm_jax.lab.machine.interrupts import noted_signals

def endless(console):
    with noted_signals():
        print("running", flush=True)
        jax.jit(lambda x: jax.lax.while_loop(lambda x: x >= 0, lambda x: x * 0 + 1, x))(jnp.ones(())).block_until_ready()

COMMANDS["backends"] = lambda: endless
raise SystemExit(cli.main(["backends"]))
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_ends_a_running_step(number):
    with running(PROGRAM) as process:
        signal_and_go_on(process, number)
        process.send_signal(number)
        assert process.wait(30) == 130
        assert process.stderr is not None
        assert process.stderr.read().splitlines()[-1] == "interrupted"


class Deleted:
    """Object that sends a SIGINT to this process in `__del__`, where Python ignores the
    `KeyboardInterrupt`.
    """

    def __del__(self):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.01)


def delete_and_wait():
    Deleted()
    for _ in range(500):
        time.sleep(0.01)


def run_until_interrupted():
    handler = signal.getsignal(signal.SIGINT)
    with keep_interrupts():
        with pytest.raises(KeyboardInterrupt):
            delete_and_wait()
        assert interrupted()
    assert signal.getsignal(signal.SIGINT) is handler
    assert not interrupted()


def test_a_signal_that_is_raised_again_counts_once(monkeypatch):
    ended = threading.Event()
    monkeypatch.setattr(interrupts, "_end", ended.set)
    run_until_interrupted()
    assert not ended.is_set()
    with keep_interrupts():
        for _ in range(2):
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)
        assert ended.wait(10)


@pytest.mark.parametrize("count", [1, 2])
def test_signals_are_counted_and_nothing_is_left_behind(count, monkeypatch):
    """Each signal within `keep_interrupts` reaches its handler. The first signal also
    prints a message.

    Only the second signal calls `_end`, which ends the process. Afterwards, the thread
    that watches for signals has ended, and no wakeup file descriptor is set.
    """
    ended, told, lines = threading.Event(), threading.Event(), []
    monkeypatch.setattr(interrupts, "_end", ended.set)
    monkeypatch.setattr(interrupts, "PATIENCE", 0.0)
    monkeypatch.setattr(
        interrupts,
        "print",
        lambda line, **_: (lines.append(line), told.set()),
        raising=False,
    )
    threads, handled = threading.active_count(), []
    old = signal.signal(signal.SIGTERM, lambda number, _: handled.append(number))
    try:
        with keep_interrupts():
            for _ in range(count):
                os.kill(os.getpid(), signal.SIGTERM)
                assert told.wait(10)
            assert ended.wait(10 if count == 2 else 0.1) == (count == 2)
    finally:
        signal.signal(signal.SIGTERM, old)
    assert handled == [signal.SIGTERM] * count
    assert lines == [
        "interrupted; the running step is waited for, once more ends it at once"
    ]
    assert threading.active_count() == threads
    assert signal.set_wakeup_fd(-1) == -1


def test_another_thread_is_left_alone():
    def run():
        with keep_interrupts():
            found.append(threading.active_count())

    found: list[int] = []
    before = threading.active_count()
    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert found == [before + 1]


def test_one_that_was_swallowed_stops_training():
    with keep_interrupts():
        assert not interrupted()
        with contextlib.suppress(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(5)
        with pytest.raises(KeyboardInterrupt):
            noted_signals().__enter__()
    with keep_interrupts(), noted_signals() as asked:
        os.kill(os.getpid(), signal.SIGINT)
        until = time.monotonic() + 5
        while not asked.number and time.monotonic() < until:
            time.sleep(0.01)
        assert asked.number == signal.SIGINT


def test_a_process_that_ignores_interrupts_goes_on_ignoring_them():
    old = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with keep_interrupts():
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, old)
