"""Compilation, loading and calls of the C++ library.

The C++ code of this folder is compiled once for this machine, and the library is stored in the user's cache folder.
"""

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
"""Time limit of the compiler in seconds. A build takes about 20 s, or 100 s with sanitizers."""
OTHER = "name another compiler in CXX"
SANITIZERS = ("address", "undefined")


def _flags() -> tuple[str, ...]:
    """Return the compiler flags.

    They include the flags of the sanitizers that the environment variable LSTM_JAX_SANITIZE names: "address", "undefined", or
    "address,undefined".

    Raises:
        InputError: if LSTM_JAX_SANITIZE names another sanitizer.
    """
    asked = os.environ.get("LSTM_JAX_SANITIZE", "")
    if not asked:
        return FLAGS
    if not set(asked.split(",")) <= set(SANITIZERS):
        raise InputError("LSTM_JAX_SANITIZE", asked, f"give {' or '.join(SANITIZERS)}, or both with a comma")
    # the program stops at the first report, since later ones mean little; -fexpensive-optimizations fuses products and sums, as -O3 does
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
    """Return the path of the library, whether or not the file exists.

    Its name contains a hash of the C++ code, the version of jaxlib, the processor and the compiler flags.

    Raises:
        InputError: if the user has no cache folder, or LSTM_JAX_SANITIZE names an unknown sanitizer.
    """
    return default_cache_dir() / "native" / f"lstm-{_key(_flags())}.so"


def _compiler() -> list[str]:
    """Return the command of the C++ compiler.

    It is the first that exists of: the command in the environment variable CXX, c++, g++, clang++, and the compiler of the Python package
    ziglang.

    Raises:
        InputError: if there is no compiler.
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
    }  # LD_PRELOAD may name the runtime of a sanitizer, which the compiler must not load
    streams: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    # the compiler gets its own session, so that its child processes can be killed with it
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
    """Check that the library at the path `made` can be loaded, in another process, since a broken library may kill the process.

    Raises:
        InputError: if the library cannot be loaded.
    """
    command = [sys.executable, "-ISc", "import ctypes, sys; ctypes.CDLL(sys.argv[1])", str(made)]
    run = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if run.returncode != 0:
        complaint = next(reversed(run.stderr.splitlines()), f"exit code {run.returncode}")
        raise InputError(f"library made by {compiler[0]}", complaint.removeprefix("OSError: "), OTHER)


def build() -> Path:
    """Compile the library, unless a trusted library already exists and can be loaded, and return its path.

    The compilation takes about 20 s.

    Raises:
        InputError: if there is no compiler, the compiler fails or exceeds `BUILD_SECONDS`, the library cannot be loaded, or it cannot be
            written to the cache folder.
    """
    path = library_path()
    if _load():
        compiler = _compiler()
        with tempfile.TemporaryDirectory() as folder:
            made = Path(folder) / "lstm.so"
            _compile(compiler, made)
            _try(compiler, made)  # so that a library that cannot be loaded is not stored
            trust.write(path, made.read_bytes())
        why = _load()
        if why:
            raise InputError(f"library {path}", why, "name another folder in XDG_CACHE_HOME")
    return path


_LOADED: dict[Path, ctypes.CDLL] = {}


def _load() -> str:
    """Load the library, once per process. Return a message that says why it cannot be loaded, or "" if it is loaded."""
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
    # load the open file that was checked, even if the name now belongs to another file; keep it open, so that the /proc path stays valid
    opened = Path(f"/proc/self/fd/{file}")
    try:
        _LOADED[path] = ctypes.CDLL(str(opened if opened.exists() else path))
    except OSError as error:
        os.close(file)
        return f"cannot be loaded ({' '.join(str(error).split())})"
    return ""


def why_not() -> str:
    """Return a message that says why compiled code cannot be used, or "" if it can be used."""
    if is_off():
        return is_off()
    why = _load()
    return f"{why}: {BUILD}" if why else ""


@functools.cache
def register() -> None:
    """Load the library and register its functions with XLA, once per process.

    Raises:
        InputError: if the library has not been built, cannot be trusted or cannot be loaded.
    """
    why = _load()
    if why:
        raise InputError("native code", why, BUILD)
    library = _LOADED[library_path()]
    for name in TARGETS:
        jax.ffi.register_ffi_target(name, jax.ffi.pycapsule(getattr(library, name)), platform="cpu")


def call(name: str, results: Sequence, args: Sequence, aliases: dict[int, int], sets: bool = False, **options) -> list[jax.Array]:
    """Call a function of the library on the arrays of this device, and return its results.

    Args:
        name: name of the function, one of `TARGETS`.
        results: one object per result that has the result's shape and dtype, such as an array or a `jax.ShapeDtypeStruct`.
        args: operands. Operands that are None are left out.
        aliases: dict from the position of an operand to the position of the result that may reuse its memory.
        sets: whether the function accepts arrays with a leading axis, so that `vmap` can make one call with all mapped arrays. If false,
            `vmap` makes one call after the other.
        options: attributes of the call; each is a bool, int, float or NumPy number.
    """
    register()
    fixed = {key: np.int64(value) if type(value) is int else value for key, value in options.items()}
    # each device gets an equal share of the cores; a traced program keeps the number of threads, even if the number of cores changes
    fixed["threads"] = np.int64(max(1, len(os.sched_getaffinity(0)) // jax.local_device_count("cpu")))
    shapes = [jax.ShapeDtypeStruct(result.shape, result.dtype) for result in results]
    function = jax.ffi.ffi_call(name, shapes, vmap_method="expand_dims" if sets else "sequential", input_output_aliases=aliases)
    return list(function(*(arg for arg in args if arg is not None), **fixed))
