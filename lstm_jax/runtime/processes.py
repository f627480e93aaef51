"""Functions for several processes that train one model together, on one machine or on several machines.

The processes run the same program, on JAX's multi-controller runtime: each process has its own devices, and one mesh holds the devices of
all processes. All processes must call the same compiled functions on this mesh in the same order. The functions of this module connect the
processes, and tell all processes what only one process knows, for example that this process has failed or received a signal.
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
"""Number of seconds that a process waits for the other processes when the run starts."""
SILENT_SECONDS = 30
"""Number of seconds without a heartbeat after which JAX regards a process as dead, and ends all other processes."""
MANAGERS = (("SLURM_NTASKS", "SLURM_PROCID"), ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK"))
"""Environment variables with the number of processes and the index of this process. The first row is for Slurm, the second for Open MPI."""


def join(place: Processes = Processes()) -> Processes:  # noqa: B008
    """Connect this process with the other processes that train the same model, by `jax.distributed.initialize`.

    Call this function before JAX makes its first array. If neither `place` nor the environment names several processes, nothing is done. If
    process 0 listens, but another process does not join the run within `CONNECT_SECONDS`, no exception is raised: the process that called
    this function prints a message and ends with exit code 2.

    Args:
        place: the address of process 0, the number of processes and the index of this process. Missing fields are taken from the
            environment variables JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID, or from those of Slurm or Open MPI.

    Returns:
        The completed `place`, with the number of processes and the index of this process.

    Raises:
        InputError: if a field is missing or invalid, if the port is in use, or if process 0 does not listen at its address within
            `CONNECT_SECONDS`.
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
    """Return a copy of `place` whose missing fields are taken from the environment variables of JAX, Slurm or Open MPI."""

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
    """Return the names of two environment variables that Slurm or Open MPI has set, or None if neither program has started this process.

    The first variable contains the number of processes of the run, and the second contains the index of this process. Slurm also sets both
    variables in a batch script. A process that a batch script starts directly, without srun, is not counted as started by Slurm.
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
    """Check in process 0, the coordinator, that it can listen at its port. In other processes, do nothing.

    Without this check, JAX would end the process without an error message if the port is in use.

    Args:
        place: the address of process 0 and the index of this process.

    Raises:
        InputError: if the port is in use.
    """
    if place.process:
        return
    with socket.socket() as tried:
        tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            tried.bind(("", int(place.coordinator.rpartition(":")[2])))
        except OSError as error:
            raise InputError("coordinator", f"{place.coordinator}: {error.strerror}", "give a port that is free") from error


def _wait_for_coordinator(place: Processes) -> None:
    """Wait until process 0, the coordinator, listens at its port. In process 0 itself, do nothing.

    Without this function, JAX would abort this process if process 0 does not listen.

    Args:
        place: the address of process 0 and the index of this process.

    Raises:
        InputError: if process 0 does not listen within `CONNECT_SECONDS`.
    """
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
    """Return a context manager that ends this process if the body of the with-statement takes longer than `CONNECT_SECONDS`.

    In the body, JAX waits for the other processes without returning to Python, and would abort this process if another process never joins.
    This context manager instead prints one line with the expected number of processes (`place.processes`), and ends this process with exit
    code 2.
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
    """Return whether this process is process 0, which writes the files of a training run. In a run of one process, return True."""
    return jax.process_index() == 0


def several() -> bool:
    """Return whether several processes run this program together, which is true if `jax.process_count()` is above 1."""
    return jax.process_count() > 1


def own_devices(devices: int, place: Processes) -> int:
    """Return the number of CPU devices of each process if all processes together have `devices` CPU devices. If `devices` is 0, return 0.

    `place` contains the number of processes.

    Raises:
        InputError: if `devices` is not a multiple of the number of processes.
    """
    remedy = f"give 0 (all), or a multiple of the {place.processes} processes"
    require(devices % place.processes == 0, "devices", devices, remedy)
    return devices // place.processes


def largest(*numbers: int) -> tuple[int, ...]:
    """Return the maximum of each argument over all processes. All processes must call this function together."""
    if not several():
        return numbers
    found = multihost_utils.process_allgather(np.asarray(numbers, np.int64))
    return tuple(int(number) for number in np.asarray(found).reshape(-1, len(numbers)).max(axis=0))


@contextlib.contextmanager
def together() -> Iterator[None]:
    """Return a context manager for work that can fail in one process alone, such as reading files.

    If the work fails in some processes, each of them raises its own error. Every other process raises an `InputError` that names the failed
    processes. Therefore no process waits forever for a failed process. All processes must use this context manager together.
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
        values: dict from a name to its value, such as {"config": text of the config as JSON}. It has the same keys on all processes.

    Raises:
        InputError: on all processes, if a value of any process differs from that of process 0.
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
    """Return the SHA-256 of the Python and C++ files of this package, as a hexadecimal string."""
    root = Path(__file__).parent.parent
    digest = hashlib.sha256()
    for path in sorted(path for kind in ("*.py", "*.cc", "*.h") for path in root.rglob(kind)):
        digest.update(f"{path.relative_to(root)}\n".encode() + path.read_bytes())
    return digest.hexdigest()


def on_host(leaf: Any) -> np.ndarray:
    """Return a JAX array as a NumPy array, including the parts that the devices of other processes hold.

    If there are such parts, all processes must call this function together.
    """
    if isinstance(leaf, jax.Array) and not (leaf.is_fully_addressable or leaf.is_fully_replicated):
        return np.asarray(multihost_utils.process_allgather(leaf, tiled=True))
    return np.asarray(leaf)


def gathered(tree: Any) -> Any:
    """Convert each leaf of a pytree to a NumPy array with `on_host` if several processes run this program, and return the result.

    In a run of one process, the tree is returned unchanged.
    """
    return jax.tree.map(on_host, tree) if several() else tree
