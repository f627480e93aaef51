"""Set-up of JAX's persistent compilation cache in the user's cache folder, for the
command line.

Importing the library changes no setting of JAX. The commands call `keep_compiled`,
which enables the cache. The environment variables of
JAX take precedence: JAX_COMPILATION_CACHE_DIR names another folder, and
JAX_ENABLE_COMPILATION_CACHE=false disables the cache.
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

from lstm_jax.base.errors import InputError
from lstm_jax.base.machine import processor
from lstm_jax.base.writing import default_cache_dir, write_atomically

MOST_BYTES = 2**30
"""Largest size of the cache in bytes. If the cache is larger when a command starts, the
oldest programs are removed from it.

JAX itself never removes a program.
"""
VERDICT = "loads_on_cpu.txt"


def compilation_cache_dir() -> Path:
    """Return the folder of JAX's compilation cache for the installed version of jaxlib
    and the processor of this machine.

    Each kind of processor has its own folder, so that machines that share a home folder
    do not load programs compiled for another kind.
    """
    key = f"{version('jaxlib')} {processor()}"
    return default_cache_dir() / "xla" / hashlib.sha256(key.encode()).hexdigest()[:16]


def keep_compiled() -> None:
    """Enable JAX's persistent compilation cache in this process, also for programs that
    compile within a second.

    In three cases this function changes no setting of JAX:

    - A setting of JAX names a folder for the cache, or disables it.
    - The folder cannot be written, others can write to it, or the user has no home.
    - The default platform is the CPU, and XLA has printed a message or raised an error
      when it loaded a small program that it had compiled. The folder stores the result
      of this test.
    """
    if (
        not jax.config.values["jax_enable_compilation_cache"]
        or jax.config.values["jax_compilation_cache_dir"]
    ):
        return
    try:
        folder = compilation_cache_dir()
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        found = folder.stat()
        # JAX unpickles what is in it
        if found.st_uid != os.geteuid() or found.st_mode & 0o022:
            return
        _prune(folder)
        if not _loads(folder / VERDICT):
            return
    except (OSError, InputError):
        return
    # JAX then compiles as usual
    warnings.filterwarnings(
        "ignore", "Error (reading|writing) persistent compilation cache entry"
    )
    jax.config.update("jax_compilation_cache_dir", str(folder))
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        # a run has dozens of programs that compile within a second
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


def _prune(folder: Path):
    found = sorted(
        ((path.stat(), path) for path in folder.glob("*-cache")),
        key=lambda entry: entry[0].st_mtime,
    )
    spare = sum(stat.st_size for stat, _ in found) - MOST_BYTES
    for stat, path in found:
        if spare <= 0:
            break
        path.unlink(missing_ok=True)  # another run may remove it first
        spare -= stat.st_size


def _loads(verdict: Path) -> bool:
    """Return True if XLA prints no message and raises no error when it loads a program
    that it has compiled on this machine.
    """
    if not verdict.exists():
        if jax.default_backend() != "cpu":
            return True
        write_atomically(verdict, _stderr_of(_load_a_program) or "yes")
    # asked last: it starts the backend
    return verdict.read_text() == "yes" or jax.default_backend() != "cpu"


def _load_a_program():
    compiled = jax.jit(lambda x: x + 1).lower(jnp.zeros(())).compile()
    serialize_executable.deserialize_and_load(*serialize_executable.serialize(compiled))


def _stderr_of(function: Callable[[], object]) -> str:
    """Call a function and return the text that this process wrote to standard error
    during the call.
    """
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
