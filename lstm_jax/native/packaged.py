"""Compiled libraries that are installed with lstm_jax, one for each level of the processor architecture.

A level is a set of instructions that a processor may have. For x86-64 the levels are x86-64-v2, x86-64-v3, x86-64-v4 and x86-64-v4-bf16.
The last one adds AVX512-BF16, for products of bfloat16 numbers, and AVX512-VNNI, for products of int8 numbers. For aarch64 the only level
is armv8-a. A processor supports a level if it has all instructions of the level. A process loads the library of the highest level that its
processor supports. The libraries are in the folder `lib`; setup.py compiles them with `build_packaged`.
"""

import functools
import platform
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from lstm_jax.errors import InputError
from lstm_jax.files.writing import write_atomically
from lstm_jax.native import compiler
from lstm_jax.runtime.machine import cores, processor

NARROW = {"bfloat16": "avx512_bf16", "int8": "avx512_vnni"}
"""Dict from a dtype to the processor feature, as named in /proc/cpuinfo, that provides instructions for matrix products in this dtype."""
LEVELS: dict[str, dict[str, frozenset[str]]] = {
    "x86_64": {
        "x86-64-v4-bf16": frozenset(NARROW.values()),
        "x86-64-v4": frozenset(["avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"]),
        "x86-64-v3": frozenset(["avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "abm", "movbe", "xsave"]),
        "x86-64-v2": frozenset(["cx16", "lahf_lm", "popcnt", "pni", "sse4_1", "sse4_2", "ssse3"]),
    },
    "aarch64": {"armv8-a": frozenset({"fp", "asimd"})},
}
"""Processor features of each level, as `LEVELS[machine][level]`. The levels of a machine are in the order from highest to lowest.

`machine` is a result of `platform.machine()`. The features are those that the level adds to the next lower level, by their names in
/proc/cpuinfo.
"""
EXTENSIONS = {
    "x86-64-v2": "cx16 sahf popcnt sse4.2",
    "x86-64-v3": "avx2 bmi bmi2 f16c fma lzcnt movbe xsave",
    "x86-64-v4": "avx512f avx512bw avx512cd avx512dq avx512vl",
    "x86-64-v4-bf16": "avx512bf16 avx512vnni",
}
"""Dict from each level of x86-64, lowest first, to the instruction sets that it adds, as compilers name them, separated by spaces."""
_BFLOAT16_SUFFIX = "-bf16"
FOLDER = Path(__file__).with_name("lib")


def file_name(level: str) -> str:
    """Return the file name of the library for a level of the processor architecture, such as "x86-64-v3"."""
    return f"lstm-{level}-{compiler.source_hash()}.so"


@functools.cache
def levels_here() -> tuple[str, ...]:
    """Return the levels of the processor architecture, such as "x86-64-v3", that this processor supports, highest level first."""
    features = set(processor().split())
    found, levels = [], LEVELS.get(platform.machine(), {})
    for level in reversed(levels):
        if not levels[level] <= features:
            break
        found.insert(0, level)
    return tuple(found)


def packaged_paths() -> list[Path]:
    """Return the paths of the libraries installed with lstm_jax that suit this processor, the best first."""
    paths = (FOLDER / file_name(level) for level in levels_here())
    return [path for path in paths if path.exists()]


def _targets(level: str, command: list[str]) -> list[list[str]]:
    """Return the compiler flags for a level of the processor architecture, as a list of alternatives."""
    if level not in EXTENSIONS:
        return [["-mcpu=generic"]]
    base = level.removesuffix(_BFLOAT16_SUFFIX)
    more = EXTENSIONS[level].split() if level != base else []  # no compiler has a name for this level
    if "ziglang" in command:  # it has names of its own for the levels
        return [["+".join([f"-march={base.replace('-', '_')}", *more])]]
    lower = list(EXTENSIONS)[: list(EXTENSIONS).index(level) + 1]
    return [[f"-march={base}", *(f"-m{name}" for name in more)], [f"-m{name}" for one in lower for name in EXTENSIONS[one].split()]]


def build_packaged(folder: Path = FOLDER, machine: str = "") -> list[Path]:
    """Compile one library for each level, such as "x86-64-v3", that `LEVELS` lists for a machine, and return the paths of the libraries."""
    names = LEVELS.get(machine or platform.machine(), {})
    if not names:
        return []
    command = compiler.find_compiler()
    errors: list[InputError] = []

    def make(level: str) -> Path | None:
        path = folder / file_name(level)
        if path.exists():
            return path
        for flags in _targets(level, command):
            try:
                with tempfile.TemporaryDirectory() as temporary:
                    made = Path(temporary) / "lstm.so"
                    compiler.compile_library(command, [*flags, "-s"], made)  # without -s, most of a library by zig would be symbols
                    write_atomically(path, made.read_bytes())
                return path
            except InputError as error:
                errors.append(error)
        return None

    folder.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(len(cores())) as pool:
        paths = [path for path in pool.map(make, names) if path]
    for stale in set(folder.glob("*.so")) - set(paths):
        stale.unlink(missing_ok=True)  # another installation may remove it at the same time
    if not paths:
        raise errors[-1]
    return paths
