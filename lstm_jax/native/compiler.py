"""Compilation of the C++ code in this folder, with a C++ compiler of the machine or
with the one in the Python package ziglang.
"""

import functools
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from lstm_jax.base.errors import InputError
from lstm_jax.base.machine import cores
from lstm_jax.base.types import Texts

SOURCES = tuple(
    Path(__file__).with_name(f"{name}.cc")
    for name in ("forward", "backward", "adam", "recurrence", "linear", "dropout")
)
"""C++ files, those that take longest first."""
FLAGS = ("-O3", "-fno-math-errno", "-std=c++17", "-fPIC", "-w")
REMEDY = (
    "install g++ or clang++, or pip install '.[native]', then run lstm-jax "
    "backends --build"
)
OTHER = "name another compiler in CXX"


def sanitizer_flags() -> Texts:
    """Return the compiler flags that enable sanitizers, which detect errors in the C++
    code while it runs.
    """
    asked = os.environ.get("LSTM_JAX_SANITIZE", "")
    if not asked:
        return ()
    # the program stops at the first error, since later ones may only follow from it;
    # -fexpensive-optimizations fuses multiplications and additions, as -O3 does
    return (
        "-O1",
        "-fexpensive-optimizations",
        "-g1",
        "-fno-omit-frame-pointer",
        f"-fsanitize={asked}",
        "-fno-sanitize-recover=all",
    )


def short_hash(*parts: str) -> str:
    """Return a hash of some texts, as 16 hexadecimal digits."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


@functools.cache
def source_hash() -> str:
    """Return a hash of the C++ code and the compiler flags, as 16 hexadecimal digits."""
    files = sorted(
        path for pattern in ("*.cc", "*.h") for path in SOURCES[0].parent.glob(pattern)
    )
    return short_hash(*(path.read_text() for path in files), *FLAGS)


def find_compiler() -> list[str]:
    """Return the command that runs a C++ compiler."""
    for name in (os.environ.get("CXX", ""), "c++", "g++", "clang++"):
        if name.strip() and shutil.which(name.split()[0]):
            return name.split()
    if importlib.util.find_spec("ziglang"):
        return [sys.executable, "-m", "ziglang", "c++"]
    raise InputError("C++ compiler", "none found", REMEDY)


def compile_library(compiler: Sequence[str], flags: Sequence[str], made: Path) -> None:
    """Compile the C++ code to a shared library, one file on each core at a time."""
    # LD_PRELOAD may name the runtime of a sanitizer, which the compiler must not load
    environment = os.environ | {"LD_PRELOAD": ""}

    def run(*arguments: str | Path):
        command = [*compiler, *FLAGS, *flags, *map(str, arguments)]
        ended = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            env=environment,
        )
        if ended.returncode != 0:
            complaint = next(
                (line for line in ended.stderr.splitlines() if "error" in line),
                f"exit code {ended.returncode}",
            )
            raise InputError(f"compiling with {compiler[0]}", complaint, OTHER)

    objects = [made.with_name(f"{source.stem}.o") for source in SOURCES]
    with ThreadPoolExecutor(len(cores())) as pool:
        # its first link compiles the C++ library, on one core
        if "ziglang" in compiler:
            pool.submit(
                run,
                "-shared",
                "-x",
                "c++",
                os.devnull,
                "-o",
                made.with_name("empty.so"),
            )
        for _ in pool.map(
            lambda source, to: run("-c", source, "-o", to), SOURCES, objects
        ):
            pass
    run("-shared", *objects, "-o", made)


def loading_error(path: Path) -> str:
    """Return "" if a library can be loaded in another process, else the error. A broken
    library may kill the process that loads it.
    """
    command = [
        sys.executable,
        "-ISc",
        "import ctypes, sys; ctypes.CDLL(sys.argv[1])",
        str(path),
    ]
    run = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True
    )
    complaint = next(reversed(run.stderr.splitlines()), f"exit code {run.returncode}")
    return complaint.removeprefix(f"OSError: {path}: ") if run.returncode else ""
