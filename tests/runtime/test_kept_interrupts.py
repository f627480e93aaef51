"""A SIGINT is not lost if Python or a library swallows the `KeyboardInterrupt`."""

import contextlib
import os
import signal
import time

import pytest

from lstm_jax.runtime.interrupts import interrupted, keep_interrupts, noted_signals


class Dying:
    """Object that sends a SIGINT to this process in `__del__`, where Python ignores the `KeyboardInterrupt`."""

    def __del__(self):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.01)


def drop_and_wait():
    made = Dying()
    del made
    for _ in range(500):
        time.sleep(0.01)


def test_one_that_python_ignores_comes_again():
    handler = signal.getsignal(signal.SIGINT)
    with keep_interrupts():
        with pytest.raises(KeyboardInterrupt):
            drop_and_wait()
        assert interrupted()
    assert signal.getsignal(signal.SIGINT) is handler
    assert not interrupted()


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
