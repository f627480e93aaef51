"""Python programs that print lines "running" and are then sent signals."""

import contextlib
import subprocess
import sys
from collections.abc import Iterator

import pytest


@contextlib.contextmanager
def running(program: str, count: int = 1) -> Iterator[subprocess.Popen]:
    """Start a Python program, wait until it has printed `count` lines "running", and
    kill it at the end of the context.
    """
    with subprocess.Popen(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            assert [process.stdout.readline() for _ in range(count)] == [
                "running\n"
            ] * count
            yield process
        finally:
            process.kill()


def signal_and_go_on(process: subprocess.Popen, number: int) -> None:
    """Send a signal to a process, and check that the process goes on."""
    process.send_signal(number)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.3)
