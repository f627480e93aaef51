"""Choice, loading and calls of the C++ library.

The library is either the one that `build` compiled for this processor into the user's cache folder, or one of those that were compiled when
lstm_jax was installed (see packaged.py). The former is preferred.
"""

import ctypes
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from lstm_jax.errors import InputError
from lstm_jax.files.writing import default_cache_dir
from lstm_jax.native import compiler, packaged, trust
from lstm_jax.native.switch import is_off
from lstm_jax.runtime.machine import processor

TARGETS = ("lstm_jax_forward", "lstm_jax_backward", "lstm_jax_adam", "lstm_jax_adam_catch_up", "lstm_jax_adam_rows", "lstm_jax_mask")
BUILD = "run lstm-jax backends --build"


def _flags() -> tuple[str, ...]:
    return ("-march=native", *compiler.sanitizer_flags())


def library_path() -> Path:
    """Return the path of the library that `build` compiles, whether or not the file exists.

    Its name contains a hash of the C++ code, the processor and the compiler flags.

    Raises:
        InputError: if the user has no cache folder, or LSTM_JAX_SANITIZE names an unknown sanitizer.
    """
    return default_cache_dir() / "native" / f"lstm-{compiler.source_hash(processor(), *_flags())}.so"


def build() -> Path:
    """Compile the library for this processor, unless a trusted library already exists and can be loaded, and return its path.

    The compilation takes about 20 s. A process that has already loaded another library keeps it.

    Raises:
        InputError: if there is no compiler, the compiler fails or takes longer than `compiler.SECONDS`, the library cannot be loaded, or it
            cannot be written to the cache folder.
    """
    path = library_path()
    try:
        _open(path)
    except trust.UntrustedError:
        command = compiler.find_compiler()
        with tempfile.TemporaryDirectory() as folder:
            made = Path(folder) / "lstm.so"
            compiler.compile_library(command, _flags(), made)
            compiler.check_loads(command, made)  # so that a library that cannot be loaded is not stored
            trust.write(path, made.read_bytes())
        try:
            _open(path)
        except trust.UntrustedError as error:
            raise InputError(f"library {path}", error, "name another folder in XDG_CACHE_HOME") from error
    return path


_OPENED: dict[Path, ctypes.CDLL] = {}
_REGISTERED: dict[Path, tuple[str, ...]] = {}
"""By the path of the library whose functions XLA calls, the messages about libraries that were tried before it."""


def _open(path: Path, is_packaged: bool = False) -> ctypes.CDLL:
    """Load the library at `path`, once per process.

    Raises:
        trust.UntrustedError: if it does not exist, cannot be trusted or cannot be loaded.
    """
    if path not in _OPENED:
        file = trust.open_packaged(path) if is_packaged else trust.open_library(path)
        if "address" in os.environ.get("LSTM_JAX_SANITIZE", "") and not hasattr(ctypes.CDLL(None), "__asan_init"):
            os.close(file)  # loading it would kill the process
            raise trust.UntrustedError("built with AddressSanitizer, whose runtime is not preloaded")
        # load the open file that was checked, even if the name now belongs to another file; keep it open: the /proc path must stay valid
        opened = Path(f"/proc/self/fd/{file}")
        try:
            _OPENED[path] = ctypes.CDLL(str(opened if opened.exists() else path))
        except OSError as error:
            os.close(file)
            raise trust.UntrustedError(f"cannot be loaded ({' '.join(str(error).split())})") from error
    return _OPENED[path]


def _register(library: ctypes.CDLL) -> None:
    """Register the functions of a library with XLA. XLA refuses a library that was built for an interface that it does not support.

    Raises:
        trust.UntrustedError: if XLA refuses the library.
    """
    try:
        for name in TARGETS:
            jax.ffi.register_ffi_target(name, jax.ffi.pycapsule(getattr(library, name)), platform="cpu")
    except Exception as error:
        raise trust.UntrustedError(f"XLA of this jaxlib refuses it ({' '.join(str(error).split())})") from error


class Library(NamedTuple):
    """The library that this process uses."""

    path: Path | None
    """Its path, or None if there is none."""
    notes: tuple[str, ...]
    """Messages that say why other libraries are not used."""


def _load() -> Library:
    """Return the library that this process uses. At the first call it is chosen and loaded, and its functions are registered with XLA."""
    candidates: list[tuple[Path, bool]] = []
    notes = []
    try:
        candidates.append((library_path(), False))
    except InputError as error:
        notes.append(str(error))
    path = packaged.packaged_path()
    if path and not os.environ.get("LSTM_JAX_SANITIZE"):
        candidates.append((path, True))
    for path, _ in candidates:
        if path in _REGISTERED:
            return Library(path, _REGISTERED[path])
    for path, is_packaged in candidates:
        try:
            _register(_open(path, is_packaged))
        except trust.UntrustedError as error:
            notes.append(str(error))
        else:
            _REGISTERED[path] = tuple(notes)
            return Library(path, tuple(notes))
    return Library(None, tuple(filter(None, (*notes, packaged.missing_level()))))


def why_not() -> str:
    """Return a message that says why compiled code cannot be used, or "" if it can be used."""
    if is_off():
        return is_off()
    library = _load()
    return "" if library.path else f"{'; '.join(library.notes)}: {BUILD}"


def loaded_library() -> Path | None:
    """Return the path of the library that this process uses, or None if it uses none."""
    return None if is_off() else _load().path


def describe_library() -> str:
    """Return the file name of the library that this process uses and where it comes from, or the reason why it uses none."""
    path = loaded_library()
    if path is None:
        return why_not()
    origin = "installed with lstm_jax" if path.parent == packaged.FOLDER else "built for this processor"
    rejected = [f"the library built for this processor: {note}: {BUILD}" for note in _load().notes if note != trust.NOT_BUILT]
    return "; ".join([f"{path.name}, {origin}", *rejected])


def register() -> None:
    """Load the library and register its functions with XLA, once per process.

    Raises:
        InputError: if no library exists that can be trusted and loaded.
    """
    library = _load()
    if not library.path:
        raise InputError("native code", "; ".join(library.notes), BUILD)


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
