"""Compile the C++ of this folder for this machine, once, into the user's cache; load the library and call its functions."""

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
"""Time limit of a compiler; it takes about 20 s, and 100 s with sanitizers."""
OTHER = "name another compiler in CXX"
SANITIZERS = ("address", "undefined")


def _flags() -> tuple[str, ...]:
    """Return the compiler's flags, with those of the sanitizers in $LSTM_JAX_SANITIZE ("address", "undefined", or both with a comma).

    Raises:
        InputError: if there is no such sanitizer.
    """
    asked = os.environ.get("LSTM_JAX_SANITIZE", "")
    if not asked:
        return FLAGS
    if not set(asked.split(",")) <= set(SANITIZERS):
        raise InputError("LSTM_JAX_SANITIZE", asked, f"give {' or '.join(SANITIZERS)}, or both with a comma")
    # stop at the first report, since later ones mean little; -fexpensive-optimizations fuses products and sums, as -O3 does
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
    """Return the path of the library for this source, this jaxlib and this processor, whether or not it exists.

    Raises:
        InputError: if this user has no cache folder.
    """
    return default_cache_dir() / "native" / f"lstm-{_key(_flags())}.so"


def _compiler() -> list[str]:
    """Return the command of the compiler: $CXX, the first one on the path, or the one of the package ziglang.

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
    environment = {
        name: value for name, value in os.environ.items() if name != "LD_PRELOAD"
    }  # the compiler must not load a sanitizer's runtime
    streams: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    # a new session, so that the compiler's children can be killed with it
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
    """Load the library in another process, since a broken library may kill the process.

    Raises:
        InputError: if it cannot be loaded.
    """
    command = [sys.executable, "-ISc", "import ctypes, sys; ctypes.CDLL(sys.argv[1])", str(made)]
    run = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if run.returncode != 0:
        complaint = next(reversed(run.stderr.splitlines()), f"exit code {run.returncode}")
        raise InputError(f"library made by {compiler[0]}", complaint.removeprefix("OSError: "), OTHER)


def build() -> Path:
    """Compile the library in about 20 s, unless there is one that can be trusted and loaded, and return its path.

    Raises:
        InputError: if there is no compiler, it fails or hangs, its library cannot be loaded, or there is no cache folder for it.
    """
    path = library_path()
    if _load():
        compiler = _compiler()
        with tempfile.TemporaryDirectory() as folder:
            made = Path(folder) / "lstm.so"
            _compile(compiler, made)
            _try(compiler, made)  # do not keep a library that cannot be loaded
            trust.write(path, made.read_bytes())
        why = _load()
        if why:
            raise InputError(f"library {path}", why, "name another folder in XDG_CACHE_HOME")
    return path


_LOADED: dict[Path, ctypes.CDLL] = {}


def _load() -> str:
    """Load the library, once per process; return why it cannot be loaded, empty if it is."""
    try:
        path = library_path()
        if path in _LOADED:
            return ""
        file = trust.open_library(path)
    except (InputError, trust.UntrustedError) as error:
        return str(error)
    if "address" in os.environ.get("LSTM_JAX_SANITIZE", "") and not hasattr(ctypes.CDLL(None), "__asan_init"):
        os.close(file)
        return "built with AddressSanitizer, whose runtime is not preloaded"  # loading it would kill the process
    # load the file that was opened and checked, even if another one has its name by now; it stays open, so that this path stays valid
    opened = Path(f"/proc/self/fd/{file}")
    try:
        _LOADED[path] = ctypes.CDLL(str(opened if opened.exists() else path))
    except OSError as error:
        os.close(file)
        return f"cannot be loaded ({' '.join(str(error).split())})"
    return ""


def why_not() -> str:
    """Return why compiled code does not serve here; empty if it does."""
    if is_off():
        return is_off()
    why = _load()
    return f"{why}: {BUILD}" if why else ""


@functools.cache
def register() -> None:
    """Load the library and register its functions with XLA, once per process.

    Raises:
        InputError: if it has not been built, or cannot be trusted.
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
        name: a name in `TARGETS`.
        results: arrays, or shapes and dtypes, like the results.
        args: operands; None for one that is left out.
        aliases: number of an operand -> number of the result that may use its memory.
        sets: whether `vmap` makes one call for all sets of arrays; else one call after the other.
        options: attributes: bool, int, float or a NumPy number.
    """
    register()
    fixed = {key: np.int64(value) if type(value) is int else value for key, value in options.items()}
    # each device gets an equal share of the cores; a program keeps the number of the time when it was traced
    fixed["threads"] = np.int64(max(1, len(os.sched_getaffinity(0)) // jax.local_device_count("cpu")))
    shapes = [jax.ShapeDtypeStruct(result.shape, result.dtype) for result in results]
    function = jax.ffi.ffi_call(name, shapes, vmap_method="expand_dims" if sets else "sequential", input_output_aliases=aliases)
    return list(function(*(arg for arg in args if arg is not None), **fixed))
