"""Functions about the processor, the accelerators and the memory of the machine on
which this process runs.
"""

import contextlib
import ctypes
import os
import platform
from pathlib import Path
from typing import NamedTuple

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = (
    -1,
    -2,
    -3,
    -4,
    -8,
)
"""Numbers of options of the function mallopt(3) of glibc."""
LARGE_BLOCK = 2**25
"""Largest threshold in bytes above which glibc (M_MMAP_THRESHOLD) returns each block to
the system when the program frees it."""
HEAP = 2**26
"""Size in bytes of each heap that glibc reserves for a thread other than the main
thread."""


def processor() -> str:
    """Return a text that identifies the kind of machine for which code is compiled:
    operating system, architecture and processor.

    On Linux the text contains the features of the processor that /proc/cpuinfo lists.
    If this file cannot be read, the text contains the result of `platform.processor()`
    instead.
    """
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        features = next(
            (line for line in lines if line.startswith(("flags", "Features"))), ""
        )
    except OSError:
        features = platform.processor()
    return f"{platform.system()} {platform.machine()} {features}"


def cores() -> list[int]:
    """Return the indices of the processor cores that this process may use, or of all
    cores if the system does not report them (macOS).
    """
    return (
        sorted(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else list(range(os.cpu_count() or 1))
    )


def keep_freed_memory(large: bool = True) -> bool:
    """Make this process keep freed memory for its next allocations, and return whether
    this was possible.

    By default the C library glibc returns free memory to the operating system as soon
    as a few MiB of it lie together. Writing to new memory costs one page fault per 4
    KiB. Since JAX allocates new arrays in each call, these page faults take a third of
    the time that JAX needs to compute the gradients of an LSTM over many steps.

    If the environment variable LSTM_JAX_KEEP_MEMORY is 0, or if the C library is not
    glibc, nothing is changed and False is returned.

    Args:
        large: whether blocks above 32 MiB are kept too, such as the temporary arrays of
            a training step, which XLA allocates in one block. A thread that has
            allocated before keeps blocks of up to 64 MiB. If false, each of them is
            returned when it is freed, unless an earlier call had `large=True`. In both
            cases the main thread keeps up to 2 GiB of free memory. Any other thread
            keeps as much memory as it has used at its peak.
    """
    if (
        platform.libc_ver()[0] != "glibc"
        or os.environ.get("LSTM_JAX_KEEP_MEMORY") == "0"
    ):
        return False
    # JAX also allocates in threads; with less padding than a whole heap, glibc returns
    # a thread's heap once it is empty
    options = {M_TRIM_THRESHOLD: 2**31 - 1, M_TOP_PAD: HEAP}
    # a block that does not fit into a thread's heap is kept only if all threads share
    # the main heap
    options |= (
        {M_MMAP_MAX: 0, M_ARENA_MAX: 1} if large else {M_MMAP_THRESHOLD: LARGE_BLOCK}
    )
    mallopt = ctypes.CDLL(None).mallopt
    return all(mallopt(option, value) for option, value in options.items())


def total_memory() -> int:
    """Return the memory in bytes that this process may use at most, or 0 if it is
    unknown.

    This is the lowest of these numbers: the memory of the machine, and the limit of
    each Linux control group that contains this process.
    """
    try:
        whole = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):
        return 0
    return min([whole, *(group.limit for group in control_groups())])


class Group(NamedTuple):
    """Memory of a Linux control group (cgroup), in bytes."""

    limit: int
    """Largest number of bytes that the processes in the group may use."""
    free: int
    """Number of bytes that the processes in the group may still allocate."""


def control_groups(
    root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")
) -> list[Group]:
    """Return the memory of each Linux control group, of version 1 or 2, that contains
    this process and has a memory limit.

    They are mounted at `root`, and the file `own` lists those of this process.
    """
    try:
        lines = own.read_text().splitlines()
    except OSError:
        return []
    found = []
    for _, controllers, path in (
        line.split(":", 2) for line in lines if line.count(":") >= 2
    ):
        if controllers and "memory" not in controllers.split(","):
            continue
        names = (
            ("memory.limit_in_bytes", "memory.usage_in_bytes")
            if controllers
            else ("memory.max", "memory.current")
        )
        top = root / "memory" if controllers else root
        group = top / path.lstrip("/")
        for folder in (group, *group.parents):
            # in a container the folder may be absent; a group without a limit has "max"
            # in place of a number
            with contextlib.suppress(OSError, ValueError):
                limit, used = (int((folder / name).read_text()) for name in names)
                stat = dict(
                    line.split()
                    for line in (folder / "memory.stat").read_text().splitlines()
                )
                found.append(
                    Group(
                        limit, max(0, limit - used + int(stat.get("inactive_file", 0)))
                    )
                )
            if folder == top:
                break
    return found
