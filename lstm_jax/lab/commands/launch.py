"""The command `lstm-jax launch`, which runs a command in several processes on this
machine.
"""

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterable
from typing import Annotated

import tyro

from lstm_jax.base import machine
from lstm_jax.base.checks import Count, frozen
from lstm_jax.base.errors import require
from lstm_jax.lab.commands.common import Command, Positional
from lstm_jax.lab.machine.interrupts import before_end, handled


@frozen
class Launch(Command):
    """Run a training command in several processes on this machine.

    For example: lstm-jax launch -n 2 -- train sentiment --run runs/two
    """

    command: Positional[tuple[str, ...]]
    """Command and flags of lstm-jax, after --."""
    n: Annotated[Count, tyro.conf.arg(aliases=["-n"])] = 2
    """Number of processes. The cores of this machine are divided among them."""

    def __call__(self, console):
        require(
            self.command[:1] == ("train",),
            "command",
            " ".join(self.command[:2]) or "none",
            "give one of lstm-jax train ...",
        )
        codes = run_processes(
            [sys.executable, "-P", "-m", "lstm_jax.lab.cli", *self.command], self.n
        )
        if any(codes):
            raise SystemExit(next(code for code in codes if code))


def run_processes(command: list[str], count: int) -> list[int]:
    """Run a command in several processes, and return the exit codes of these processes
    in the order in which they end.

    SIGINT, SIGTERM and SIGHUP are passed on to all processes, as soon as all have
    started.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    place = {
        "JAX_COORDINATOR_ADDRESS": address,
        "JAX_COORDINATOR_BIND_ADDRESS": address,
        "JAX_NUM_PROCESSES": str(count),
    }
    started: list[subprocess.Popen] = []
    readers: list[threading.Thread] = []
    said: dict[str, int] = {}
    came = deque[int]()

    def note(number: int, _: object):
        # a second SIGTERM would end the processes before they have saved their state
        if number == signal.SIGHUP:
            signal.signal(number, signal.SIG_IGN)
        came.append(signal.SIGTERM if number == signal.SIGHUP else number)

    hangups = (
        () if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN else (signal.SIGHUP,)
    )
    with (
        handled(note, signal.SIGINT, signal.SIGTERM, *hangups),
        before_end(lambda: _kill(started)),
    ):
        try:
            for number, cores in enumerate(divided_cores(count)):
                # a session of its own, so that a Ctrl-C in the terminal reaches it once
                environment = {**os.environ, **place, "JAX_PROCESS_ID": str(number)}
                child = subprocess.Popen(
                    command,
                    env=environment,
                    start_new_session=True,
                    stderr=subprocess.PIPE,
                    text=True,
                    errors="replace",
                )
                started.append(child)
                readers.append(
                    threading.Thread(
                        target=_print_errors, args=(child, said), daemon=True
                    )
                )
                readers[-1].start()
                with contextlib.suppress(OSError):
                    machine.pin(child.pid, cores)
            return _codes(started, came)
        finally:
            _kill(started)
            for child in started:
                child.wait()
            for reader in readers:
                reader.join(1)


def _print_errors(process: subprocess.Popen, said: dict[str, int]) -> None:
    """Print the standard error of a process, except for the errors in `said`, which
    another process has printed.
    """
    assert process.stderr is not None
    with process.stderr as lines:
        for line in lines:
            error = re.sub(r"^error: process \d+: ", "error: ", line)
            if (
                not error.startswith("error: ")
                or said.setdefault(error, process.pid) == process.pid
            ):
                print(line, end="", file=sys.stderr, flush=True)


def _kill(processes: Iterable[subprocess.Popen]) -> None:
    for process in processes:
        process.kill()


def divided_cores(count: int) -> list[list[int]]:
    """Divide the cores of this machine among `count` processes, and return a list with
    the cores of each process.
    """
    cores = machine.cores()
    return [
        cores[number::count] if len(cores) >= count else cores
        for number in range(count)
    ]


def _codes(started: list[subprocess.Popen], came: deque[int]) -> list[int]:
    running, codes = dict(enumerate(started)), []
    while running:
        while came:
            number = came.popleft()
            for child in started:
                child.send_signal(number)
        time.sleep(0.05)
        for number, child in list(running.items()):
            if (code := child.poll()) is None:
                continue
            del running[number]
            codes.append(code if code >= 0 else 128 - code)
            if code < 0:
                print(
                    f"process {number} was ended by "
                    f"{signal.Signals(-code).name}; the others end too",
                    file=sys.stderr,
                    flush=True,
                )
    return codes
