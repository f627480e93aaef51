"""The machine at hand, as far as compiled code depends on it; and how this process gets its memory."""

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
