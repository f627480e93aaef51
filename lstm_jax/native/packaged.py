"""Compiled libraries that are installed with lstm_jax, one for each level of the processor architecture.

A level is a set of instructions, such as the levels x86-64-v2, x86-64-v3 and x86-64-v4. A processor supports a level if it has all
instructions of the level. A process loads the library of the highest level that its processor supports. The libraries are in the folder
`lib`; setup.py compiles them with `build_packaged`.
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
"""Dict from a machine, a result of `platform.machine()`, to its levels, highest level first.

The value of a level is the set of processor features that it adds to the next lower level, by their names in /proc/cpuinfo.
"""
FOLDER = Path(__file__).with_name("lib")


def file_name(level: str) -> str:
    """Return the file name of the library for a level. It contains a hash, which is computed from the C++ code and the compiler flags."""
    return f"lstm-{level}-{compiler.source_hash()}.so"


@functools.cache
def levels_here() -> tuple[str, ...]:
    """Return the levels that this processor supports, highest level first. The result is () if there is no such level."""
    features = set(processor().split())
    found, levels = [], LEVELS.get(platform.machine(), {})
    for level in reversed(levels):
        if not levels[level] <= features:
            break
        found.insert(0, level)
    return tuple(found)


def packaged_path() -> Path | None:
    """Return the path of the installed library with the highest level that this processor supports, or None if no library fits."""
    paths = (FOLDER / file_name(level) for level in levels_here())
    return next((path for path in paths if path.exists()), None)


def missing_level() -> str:
    """Return a message that names the processor features which are missing for the lowest level, or "" if none is missing."""
    levels = LEVELS.get(platform.machine(), {})
    if levels_here() or not levels:
        return ""
    lowest = list(levels)[-1]
    lacking = levels[lowest] - set(processor().split())
    return f"this processor lacks {' '.join(sorted(lacking))} of {lowest}"


def _target(level: str, zig: bool) -> str:
    """Return the compiler flag for a level. The compiler zig has names of its own for the levels."""
    if level == "armv8-a":
        return "-mcpu=generic"
    return f"-march={level.replace('-', '_') if zig else level}"


def build_packaged(folder: Path = FOLDER, machine: str = "") -> list[Path]:
    """Compile one library for each level of a machine, and return the paths of the libraries. `LEVELS` contains the levels.

    Other libraries in the folder are removed. If the machine is not in `LEVELS`, no library is compiled. An example is "arm64" (a Mac).

    Args:
        folder: folder to which the libraries are written. It is created if it does not exist.
        machine: a name as in `platform.machine()`, or "" for the machine on which this process runs. To compile for another machine, the
            environment variable CXX must name a cross compiler.

    Raises:
        InputError: if there is no compiler, or if the compilation fails for a level.
    """
    command = compiler.find_compiler()

    def make(level: str) -> Path:
        path = folder / file_name(level)
        if not path.exists():
            with tempfile.TemporaryDirectory() as temporary:
                made = Path(temporary) / "lstm.so"
                # without -s, most of a library by zig would be symbols
                compiler.compile_library(command, [_target(level, "ziglang" in command), "-s"], made)
                trust.write_packaged(path, made.read_bytes())
        return path

    names = LEVELS.get(machine or platform.machine(), {})
    folder.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        paths = list(pool.map(make, names))
    for stale in set(folder.glob("*.so")) - set(paths):
        stale.unlink()
    return paths
