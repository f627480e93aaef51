"""Tests of the command line: what it prints after SIGINT and SIGTERM, its exit code,
and that no signal is lost.
"""

import os
import shlex
import signal
import time

import pytest

from lstm_jax.base.errors import Interrupted
from lstm_jax.lab.commands import COMMANDS


def test_sigterm_outside_the_epochs(ask, tmp_path, monkeypatch):
    """SIGTERM ends a training with exit code 75 also outside the epochs, for example
    while it reads its data or draws figures.

    The exit code of SIGINT is 130. Exit code 75 tells a scheduler to start the training
    again.
    """

    def wait(self, console):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)

    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(COMMANDS["train sentiment"], "__call__", wait)
    assert ask("train", "sentiment", "--run", tmp_path / "run") == (
        75,
        "",
        "interrupted\n",
    )
    assert signal.getsignal(signal.SIGTERM) == before
    monkeypatch.setattr(
        COMMANDS["train sentiment"],
        "__call__",
        lambda self, console: os.kill(os.getpid(), signal.SIGINT) or time.sleep(5),
    )
    assert ask("train", "sentiment", "--run", tmp_path / "run") == (
        130,
        "",
        "interrupted\n",
    )


def test_sigterm_in_a_process_that_ignores_sigint(ask, tmp_path, monkeypatch):
    """SIGTERM ends a training that ignores SIGINT, even if the signal arrives in a
    method `__del__`.

    Trainings that a script starts with `lstm-jax train ... &` ignore SIGINT. The
    SIGTERM has no effect on the next command.
    """

    class Deleted:
        def __del__(self):
            os.kill(os.getpid(), signal.SIGTERM)
            # in which the handler raises an exception that Python ignores
            time.sleep(0.001)

    def wait(self, console):
        Deleted()
        for _ in range(500):
            time.sleep(0.01)

    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        monkeypatch.setattr(COMMANDS["train sentiment"], "__call__", wait)
        assert ask("train", "sentiment", "--run", tmp_path / "run") == (
            75,
            "",
            "interrupted\n",
        )
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
    monkeypatch.setitem(COMMANDS, "backends", lambda: lambda console: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        ask("backends")


def test_an_interrupt_of_which_a_library_makes_an_error_of_its_own(ask, monkeypatch):
    def swallow(console):
        try:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(5)
        except KeyboardInterrupt:
            raise RuntimeError("INTERNAL: CpuCallback error") from None

    monkeypatch.setitem(COMMANDS, "backends", lambda: swallow)
    assert ask("backends") == (130, "", "interrupted\n")
    monkeypatch.setitem(COMMANDS, "backends", lambda: lambda console: 1 / 0)
    # the interrupt does not affect the next call
    with pytest.raises(ZeroDivisionError):
        ask("backends")


@pytest.mark.parametrize(
    ("command", "error", "said"),
    [
        ("demo", KeyboardInterrupt(), "interrupted\n"),
        ("demo", Interrupted(7), "interrupted after step 7\n"),
        (
            "train sentiment --run 'my run'",
            Interrupted(7),
            "interrupted after step 7; the state is saved; to continue: "
            "lstm-jax train sentiment --run 'my run' --resume\n",
        ),
        (
            "train sentiment --resume",
            Interrupted(7),
            "interrupted after step 7; the state is saved; to continue: "
            "lstm-jax train sentiment --resume\n",
        ),
    ],
)
def test_interrupts(command, error, said, ask, monkeypatch):
    def stop(self, console):
        raise error

    monkeypatch.setattr(COMMANDS[command.partition(" --")[0]], "__call__", stop)
    assert ask(*shlex.split(command)) == (130, "", said)
