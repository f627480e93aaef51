"""Start and end of a run of several processes that train one model together.

The processes run the same program, on JAX's multi-controller runtime: each process has
its own devices, and one mesh holds the devices of all processes. `base.processes` has
the functions by which connected processes agree.
"""

import contextlib
import ctypes
import functools
import hashlib
import os
import socket
import sys
import threading
import time
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import jax
from jax._src import distributed

from lstm_jax.base.errors import InputError, require, system_errors
from lstm_jax.base.processes import LEFT
from lstm_jax.lab.config import Processes

CONNECT_SECONDS = 60
"""Number of seconds that a process waits for the other processes when the run starts.
"""
SILENT_SECONDS = 30
"""Number of seconds without a heartbeat after which JAX regards a process as dead, and
ends all other processes."""
LEAVE_SECONDS = 5
"""Number of seconds that a process that ends with an error waits for the others, so
that each can print its own message."""
LOST = InputError(
    "another process of this run",
    "has ended",
    "see its own message, then start all of them with --resume",
)


def join(place: Processes = Processes()) -> Processes:  # noqa: B008
    """Connect this process with the other processes that train the same model, by
    `jax.distributed.initialize`, and return the completed `place`.

    Call it before JAX makes its first array. If neither `place` nor the environment
    names several processes, nothing is done. If another process dies later, this
    process prints the message of `LOST` and ends with exit code 2.

    Raises:
        InputError: if a field is missing or invalid, if the port is in use, or if not
            all processes have joined within `CONNECT_SECONDS`.
    """
    found = place.completed()
    if not (found.coordinator or found.processes > 1 or found.process > 0):
        return Processes("", 1, 0)
    host, _, port = found.coordinator.rpartition(":")
    require(
        host and port.isdecimal() and 0 < int(port) < 2**16,
        "coordinator",
        found.coordinator,
        "give HOST:PORT of process 0",
    )
    require(
        found.processes >= 1,
        "processes",
        found.processes,
        "give the number of processes, at least 1",
    )
    remedy = f"give 0 to {found.processes - 1}, another one to each process"
    require(0 <= found.process < found.processes, "process", found.process, remedy)
    _reach_coordinator(found)
    # the training loop handles SIGTERM itself, on all processes at one step
    jax.config.update("jax_enable_preemption_service", False)
    errors: list[Exception] = []

    def connect():
        try:
            jax.distributed.initialize(
                found.coordinator,
                found.processes,
                found.process,
                cluster_detection_method="deactivate",
                initialization_timeout=2 * CONNECT_SECONDS,
                heartbeat_timeout_seconds=SILENT_SECONDS,
                shutdown_timeout_seconds=SILENT_SECONDS,
            )
        except Exception as error:
            errors.append(error)

    # a signal cannot interrupt JAX, but it interrupts the wait for this thread
    thread = threading.Thread(target=connect, daemon=True)
    with _one_line_for_lost_processes():
        thread.start()
        thread.join(CONNECT_SECONDS)
    for error in errors:
        remedy = "give the same number of processes to all, and another index to each"
        raise InputError(
            f"coordinator {found.coordinator}",
            str(error).partition("\n")[0],
            remedy,
        ) from error
    missing = f"not all {found.processes} have come within {CONNECT_SECONDS} seconds"
    require(
        not thread.is_alive(),
        "processes",
        missing,
        "start all of them, with the same number of processes",
    )
    return found


@contextlib.contextmanager
def _one_line_for_lost_processes():
    """Let the JAX client that is made in this context print one line if another process
    dies, where JAX prints a dump of its stack.
    """
    # JAX passes the error to a callback, but cannot convert it to Python: C++ then
    # calls the handler of `std::terminate`.
    library: Any = import_module("jaxlib._jax")
    make = library.get_distributed_runtime_client
    try:
        ctypes.CDLL("libstdc++.so.6")._ZSt13set_terminatePFvvE(_end)
        library.get_distributed_runtime_client = functools.partial(
            make, missed_heartbeat_callback=lambda _: _end()
        )
    except (OSError, AttributeError):  # another C++ library: JAX prints its dump
        pass
    try:
        yield
    finally:
        library.get_distributed_runtime_client = make


_codes: list[int] = []
"""The exit code with which this process is ending, if it is."""


@ctypes.CFUNCTYPE(None)
def _end():
    if not _codes:
        os.write(2, f"error: {prefix()}{LOST}\n".encode())
    os._exit(_codes[0] if _codes else 2)


def leave(code: int) -> None:
    """End this process with an exit code after an error, which has been printed. In a
    run of one process, do nothing.

    At the normal end of a program, JAX waits for all processes, and prints a dump of
    its stack if one does not come.
    """
    state = distributed.global_state
    if state.coordinator_address is None:
        return
    _codes.append(code)
    sys.stdout.flush()
    sys.stderr.flush()
    # JAX logs that process 0 has gone, if that ends first
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    with contextlib.suppress(Exception):
        client: Any = state.client
        client.key_value_set(f"{LEFT}{state.process_id}", "")
        client.wait_at_barrier(LEFT, 1000 * LEAVE_SECONDS)
    os._exit(code)


def prefix() -> str:
    """Return the text that precedes this process's messages: "process 1: ", or "" for
    process 0 and for a run of one process.
    """
    number = distributed.global_state.process_id
    return f"process {number}: " if number else ""


def _reach_coordinator(place: Processes):
    """Check in process 0 that its port is free, and wait in all others until process 0
    listens: JAX would crash without a message.
    """
    host, _, port = place.coordinator.rpartition(":")
    if not place.process:
        with (
            socket.socket() as tried,
            system_errors(
                f"coordinator {place.coordinator}", "give a port that is free"
            ),
        ):
            tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            tried.bind(("", int(port)))
        return
    until = time.monotonic() + CONNECT_SECONDS
    while True:
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
            return
        except OSError as error:
            if time.monotonic() > until:
                remedy = (
                    f"start process 0 within {CONNECT_SECONDS} seconds, and give "
                    "its address to all"
                )
                raise InputError(
                    f"coordinator {place.coordinator}", error.strerror or error, remedy
                ) from error
            time.sleep(0.2)


def own_devices(devices: int, place: Processes) -> int:
    """Return the number of CPU devices of each process if all processes of `place`
    together have `devices` of them, or raise an `InputError` if they cannot be divided.
    0 stays 0.
    """
    remedy = f"give 0 (all), or a multiple of the {place.processes} processes"
    require(devices % place.processes == 0, "devices", devices, remedy)
    return devices // place.processes


@cache
def code_digest() -> str:
    """Return the SHA-256 of the Python and C++ files of this package, as a hexadecimal
    string.
    """
    root = Path(__file__).parents[2]
    digest = hashlib.sha256()
    for path in sorted(
        path for kind in ("*.py", "*.cc", "*.h") for path in root.rglob(kind)
    ):
        digest.update(f"{path.relative_to(root)}\n".encode() + path.read_bytes())
    return digest.hexdigest()
