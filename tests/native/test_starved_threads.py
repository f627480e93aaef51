"""Test of calls of the compiled code while the threads of XLA's pool get no processor
time, as on an overloaded machine.
"""

import contextlib
import ctypes
import os
import select
import subprocess
import sys
from pathlib import Path

import pytest
from tables import BACKENDS

pytestmark = pytest.mark.skipif(
    "compiled" not in BACKENDS, reason="no C++ compiler to build the backend with"
)

SEIZE, INTERRUPT = 0x4206, 0x4207  # requests of ptrace
ALL_THREADS = 0x40000000  # __WALL of waitpid
CALLS = """
import sys
import jax
import jax.numpy as jnp
from lstm_jax import CELLS, unroll

cell, batches = CELLS["lstm"], [jnp.ones((rows, 2, 8)) for rows in (1, 32)]
params = cell.init(jax.random.key(0), 8, 128)
call = jax.jit(lambda params, x: unroll(cell, params, x, backend="compiled")[0])
wanted = [call(params, x).block_until_ready() for x in batches]
print("ready", flush=True)
sys.stdin.readline()
for x, want in zip(batches, wanted):
    for _ in range(3000):  # XLA's queue has room for 1,024 tasks a thread
        got = call(params, x).block_until_ready()
    print("same" if (got == want).all() else "different", flush=True)
"""


def stop_pool(process: subprocess.Popen) -> list[int]:
    """Stop the threads of XLA's pool in a child process, and return their ids."""
    libc = ctypes.CDLL(None)
    libc.ptrace.argtypes, libc.ptrace.restype = (
        [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p],
        ctypes.c_long,
    )
    stopped = []
    for task in Path(f"/proc/{process.pid}/task").iterdir():
        if (task / "comm").read_text().startswith("tf_XLAEigen"):
            thread = int(task.name)
            if (
                libc.ptrace(SEIZE, thread, None, None) == 0
                and libc.ptrace(INTERRUPT, thread, None, None) == 0
            ):
                stopped.append(thread)
    return stopped


def kill(process: subprocess.Popen, stopped: list[int]) -> None:
    """Kill the child process, and wait for each of its stopped threads separately, as
    ptrace requires.
    """
    process.kill()
    for thread in stopped:
        with contextlib.suppress(ChildProcessError):
            while os.WIFSTOPPED(os.waitpid(thread, ALL_THREADS)[1]):
                pass


@pytest.mark.skipif(
    sys.platform != "linux", reason="stops single threads by Linux' ptrace"
)
def test_calls_end_without_the_pool() -> None:
    """Calls end even if the threads of XLA's pool are stopped.

    The reason is that calls leave few tasks in the pool's queue, so that the queue does
    not fill. In an earlier version, each call left one task there. When the queue was
    full, XLA ran the next task at once on the thread of the call, and the call waited
    for itself. The program tests/native/threads.cc tests calls while the queue is full.
    """
    with subprocess.Popen(
        [sys.executable, "-c", CALLS],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin
        assert process.stdout
        stopped: list[int] = []
        try:
            assert process.stdout.readline() == "ready\n"
            stopped = stop_pool(process)
            if not stopped:
                pytest.skip("no thread of a pool that ptrace may stop")
            process.stdin.write("\n")
            process.stdin.flush()
            assert select.select([process.stdout], [], [], 60)[0], (
                "3,000 calls do not end"
            )
            assert [process.stdout.readline() for _ in range(2)] == ["same\n"] * 2
        finally:
            kill(process, stopped)
