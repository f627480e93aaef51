"""Compiled libraries that are installed with lstm_jax, one for each level of the
processor architecture.

A level is a set of instructions that a processor may have. For x86-64 the levels are
x86-64-v2, x86-64-v3, x86-64-v4 and x86-64-v4-bf16. The last one adds AVX512-BF16, for
products of bfloat16 numbers, and AVX512-VNNI, for products of int8 numbers. For aarch64
the only level is armv8-a. A processor supports a level if it has all instructions of
the level. A process loads the library of the highest level that its processor supports.
setup.py compiles the level of its machine with `build_packaged`, or all levels for a
wheel that is passed on. The libraries are in the folder `lib`, and in the user's cache
folder, where other checkouts of the same sources find them.
"""

import contextlib
import functools
import os
import platform
import tempfile
from pathlib import Path

from lstm_jax.base.errors import InputError
from lstm_jax.base.machine import processor
from lstm_jax.base.types import Texts
from lstm_jax.base.writing import default_cache_dir, write_atomically
from lstm_jax.native import compiler

NARROW = {"bfloat16": "avx512_bf16", "int8": "avx512_vnni"}
"""Dict from a dtype to the processor feature, as named in /proc/cpuinfo, that provides
instructions for matrix products in this dtype."""
LEVELS = {
    "x86_64": {
        "x86-64-v4-bf16": "avx512_bf16 avx512_vnni",
        "x86-64-v4": "avx512f avx512bw avx512cd avx512dq avx512vl",
        "x86-64-v3": "avx avx2 bmi1 bmi2 f16c fma abm movbe xsave",
        "x86-64-v2": "cx16 lahf_lm popcnt pni sse4_1 sse4_2 ssse3",
    },
    "aarch64": {"armv8-a": "fp asimd"},
}
"""Processor features of each level, as `LEVELS[machine][level]`. The levels of a
machine are in the order from highest to lowest.

`machine` is a result of `platform.machine()`. The features are those that the level
adds to the next lower level, by their names in /proc/cpuinfo, separated by spaces.
"""
EXTENSIONS = {
    "x86-64-v2": "cx16 sahf popcnt sse4.2",
    "x86-64-v3": "avx2 bmi bmi2 f16c fma lzcnt movbe xsave",
    "x86-64-v4": "avx512f avx512bw avx512cd avx512dq avx512vl",
    "x86-64-v4-bf16": "avx512bf16 avx512vnni",
}
"""Dict from each level of x86-64, lowest first, to the instruction sets that it adds,
as compilers name them, separated by spaces."""
FOLDER = Path(__file__).with_name("lib")


def file_name(level: str) -> str:
    """Return the file name of the library for a level of the processor architecture,
    such as "x86-64-v3".
    """
    return f"lstm-{level}-{compiler.source_hash()}.so"


@functools.cache
def levels_here() -> Texts:
    """Return the levels of the processor architecture, such as "x86-64-v3", that this
    processor supports, highest level first.
    """
    features = set(processor().split())
    levels, found = LEVELS.get(platform.machine(), {}), ()
    for level in reversed(levels):
        if not features.issuperset(levels[level].split()):
            break
        found = (level, *found)
    return found


@functools.cache
def candidates(*folders: Path) -> tuple[Path, ...]:
    """Return where libraries of these sources that suit this processor may be in some
    folders, the best first.
    """
    return tuple(
        folder / file_name(level) for level in levels_here() for folder in folders
    )


def _targets(level: str, command: list[str]) -> list[list[str]]:
    if level not in EXTENSIONS:
        return [["-mcpu=generic"]]
    base = level.removesuffix("-bf16")
    # no compiler has a name for this level
    more = EXTENSIONS[level].split() if level != base else []
    if "ziglang" in command:  # it has names of its own for the levels
        return [["+".join([f"-march={base.replace('-', '_')}", *more])]]
    lower = list(EXTENSIONS)[: list(EXTENSIONS).index(level) + 1]
    return [
        [f"-march={base}", *(f"-m{name}" for name in more)],
        [f"-m{name}" for one in lower for name in EXTENSIONS[one].split()],
    ]


def build_packaged(folder: Path = FOLDER, machine: str = "") -> list[Path]:
    """Compile the libraries that are installed with lstm_jax to a folder, remove others
    from it, and return their paths.

    A library that this user's cache folder has from the same sources is copied. All
    levels of `machine`, a key of `LEVELS`, are compiled. "" means the highest level
    that this processor supports, or all levels with the environment variable
    LSTM_JAX_LEVELS=all.
    """
    every = bool(machine) or os.environ.get("LSTM_JAX_LEVELS") == "all"
    levels = LEVELS.get(machine or platform.machine(), {}) if every else levels_here()
    if not levels:
        return []
    command = compiler.find_compiler()
    errors: list[InputError] = []
    paths: list[Path] = []
    folder.mkdir(parents=True, exist_ok=True)
    for level in levels:
        path = folder / file_name(level)
        try:
            if not path.exists():
                write_atomically(
                    path, _compiled(level, command, "" if machine else file_name(level))
                )
            paths.append(path)
        except InputError as error:
            errors.append(error)
        if paths and not every:
            break
    for stale in set(folder.glob("*.so")) - set(paths):
        # another installation may remove it at the same time
        stale.unlink(missing_ok=True)
    if errors and not paths:
        raise errors[-1]
    return paths


def _compiled(level: str, command: list[str], cached: str) -> bytes:
    """Return the library of a level from the file `cached` of the cache folder, or
    compile it and store it there, unless `cached` is "".
    """
    kept: Path | None = None
    with contextlib.suppress(OSError, InputError):  # a user without a home has no cache
        if cached:
            kept = default_cache_dir() / "native" / cached
            if kept.exists() and not compiler.loading_error(kept):
                return kept.read_bytes()
    with tempfile.TemporaryDirectory() as temporary:
        made = Path(temporary) / "lstm.so"
        targets = _targets(level, command)
        for flags in targets:
            with (
                contextlib.nullcontext()
                if flags is targets[-1]
                else contextlib.suppress(InputError)
            ):
                # without -s, most of a library by zig would be symbols
                compiler.compile_library(command, [*flags, "-s"], made)
                break
        library = made.read_bytes()
        with contextlib.suppress(OSError, InputError):
            if kept and not compiler.loading_error(made):
                kept.parent.mkdir(0o700, parents=True, exist_ok=True)
                write_atomically(kept, library)
    return library
