"""The machine at hand, as far as compiled code depends on it."""

import platform
from pathlib import Path


def processor() -> str:
    """What code for this machine may use: its architecture and, where Linux lists them, the processor's features."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        features = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    except OSError:
        features = platform.processor()
    return f"{platform.system()} {platform.machine()} {features}"
