"""Compiling the C++ here for the machine at hand, once, into the user's cache; loading and calling what was compiled."""

import ctypes
import functools
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import jax
import numpy as np

from lstm_jax.errors import InputError
from lstm_jax.files import default_cache_dir, write_atomically
from lstm_jax.machine import processor
from lstm_jax.native.switch import is_off

SOURCES = tuple(Path(__file__).with_name(name) for name in ("lstm.cc", "adam.cc", "dropout.cc"))
FLAGS = ("-O3", "-march=native", "-fno-math-errno", "-std=c++17", "-shared", "-fPIC", "-w")
TARGETS = ("lstm_jax_forward", "lstm_jax_backward", "lstm_jax_adam", "lstm_jax_adam_catch_up", "lstm_jax_adam_rows", "lstm_jax_mask")
REMEDY = "install g++ or clang++, or pip install 'lstm-jax[native]', then run lstm-jax backends --build"


@functools.cache
def library_path() -> Path:
    """Where the library for this source, this jaxlib and this processor lies, or will."""
    files = sorted(path for pattern in ("*.cc", "*.h") for path in SOURCES[0].parent.glob(pattern))
    parts = (*(path.read_text() for path in files), version("jaxlib"), processor(), *FLAGS)
    return default_cache_dir() / "native" / f"lstm-{hashlib.sha256(repr(parts).encode()).hexdigest()[:16]}.so"


def _compiler() -> list[str]:
    """$CXX, the first compiler on the path, or the one that the package ziglang brings.

    Raises:
        InputError: if there is none.
    """
    for name in (os.environ.get("CXX", ""), "c++", "g++", "clang++"):
        if name and shutil.which(name.split()[0]):
            return name.split()
    if importlib.util.find_spec("ziglang"):
        return [sys.executable, "-m", "ziglang", "c++"]
    raise InputError("C++ compiler", "none found", REMEDY)


def build() -> Path:
    """Compile, unless that has been done; some twenty seconds.

    Raises:
        InputError: if there is no compiler, it fails, or what it made cannot be loaded.
    """
    path = library_path()
    if not path.exists():
        compiler = _compiler()
        with tempfile.TemporaryDirectory() as folder:
            made = Path(folder) / "lstm.so"
            command = [*compiler, *FLAGS, "-I", jax.ffi.include_dir(), *map(str, SOURCES), "-o", str(made)]
            run = subprocess.run(command, capture_output=True, text=True, check=False)
            if run.returncode != 0:
                complaint = next((line for line in run.stderr.splitlines() if "error" in line), f"exit code {run.returncode}")
                raise InputError(f"compiling with {compiler[0]}", complaint, "name another compiler in CXX")
            try:
                ctypes.CDLL(str(made))  # a library that does not load is not kept
            except OSError as error:
                raise InputError(f"library made by {compiler[0]}", error, "name another compiler in CXX") from error
            write_atomically(path, made.read_bytes())
    return path


def why_not() -> str:
    """Why what is compiled does not serve here; empty if they do."""
    return is_off() or ("" if library_path().exists() else "not built: run lstm-jax backends --build")


def cpu_devices(backend: str | None, dtype: str, cell: str = "lstm") -> int:
    """How many CPU devices suit training of that cell with that backend and those products, for `use_cpu_cores`: 1, whose compiled calls
    share out all cores and need no exchange, where it is compiled code that runs; else 0, one a core."""
    compiled = backend in (None, "auto", "native") and dtype in ("float32", "float64") and cell == "lstm"
    return 1 if compiled and not why_not() else 0


@functools.cache
def register() -> None:
    """Load the library and give its functions to XLA; once a process.

    Raises:
        InputError: if it has not been built.
    """
    path = library_path()
    if not path.exists():
        raise InputError("native code", "not built", "run lstm-jax backends --build")
    library = ctypes.CDLL(str(path))
    for name in TARGETS:
        jax.ffi.register_ffi_target(name, jax.ffi.pycapsule(getattr(library, name)), platform="cpu")


def call(name: str, results: Sequence, args: Sequence, aliases: dict[int, int], sets: bool = False, **options) -> list[jax.Array]:
    """Call the function of that name on this device's arrays.

    Args:
        sets: whether it is one call too under `vmap`, for all sets of arrays; else they are called one after the other.
        results: what has the shapes and dtypes of the results.
        args: None for one that is left out.
        aliases: number of an argument -> number of the result that may take its place.
        options: bool, int or float, or a number of NumPy.
    """
    register()
    fixed = {key: np.int64(value) if type(value) is int else value for key, value in options.items()}
    # cores for one device's call: all of them shared out
    fixed["threads"] = np.int64(max(1, len(os.sched_getaffinity(0)) // jax.local_device_count("cpu")))
    shapes = [jax.ShapeDtypeStruct(result.shape, result.dtype) for result in results]
    function = jax.ffi.ffi_call(name, shapes, vmap_method="expand_dims" if sets else "sequential", input_output_aliases=aliases)
    return list(function(*(arg for arg in args if arg is not None), **fixed))
