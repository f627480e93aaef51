"""Tests of `machine`: freed memory that a process keeps, measured in page faults, and
the cores that it may use.
"""

import importlib.metadata
import json
import os
import platform
import subprocess
import sys
from importlib.metadata import EntryPoint

import pytest

from lstm_jax.base import machine
from lstm_jax.lab.machine import resources

PROGRAM = """
import json, os, resource, sys, threading
from lstm_jax.native import library
from lstm_jax.base import machine

def allocate(size):
    b"x" * size, b"y" * size, b"z" * size  # three, since glibc by itself keeps twice the largest block that was freed

def count(size):
    allocate(size)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(2 + 2**26 // size):
        allocate(size)
    found.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)

for prepare, os.environ["LSTM_JAX_KEEP_MEMORY"] in json.loads(sys.argv[1]):
    if os.fork():
        assert os.wait()[1] == 0
        continue
    found = []
    exec(prepare)
    count(2**23)
    for size in 2**23, 3 * 2**25:
        thread = threading.Thread(target=count, args=(size,))
        thread.start()
        thread.join()
    count(2**26)
    print(*found)
    break
"""
KEPT = {
    ("machine.keep_freed_memory()", "1"): (True, True, True, True),
    ("machine.keep_freed_memory(large=False)", "1"): (True, True, False, False),
    ("assert not machine.keep_freed_memory()", "0"): (False, False, False, False),
    ("assert library.loaded_library()", "1"): (True, True, False, False),
    ("assert library.loaded_library()", "0"): (False, False, False, False),
}


@pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc", reason="the C library is not glibc"
)
def test_freed_memory_is_kept():
    """Allocating and freeing three blocks three or ten times causes fewer than 30 page
    faults if and only if freed memory is kept.

    The blocks have one size, and have been allocated and freed once before the page
    faults are counted.

    `KEPT` has an entry for each of four cases: blocks of 8 MiB in the main thread, of 8
    and of 96 MiB in other threads, and of 64 MiB in the main thread. The entry says
    whether the freed memory must be kept. Each call of `KEPT` has a process of its own,
    forked from one process.
    """
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps([*KEPT])],
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    for (call, kept), line in zip(KEPT.items(), run.stdout.splitlines(), strict=True):
        # without kept memory there is a fault for each page of 4 KiB, or of 2 MiB if
        # the system makes large pages
        assert [int(number) < 30 for number in line.split()] == list(kept), (call, line)


def test_cores(monkeypatch):
    """`cores` returns the cores of this process. On a system without CPU affinity it
    returns all cores, and `pin` does nothing.
    """
    allowed = os.sched_getaffinity(0)
    assert machine.cores() == sorted(allowed)
    resources.pin(0, [min(allowed)])
    try:
        assert machine.cores() == [min(allowed)]
        monkeypatch.delattr(os, "sched_getaffinity")
        monkeypatch.delattr(os, "sched_setaffinity")
        assert machine.cores() == list(range(os.cpu_count() or 1))
        resources.pin(0, [0])
    finally:
        monkeypatch.undo()
        os.sched_setaffinity(0, allowed)


def test_accelerators(tmp_path, monkeypatch):
    """The GPUs are those in CUDA_VISIBLE_DEVICES, or those that nvidia-smi lists if JAX
    can use GPUs.
    """
    (tmp_path / "nvidia-smi").write_text(
        "#!/bin/sh\necho 'GPU 0: A (UUID: a)\n  MIG 1g Device 0: (UUID: "
        "m)\nGPU 1: A (UUID: b)'\n"
    )
    (tmp_path / "nvidia-smi").chmod(0o700)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    for plugin, platforms, visible, found in (
        ("xla_cuda13", None, None, ["0", "1"]),
        ("other", None, None, []),
        ("other", None, "2,GPU-b", ["2", "GPU-b"]),
        ("xla_cuda13", None, "-1", []),
        ("xla_cuda13", None, "", []),
        ("xla_cuda13", "cpu", "2", []),
    ):
        monkeypatch.setattr(
            importlib.metadata,
            "entry_points",
            lambda group, name=plugin: [EntryPoint(name, "a:b", group)],
        )
        for name, value in (
            ("JAX_PLATFORMS", platforms),
            ("CUDA_VISIBLE_DEVICES", visible),
        ):
            monkeypatch.delenv(name, raising=False)
            if value is not None:
                monkeypatch.setenv(name, value)
        assert resources.accelerators() == [
            {"CUDA_VISIBLE_DEVICES": number} for number in found
        ]
