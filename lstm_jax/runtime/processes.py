"""Several processes that train one model together, on one machine or on several.

The processes run the same program, on JAX's multi-controller runtime: each process has its own devices, and one mesh holds the devices of
all processes. They must call compiled functions on the mesh in the same order. The functions of this module let them agree on what only one
of them knows, such as a signal that has arrived, or an error.
"""

import contextlib
import hashlib
import os
import socket
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from lstm_jax.config.processes import Processes
from lstm_jax.errors import InputError, require

CONNECT_SECONDS = 60
"""Number of seconds that a process waits for the others when the run starts."""
SILENT_SECONDS = 30
"""Number of seconds without a sign of life after which a process counts as dead. JAX then ends all other processes."""
MANAGERS = (("SLURM_NTASKS", "SLURM_PROCID"), ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK"))
"""Environment variables in which Slurm and Open MPI give the number of processes and the index of this process."""


def join(place: Processes = Processes()) -> Processes:  # noqa: B008
    """Join the other processes of the run, if there are any. Call this function before JAX makes its first array.

    Fields of `place` that are not given are taken from the environment variables JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and
    JAX_PROCESS_ID, or from Slurm or Open MPI. If none of these says that there are several processes, nothing is done.

    Returns:
        The place of this process, with its number of processes and its index.

    Raises:
        InputError: if a part of the place is missing or invalid, if the port is in use, or if process 0 does not listen within
            `CONNECT_SECONDS`. If another process does not come in this time, this process ends with a message and exit code 2.
    """
    found = _from_environment(place)
    managed = not found.coordinator and found.processes > 1 and _manager() is not None
    if not (found.coordinator or found.processes > 1 or found.process > 0):
        return Processes("", 1, 0)
    if not managed:
        _require_whole(found)
        _require_free_port(found)
        _wait_for_coordinator(found)
    jax.config.update("jax_enable_preemption_service", False)  # the training loop handles SIGTERM itself, on all processes at one step
    with _ended_if_alone(found):
        jax.distributed.initialize(
            found.coordinator or None,
            found.processes,
            found.process,
            cluster_detection_method=None if managed else "deactivate",
            initialization_timeout=2 * CONNECT_SECONDS,
            heartbeat_timeout_seconds=SILENT_SECONDS,
            shutdown_timeout_seconds=SILENT_SECONDS,
        )
    return found


def _from_environment(place: Processes) -> Processes:
    """Return a place whose missing fields are taken from the environment variables of JAX, Slurm or Open MPI."""

    def number(given: int, missing: int, names: Sequence[str]) -> int:
        for name in names if given == missing else ():
            if text := os.environ.get(name, ""):
                require(text.isdecimal(), f"${name}", text, "give a number")
                return int(text)
        return given

    address = place.coordinator or os.environ.get("JAX_COORDINATOR_ADDRESS", "")
    counts, numbers = zip(("JAX_NUM_PROCESSES", "JAX_PROCESS_ID"), *((names,) if (names := _manager()) else ()), strict=True)
    return Processes(address, number(place.processes, 0, counts), number(place.process, -1, numbers))


def _manager() -> tuple[str, str] | None:
    """Return the row of `MANAGERS` whose variables are set, or None.

    Slurm sets its variables in a batch script, too, which is no process of a run.
    """
    found = next((names for names in MANAGERS if all(name in os.environ for name in names)), None)
    return None if found and found[0].startswith("SLURM") and "SLURM_STEP_NODELIST" not in os.environ else found


def _require_whole(place: Processes) -> None:
    host, _, port = place.coordinator.rpartition(":")
    require(bool(host) and port.isdecimal() and 0 < int(port) < 2**16, "coordinator", place.coordinator, "give HOST:PORT of process 0")
    require(place.processes >= 1, "processes", place.processes, "give the number of processes, at least 1")
    remedy = f"give 0 to {place.processes - 1}, another one to each process"
    require(0 <= place.process < place.processes, "process", place.process, remedy)


def _require_free_port(place: Processes) -> None:
    """Check that process 0 can listen at the port of the coordinator. JAX would end the process without an error."""
    if place.process:
        return
    with socket.socket() as tried:
        tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            tried.bind(("", int(place.coordinator.rpartition(":")[2])))
        except OSError as error:
            raise InputError("coordinator", f"{place.coordinator}: {error.strerror}", "give a port that is free") from error


def _wait_for_coordinator(place: Processes) -> None:
    """Wait until process 0 listens at its port. JAX would abort this process if it did not."""
    host, _, port = place.coordinator.rpartition(":")
    until = time.monotonic() + CONNECT_SECONDS
    while place.process:
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
            return
        except OSError as error:
            if time.monotonic() > until:
                remedy = f"start process 0 within {CONNECT_SECONDS} seconds, and give its address to all"
                raise InputError(f"coordinator {place.coordinator}", error.strerror or error, remedy) from error
            time.sleep(0.2)


@contextlib.contextmanager
def _ended_if_alone(place: Processes) -> Iterator[None]:
    """Return a context manager that ends this process with exit code 2 and one line if its body takes longer than `CONNECT_SECONDS`.

    In its body JAX waits for the other processes, without returning to Python. If one of them never came, JAX would abort this one.
    """

    def end() -> None:
        line = f"error: processes: not all {place.processes} have come within {CONNECT_SECONDS} seconds; start all of them\n"
        os.write(2, line.encode())
        os._exit(2)

    timer = threading.Timer(CONNECT_SECONDS, end)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def first() -> bool:
    """Return whether this process is process 0, which writes the files of a run. In a run of one process it is true."""
    return jax.process_index() == 0


def several() -> bool:
    """Return whether the run has several processes."""
    return jax.process_count() > 1


def own_devices(devices: int, place: Processes) -> int:
    """Return the number of CPU devices that each process has, if all processes together have `devices`. 0 stays 0.

    Raises:
        InputError: if the number is not a multiple of the number of processes.
    """
    remedy = f"give 0 (all), or a multiple of the {place.processes} processes"
    require(devices % place.processes == 0, "devices", devices, remedy)
    return devices // place.processes


def largest(*numbers: int) -> tuple[int, ...]:
    """Return, for each argument, the largest value that a process has given for it. All processes must call this function together."""
    if not several():
        return numbers
    found = multihost_utils.process_allgather(np.asarray(numbers, np.int64))
    return tuple(int(number) for number in np.asarray(found).reshape(-1, len(numbers)).max(axis=0))


@contextlib.contextmanager
def together() -> Iterator[None]:
    """Return a context manager for work that can fail in one process alone, such as reading files.

    If the work has failed in some processes, their own errors are raised there, and the others raise an `InputError` that names them. All
    processes then end, and none waits for another.
    """
    failed = True
    try:
        yield
        failed = False
    finally:
        if several():
            flags = np.asarray(multihost_utils.process_allgather(np.asarray([failed]))).reshape(-1)
            others = ", ".join(str(number) for number in np.flatnonzero(flags))
            if not failed:
                require(not others, f"process {others}", "ended by an error", "see its own message")


def require_equal(values: Mapping[str, str]) -> None:
    """Check that all processes have given the same values. All processes must call this function together.

    Args:
        values: dict from the name of a thing to its value, such as a config as JSON. The names are the same on all processes.

    Raises:
        InputError: on all processes, if a process has another value than process 0.
    """
    if not several():
        return
    digests = np.stack([np.frombuffer(hashlib.sha256(value.encode()).digest(), np.uint8) for value in values.values()])
    found = np.asarray(multihost_utils.process_allgather(digests)).reshape(-1, *digests.shape)
    for number, name in enumerate(values):
        others = np.flatnonzero((found[:, number] != found[0, number]).any(axis=1))
        shown = f"process {', '.join(map(str, others))} has another one than process 0"
        require(not len(others), name, shown, "start all processes with the same flags, data and versions")


@cache
def code_digest() -> str:
    """Return the SHA-256 of the Python and C++ files of this package."""
    root = Path(__file__).parent.parent
    digest = hashlib.sha256()
    for path in sorted(path for kind in ("*.py", "*.cc", "*.h") for path in root.rglob(kind)):
        digest.update(f"{path.relative_to(root)}\n".encode() + path.read_bytes())
    return digest.hexdigest()


def on_host(leaf: Any) -> np.ndarray:
    """Return an array as a NumPy array, with the parts that the devices of other processes hold.

    If there are such parts, all processes must call this function together.
    """
    if isinstance(leaf, jax.Array) and not (leaf.is_fully_addressable or leaf.is_fully_replicated):
        return np.asarray(multihost_utils.process_allgather(leaf, tiled=True))
    return np.asarray(leaf)


def gathered(tree: Any) -> Any:
    """Return a pytree of arrays as NumPy arrays; see `on_host`. In a run of one process, the tree is returned as it is."""
    return jax.tree.map(on_host, tree) if several() else tree
