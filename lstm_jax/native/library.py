"""Compiling the C++ here for the machine at hand, once, into the user's cache; loading and calling what was compiled."""

import contextlib
import ctypes
import functools
import hashlib
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import numpy as np

from lstm_jax.errors import InputError
from lstm_jax.files.writing import default_cache_dir
from lstm_jax.native import trust
from lstm_jax.native.switch import is_off
from lstm_jax.runtime.machine import processor

SOURCES = tuple(Path(__file__).with_name(name) for name in ("lstm.cc", "adam.cc", "dropout.cc"))
FLAGS = ("-O3", "-march=native", "-fno-math-errno", "-std=c++17", "-shared", "-fPIC", "-w")
TARGETS = ("lstm_jax_forward", "lstm_jax_backward", "lstm_jax_adam", "lstm_jax_adam_catch_up", "lstm_jax_adam_rows", "lstm_jax_mask")
REMEDY = "install g++ or clang++, or pip install 'lstm-jax[native]', then run lstm-jax backends --build"
BUILD = "run lstm-jax backends --build"
BUILD_SECONDS = 900
"""After which a compiler is taken to hang; it needs some twenty seconds, and with sanitizers a hundred."""
OTHER = "name another compiler in CXX"
SANITIZERS = ("address", "undefined")


def _flags() -> tuple[str, ...]:
    """The compiler's flags; with $LSTM_JAX_SANITIZE ("address", "undefined" or both, with a comma), those of these sanitizers.

    Raises:
        InputError: if there is no such sanitizer.
    """
    asked = os.environ.get("LSTM_JAX_SANITIZE", "")
    if not asked:
        return FLAGS
    if not set(asked.split(",")) <= set(SANITIZERS):
        raise InputError("LSTM_JAX_SANITIZE", asked, f"give {' or '.join(SANITIZERS)}, or both with a comma")
    # one report is enough: what comes after it means little; the optimisations with that name fuse products and sums, as -O3 does
    return (
        *FLAGS,
        "-O1",
        "-fexpensive-optimizations",
        "-g1",
        "-fno-omit-frame-pointer",
        f"-fsanitize={asked}",
        "-fno-sanitize-recover=all",
    )


@functools.cache
def _key(flags: tuple[str, ...]) -> str:
    files = sorted(path for pattern in ("*.cc", "*.h") for path in SOURCES[0].parent.glob(pattern))
    parts = (*(path.read_text() for path in files), version("jaxlib"), processor(), *flags)
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def library_path() -> Path:
    """Where the library for this source, this jaxlib and this processor lies, or will.

    Raises:
        InputError: if this user has no folder for it.
    """
    return default_cache_dir() / "native" / f"lstm-{_key(_flags())}.so"


def _compiler() -> list[str]:
    """$CXX, the first compiler on the path, or the one that the package ziglang brings.

    Raises:
        InputError: if there is none.
    """
    for name in (os.environ.get("CXX", ""), "c++", "g++", "clang++"):
        if name.strip() and shutil.which(name.split()[0]):
            return name.split()
    if importlib.util.find_spec("ziglang"):
        return [sys.executable, "-m", "ziglang", "c++"]
    raise InputError("C++ compiler", "none found", REMEDY)


def _compile(compiler: list[str], made: Path) -> None:
    command = [*compiler, *_flags(), "-I", jax.ffi.include_dir(), *map(str, SOURCES), "-o", str(made)]
    environment = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}  # a sanitizer's runtime is not for compilers
    streams: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    # a session of its own, so that its end is that of the compiler's children too
    with subprocess.Popen(command, **streams, env=environment, text=True, start_new_session=True) as run:
        try:
            _, complaints = run.communicate(timeout=BUILD_SECONDS)
        except BaseException as error:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(run.pid, signal.SIGKILL)
            if isinstance(error, subprocess.TimeoutExpired):
                raise InputError(f"compiling with {compiler[0]}", f"not done after {BUILD_SECONDS} s", OTHER) from error
            raise
    if run.returncode != 0:
        complaint = next((line for line in complaints.splitlines() if "error" in line), f"exit code {run.returncode}")
        raise InputError(f"compiling with {compiler[0]}", complaint, OTHER)


def _try(compiler: list[str], made: Path) -> None:
    """Load the library in another process: one that is no library may end it.

    Raises:
        InputError: if that fails.
    """
    command = [sys.executable, "-ISc", "import ctypes, sys; ctypes.CDLL(sys.argv[1])", str(made)]
    run = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if run.returncode != 0:
        complaint = next(reversed(run.stderr.splitlines()), f"exit code {run.returncode}")
        raise InputError(f"library made by {compiler[0]}", complaint.removeprefix("OSError: "), OTHER)


def build() -> Path:
    """Compile, unless there is a library that can be trusted and loaded; some twenty seconds.

    Raises:
        InputError: if there is no compiler, it fails or hangs, what it made cannot be loaded, or there is no place for it.
    """
    path = library_path()
    if _load():
        compiler = _compiler()
        with tempfile.TemporaryDirectory() as folder:
            made = Path(folder) / "lstm.so"
            _compile(compiler, made)
            _try(compiler, made)  # a library that does not load is not kept
            trust.write(path, made.read_bytes())
        why = _load()
        if why:
            raise InputError(f"library {path}", why, "name another folder in XDG_CACHE_HOME")
    return path


_LOADED: dict[Path, ctypes.CDLL] = {}


def _load() -> str:
    """Load the library, once a process; why that cannot be, empty if it is loaded."""
    try:
        path = library_path()
        if path in _LOADED:
            return ""
        file = trust.open_library(path)
    except (InputError, trust.UntrustedError) as error:
        return str(error)
    if "address" in os.environ.get("LSTM_JAX_SANITIZE", "") and not hasattr(ctypes.CDLL(None), "__asan_init"):
        os.close(file)
        return "built with AddressSanitizer, whose runtime is not preloaded"  # loading it would end the process
    # what was opened and checked, whatever has taken its name since; it stays open, so that its name here stays its own
    own = Path(f"/proc/self/fd/{file}")
    try:
        _LOADED[path] = ctypes.CDLL(str(own if own.exists() else path))
    except OSError as error:
        os.close(file)
        return f"cannot be loaded ({' '.join(str(error).split())})"
    return ""


def why_not() -> str:
    """Why what is compiled does not serve here; empty if it does."""
    if is_off():
        return is_off()
    why = _load()
    return f"{why}: {BUILD}" if why else ""


def cpu_devices(backend: str | None, dtype: str, cell: str = "lstm") -> int:
    """How many CPU devices suit training of that cell with that backend and those products, for `use_cpu_cores`: 1, whose compiled calls
    share out all cores and need no exchange, where it is compiled code that runs; else 0, one a core."""
    compiled = backend in (None, "auto", "native") and dtype in ("float32", "float64") and cell == "lstm"
    return 1 if compiled and not why_not() else 0


@functools.cache
def register() -> None:
    """Load the library and give its functions to XLA; once a process.

    Raises:
        InputError: if it has not been built, or is not to be trusted.
    """
    why = _load()
    if why:
        raise InputError("native code", why, BUILD)
    library = _LOADED[library_path()]
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
    # cores for one device's call: all of them shared out; a program keeps the number that was found when it was traced
    fixed["threads"] = np.int64(max(1, len(os.sched_getaffinity(0)) // jax.local_device_count("cpu")))
    shapes = [jax.ShapeDtypeStruct(result.shape, result.dtype) for result in results]
    function = jax.ffi.ffi_call(name, shapes, vmap_method="expand_dims" if sets else "sequential", input_output_aliases=aliases)
    return list(function(*(arg for arg in args if arg is not None), **fixed))
