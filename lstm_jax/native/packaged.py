"""Libraries that are compiled when lstm_jax is installed: one for each level of the processor architecture, in the folder `lib`.

A level is a set of instructions, such as the levels v2, v3 and v4 of the x86-64 psABI. A process loads the library of the highest level
that its processor has. setup.py calls `build_packaged`.
"""

import functools
import os
import platform
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from lstm_jax.native import compiler, trust
from lstm_jax.runtime.machine import processor

LEVELS: dict[str, dict[str, frozenset[str]]] = {
    "x86_64": {
        "x86-64-v4": frozenset(["avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"]),
        "x86-64-v3": frozenset(["avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "abm", "movbe", "xsave"]),
        "x86-64-v2": frozenset(["cx16", "lahf_lm", "popcnt", "pni", "sse4_1", "sse4_2", "ssse3"]),
    },
    "aarch64": {"armv8-a": frozenset({"fp", "asimd"})},
}
"""Levels of each machine (as `platform.machine` names it) from the highest to the lowest, each with the features that it adds to the lower
ones, as /proc/cpuinfo names them."""
FOLDER = Path(__file__).with_name("lib")


def file_name(level: str) -> str:
    """Return the name of the library of a level. It contains a hash of the C++ code and the compiler flags."""
    return f"lstm-{level}-{compiler.source_hash()}.so"


@functools.cache
def levels_here() -> tuple[str, ...]:
    """Return the levels that this processor has, the highest one first; empty if the processor is unknown."""
    features = set(processor().split())
    found, levels = [], LEVELS.get(platform.machine(), {})
    for level in reversed(levels):
        if not levels[level] <= features:
            break
        found.insert(0, level)
    return tuple(found)


def packaged_path() -> Path | None:
    """Return the path of the packaged library for this processor, or None if there is none."""
    paths = (FOLDER / file_name(level) for level in levels_here())
    return next((path for path in paths if path.exists()), None)


def missing_level() -> str:
    """Return a message about the features that this processor lacks for the lowest level, or "" if it lacks none."""
    levels = LEVELS.get(platform.machine(), {})
    if levels_here() or not levels:
        return ""
    lowest = list(levels)[-1]
    lacking = levels[lowest] - set(processor().split())
    return f"this processor lacks {' '.join(sorted(lacking))} of {lowest}"


def build_packaged(folder: Path = FOLDER, machine: str = "") -> list[Path]:
    """Compile the libraries of all levels of a machine into `folder`, and return their paths. Other libraries there are removed.

    On a machine without levels, such as a Mac, no library is compiled.

    Args:
        folder: folder of the libraries; it is made if it does not exist.
        machine: a key of `LEVELS`; "" for this machine. For another machine, CXX must name a cross compiler.

    Raises:
        InputError: if there is no compiler, or it fails for a level.
    """
    command = compiler.find_compiler()

    def make(level: str) -> Path:
        path = folder / file_name(level)
        if not path.exists():
            with tempfile.TemporaryDirectory() as temporary:
                made = Path(temporary) / "lstm.so"
                # zig has names of its own for the levels, with underscores
                march = level.replace("-", "_") if "ziglang" in command else level
                compiler.compile_library(
                    command, [f"-march={march}", "-s"], made
                )  # -s leaves out symbols, which would be most of a library by zig
                trust.write_packaged(path, made.read_bytes())
        return path

    names = LEVELS.get(machine or platform.machine(), {})
    folder.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        paths = list(pool.map(make, names))
    for stale in set(folder.glob("*.so")) - set(paths):
        stale.unlink()
    return paths
