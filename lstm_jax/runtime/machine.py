"""The machine that this process runs on: the processor's features, and the memory in all and left."""

import ctypes
import os
import platform
from pathlib import Path
from typing import NamedTuple

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
"""Parameters of glibc's mallopt(3)."""


def processor() -> str:
    """Return what compiled code depends on: the architecture and, where Linux lists them, the processor's features."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        features = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    except OSError:
        features = platform.processor()
    return f"{platform.system()} {platform.machine()} {features}"


def keep_freed_memory() -> bool:
    """Let this process keep freed memory for its next allocations, up to 2 GiB at the heap's end; return whether that could be set.

    By default glibc gives each large block back to the system when it is freed, and writing to a new one costs a page fault for each 4 KiB:
    a third of the time of a long LSTM's gradients, since JAX allocates its results anew in each call. LSTM_JAX_KEEP_MEMORY=0 leaves the
    default, and so does another C library.
    """
    if platform.libc_ver()[0] != "glibc" or os.environ.get("LSTM_JAX_KEEP_MEMORY") == "0":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(M_MMAP_MAX, 0) and mallopt(M_TRIM_THRESHOLD, 2**31 - 1))


def total_memory() -> int:
    """Return the bytes of this machine, or of this process's control group if that has fewer; 0 if unknown."""
    try:
        whole = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):
        return 0
    return min([whole, *(group.limit for group in control_groups())])


def free_memory() -> int | None:
    """Return the bytes that this process may still take, of the machine or of its control group if that has fewer; None if unknown."""
    try:
        rows = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
        free = sum(int(rows[name].split()[0]) * 1024 for name in ("MemAvailable", "SwapFree"))
    except (OSError, KeyError, ValueError):
        return None
    return min([free, *(group.free for group in control_groups())])


class Group(NamedTuple):
    """Memory of a control group in bytes."""

    limit: int
    free: int


def control_groups(root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> list[Group]:
    """Return the memory of each control group, of version 1 or 2, that contains this process and has a limit.

    Args:
        root: where the control groups are mounted.
        own: the file that lists those of this process.
    """
    try:
        lines = own.read_text().splitlines()
    except OSError:
        return []
    found = []
    for _, controllers, path in (line.split(":", 2) for line in lines if line.count(":") >= 2):
        if controllers and "memory" not in controllers.split(","):
            continue
        names = ("memory.limit_in_bytes", "memory.usage_in_bytes") if controllers else ("memory.max", "memory.current")
        top = root / "memory" if controllers else root
        group = top / path.lstrip("/")
        found += [_group(folder, *names) for folder in (group, *group.parents) if folder.is_relative_to(top)]
    return [group for group in found if group is not None]


def _group(folder: Path, limit_name: str, usage_name: str) -> Group | None:
    try:
        limit, used = (int((folder / name).read_text()) for name in (limit_name, usage_name))
        stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):  # no such folder in a container; "max" for no limit
        return None
    return Group(limit, max(0, limit - used + int(stat.get("inactive_file", 0))))
