"""The machine at hand, as far as compiled code depends on it; and how this process gets its memory, and how much of it is left."""

import ctypes
import os
import platform
from pathlib import Path

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
"""Of glibc's mallopt(3)."""


def processor() -> str:
    """What code for this machine may use: its architecture and, where Linux lists them, the processor's features."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        features = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    except OSError:
        features = platform.processor()
    return f"{platform.system()} {platform.machine()} {features}"


def keep_freed_memory() -> bool:
    """Let this process keep what it frees for what it allocates next, up to 2 GiB at the heap's end; whether that could be set.

    glibc gives each large block back to the system when it is freed, and writing to a new one costs a page fault for each 4 KiB: a third of
    the time of a long LSTM's gradients. JAX allocates what it computes anew in each call. LSTM_JAX_KEEP_MEMORY=0 leaves all as it is; so
    does another C library.
    """
    if platform.libc_ver()[0] != "glibc" or os.environ.get("LSTM_JAX_KEEP_MEMORY") == "0":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(M_MMAP_MAX, 0) and mallopt(M_TRIM_THRESHOLD, 2**31 - 1))


def free_memory() -> int | None:
    """Return the bytes that this process may still take: of the machine, or of its control group where that has less. None if unknown."""
    try:
        rows = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
        free = sum(int(rows[name].split()[0]) * 1024 for name in ("MemAvailable", "SwapFree"))
    except (OSError, KeyError, ValueError):
        return None
    return min([free, *_free_in_groups()])


def _free_in_groups(root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> list[int]:
    """Return what each control group that this process is in, and that has a limit, has left; version 2, then version 1."""
    found = []
    try:
        lines = own.read_text().splitlines()
    except OSError:
        return []
    for _, controllers, path in (line.split(":", 2) for line in lines if line.count(":") >= 2):
        if controllers and "memory" not in controllers.split(","):
            continue
        names = ("memory.limit_in_bytes", "memory.usage_in_bytes") if controllers else ("memory.max", "memory.current")
        top = root / "memory" if controllers else root
        group = top / path.lstrip("/")
        for folder in (group, *group.parents):
            if not folder.is_relative_to(top):
                break
            try:
                limit, used = (int((folder / name).read_text()) for name in names)
                stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
            except (OSError, ValueError):  # no such group from within a container; "max" for no limit
                continue
            found.append(max(0, limit - used + int(stat.get("inactive_file", 0))))
    return found
