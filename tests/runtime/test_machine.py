"""Tests of `machine`: freed memory that a process keeps, measured in page faults, and the cores that it may use."""

import os
import platform
import subprocess
import sys

import pytest

from lstm_jax.runtime import machine

PROGRAM = """
import resource
from lstm_jax.runtime import machine
print(machine.keep_freed_memory())
block = lambda: b"x" * 2**26
block()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    block()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
def test_freed_memory_is_kept() -> None:
    found = {}
    for keep in ("1", "0"):
        environment = os.environ | {"LSTM_JAX_KEEP_MEMORY": keep}
        run = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, env=environment, check=True)
        set_, faults = run.stdout.split()
        assert set_ == str(keep == "1")
        found[keep] = int(faults)
    # without kept memory there is a fault for each page of 4 KiB, or of 2 MiB if the system makes large pages
    assert found["1"] < 100 <= found["0"]


def test_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    """`cores` returns the cores of this process. On a system without CPU affinity it returns all cores, and `pin` does nothing."""
    allowed = os.sched_getaffinity(0)
    assert machine.cores() == sorted(allowed)
    machine.pin(0, [min(allowed)])
    try:
        assert machine.cores() == [min(allowed)]
        monkeypatch.delattr(os, "sched_getaffinity")
        monkeypatch.delattr(os, "sched_setaffinity")
        assert machine.cores() == list(range(os.cpu_count() or 1))
        machine.pin(0, [0])
    finally:
        monkeypatch.undo()
        os.sched_setaffinity(0, allowed)
