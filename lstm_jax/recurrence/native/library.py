"""Compiling lstm.cc for the machine at hand, once, into the user's cache; and loading what was compiled."""

import ctypes
import functools
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

import jax

from lstm_jax.errors import InputError
from lstm_jax.files import default_cache_dir, write_atomically
from lstm_jax.machine import processor

SOURCE = Path(__file__).with_name("lstm.cc")
FLAGS = ("-O3", "-march=native", "-std=c++17", "-shared", "-fPIC", "-w")
TARGETS = {"forward": "lstm_jax_forward", "backward": "lstm_jax_backward"}
REMEDY = "install g++ or clang++, or pip install 'lstm-jax[native]', then run lstm-jax backends --build"


@functools.cache
def library_path() -> Path:
    """Where the library for this source, this jaxlib and this processor lies, or will."""
    parts = (SOURCE.read_text(), version("jaxlib"), processor(), *FLAGS)
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
    """Compile, unless that has been done; about ten seconds.

    Raises:
        InputError: if there is no compiler, it fails, or what it made cannot be loaded.
    """
    path = library_path()
    if not path.exists():
        compiler = _compiler()
        with tempfile.TemporaryDirectory() as folder:
            made = Path(folder) / "lstm.so"
            command = [*compiler, *FLAGS, "-I", jax.ffi.include_dir(), str(SOURCE), "-o", str(made)]
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
    """Why the compiled loops do not serve here; empty if they do."""
    return "" if library_path().exists() else "not built: run lstm-jax backends --build"


@functools.cache
def register() -> None:
    """Load the library and give its functions to XLA; once a process.

    Raises:
        InputError: if it has not been built.
    """
    path = library_path()
    if not path.exists():
        raise InputError("backend native", "not built", "run lstm-jax backends --build")
    library = ctypes.CDLL(str(path))
    for name in TARGETS.values():
        jax.ffi.register_ffi_target(name, jax.ffi.pycapsule(getattr(library, name)), platform="cpu")
