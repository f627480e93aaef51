"""JAX's persistent compilation cache for the command line, in the user's cache folder.

Importing the library changes no setting of JAX; programs call `keep_compiled`. JAX's own environment variables have precedence: one that
names another folder (JAX_COMPILATION_CACHE_DIR) or disables the cache (JAX_ENABLE_COMPILATION_CACHE=false).
"""

import hashlib
import os
import sys
import tempfile
import warnings
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import jax
import jax.numpy as jnp
from jax.experimental import serialize_executable

from lstm_jax.errors import InputError
from lstm_jax.files.writing import default_cache_dir, write_atomically
from lstm_jax.runtime.machine import processor

MOST_BYTES = 2**30
"""Size above which the oldest programs are removed at the start of a run; JAX itself never removes a program."""
VERDICT = "loads.txt"


def compilation_cache_dir() -> Path:
    """Return the folder of programs for this jaxlib and this processor, so that machines with a shared home never load each other's."""
    key = f"{version('jaxlib')} {processor()}"
    return default_cache_dir() / "xla" / hashlib.sha256(key.encode()).hexdigest()[:16]


def keep_compiled() -> None:
    """Enable the cache in this process, for programs of any size, if the folder can be written and XLA loads without complaint."""
    if not jax.config.values["jax_enable_compilation_cache"] or jax.config.values["jax_compilation_cache_dir"]:
        return
    folder = compilation_cache_dir()
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        _prune(folder)
        if not _loads(folder / VERDICT):
            return
    except (OSError, InputError):
        return
    warnings.filterwarnings("ignore", "Error (reading|writing) persistent compilation cache entry")  # JAX then compiles
    jax.config.update("jax_compilation_cache_dir", str(folder))
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)  # a run has dozens of programs of a second or less


def _prune(folder: Path) -> None:
    found = sorted(((path.stat(), path) for path in folder.glob("*-cache")), key=lambda entry: entry[0].st_mtime)
    spare = sum(stat.st_size for stat, _ in found) - MOST_BYTES
    for stat, path in found:
        if spare <= 0:
            break
        path.unlink(missing_ok=True)  # another run may remove it first
        spare -= stat.st_size


def _loads(verdict: Path) -> bool:
    """Return whether XLA loads without complaint a program that it compiled here; tested once, with the result kept in `verdict`.

    On some processors XLA takes its own tuning flags for features that the machine lacks (openxla/xla issue 44565), prints a long message
    for each program, and may refuse it.
    """
    if not verdict.exists():
        complaint = _stderr_of(_load_a_program) if jax.default_backend() == "cpu" else ""
        write_atomically(verdict, complaint or "yes")
    return verdict.read_text() == "yes"


def _load_a_program() -> None:
    compiled = jax.jit(lambda x: x + 1).lower(jnp.zeros(())).compile()
    serialize_executable.deserialize_and_load(*serialize_executable.serialize(compiled))


def _stderr_of(function: Callable[[], object]) -> str:
    """Call `function` and return what the process, its C++ parts included, wrote to standard error, and the error that was raised."""
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), 2)
        error = ""
        try:
            function()
        except Exception as raised:
            error = f"{type(raised).__name__}: {raised}"
        finally:
            sys.stderr.flush()
            os.dup2(kept, 2)
            os.close(kept)
        file.seek(0)
        return file.read().decode(errors="replace") + error
