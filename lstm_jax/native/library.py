"""Functions that choose a compiled library of the C++ code, load it, and call the functions in it.

If the function `build` has compiled a library for exactly this processor, that library is used. It is in the user's cache folder. Otherwise
one of the libraries that were installed with lstm_jax is used; see packaged.py.
"""

import ctypes
import functools
import hashlib
import os
import tempfile
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from lstm_jax.errors import InputError
from lstm_jax.files.writing import default_cache_dir
from lstm_jax.native import compiler, packaged, trust
from lstm_jax.native.switch import is_off
from lstm_jax.primitives.partition import devices_at_once
from lstm_jax.runtime.machine import cores, keep_freed_memory, processor

TARGETS = (
    "lstm_jax_forward",
    "lstm_jax_backward",
    "lstm_jax_linear_forward",
    "lstm_jax_linear_backward",
    "lstm_jax_adam_catch_up",
    "lstm_jax_adam_rows",
    "lstm_jax_mask",
)
PRODUCT_NUMBERS = {None: 0, "bfloat16": 1, "int8": 2}
"""Dict from each dtype of matrix products to its number in native/narrow.h. The key None means the dtype of the parameters."""
BUILD = "run lstm-jax backends --build"
INSTALLED = "the installed"


def _flags() -> tuple[str, ...]:
    return ("-march=native", *compiler.sanitizer_flags())


@functools.cache
def _key(flags: tuple[str, ...]) -> str:
    parts = (compiler.source_hash(), version("jaxlib"), processor(), *flags)
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def library_path() -> Path:
    """Return the path at which `build` stores the library that it compiles. The file may not exist yet."""
    return default_cache_dir() / "native" / f"lstm-{_key(_flags())}.so"


def build() -> Path:
    """Compile the C++ library for exactly this processor, store it in the user's cache folder, and return its path.

    The compilation takes about a minute. If the library has been compiled before, can be loaded, and cannot have been written by another
    user (see `native.trust`), it is not compiled again. A process that already uses another compiled library, such as one that was
    installed with lstm_jax, continues to use that one.

    Raises:
        InputError: in one of these cases.

            - There is no compiler.
            - The compiler fails or takes longer than `compiler.SECONDS`.
            - The compiled library cannot be loaded.
            - The library cannot be written to the cache folder.
    """
    path = library_path()
    try:
        _open(path)
    except trust.UntrustedError:
        command = compiler.find_compiler()
        trust.check_folder(path)
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:  # the usual one may forbid loading
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
"""Libraries whose functions are registered with XLA: a dict from the path of each library to its `Library.notes`."""


def _open(path: Path, is_packaged: bool = False) -> ctypes.CDLL:
    """Load a compiled library, if this process has not loaded it yet, and return it."""
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
    """Register the functions of a compiled library with XLA."""
    try:
        for name in TARGETS:
            jax.ffi.register_ffi_target(name, jax.ffi.pycapsule(getattr(library, name)), platform="cpu")
    except Exception as error:
        raise trust.UntrustedError(f"XLA of this jaxlib refuses it ({' '.join(str(error).split())})") from error


class Library(NamedTuple):
    """Result of the search for a compiled library: the library to use, if any, and why other libraries cannot be used."""

    path: Path | None
    """Path of the library, or None if the process can use no library."""
    notes: tuple[str, ...]
    """Messages that say why other libraries cannot be used."""


def _load() -> Library:
    """Return the compiled library that this process uses."""
    candidates: list[tuple[Path, bool]] = []
    notes = []
    try:
        candidates.append((library_path(), False))
    except InputError as error:
        notes.append(str(error))
    if not os.environ.get("LSTM_JAX_SANITIZE"):
        candidates += [(path, True) for path in packaged.packaged_paths()]
    for path, _ in candidates:
        if path in _REGISTERED:
            return Library(path, _REGISTERED[path])
    for path, is_packaged in candidates:
        try:
            _register(_open(path, is_packaged))
        except trust.UntrustedError as error:
            notes.append(f"{INSTALLED} {path.name}: {error}" if is_packaged else str(error))
        else:
            _REGISTERED[path] = tuple(notes)
            keep_freed_memory(large=False)  # so that a program that does not donate its arrays pays for new memory once
            return Library(path, tuple(notes))
    return Library(None, tuple(filter(None, (*notes, packaged.missing_level()))))


def why_not() -> str:
    """Return "" if the compiled C++ code can be used, else a message that says why it cannot be used."""
    if is_off():
        return is_off()
    library = _load()
    return "" if library.path else f"{'; '.join(library.notes)}: {BUILD}"


def why_not_products(dtype: str) -> str:
    """Return "" if the compiled C++ code can multiply in a dtype, "bfloat16" or "int8", else a message that says why it cannot."""
    path = loaded_library()
    if path is None:
        return why_not()
    if _OPENED[path].lstm_jax_has_products(ctypes.c_int64(PRODUCT_NUMBERS[dtype])):
        return ""
    feature = packaged.NARROW[dtype]
    here = feature in processor().split()
    return f"{path.name} has no products in {dtype}: {BUILD}" if here else f"this processor lacks {feature}"


def loaded_library() -> Path | None:
    """Return the path of the compiled library that this process uses, or None if it uses no compiled code."""
    return None if is_off() else _load().path


def describe_library() -> str:
    """Return a text with the file name and the origin of the compiled library that this process uses, or the reason why it uses none."""
    path = loaded_library()
    if path is None:
        return why_not()
    origin = "installed with lstm_jax" if path.parent == packaged.FOLDER else "built for this processor"
    notes = [note if note.startswith(INSTALLED) else f"the library built for this processor: {note}" for note in _load().notes]
    rejected = [f"{note}: {BUILD}" for note in notes if not note.endswith(trust.NOT_BUILT)]
    return "; ".join([f"{path.name}, {origin}", *rejected])


def register() -> None:
    """Load a compiled library and register its functions with XLA, if this process has not done so yet."""
    library = _load()
    if not library.path:
        raise InputError("native code", "; ".join(library.notes), BUILD)


def call(
    name: str, results: Sequence, args: Sequence, aliases: dict[int, int], sets: bool = False, alone: bool = False, **options
) -> list[jax.Array]:
    """Call a function of the compiled C++ library on arrays of one device, and return its results.

    Args:
        name: name of the function, one of `TARGETS`.
        results: one object for each result, with the shape and dtype of the result: an array, a `jax.ShapeDtypeStruct` or the like.
        args: operands. Operands that are None are left out.
        aliases: dict from the position of an operand to the position of a result that may be stored in the memory of this operand.
            Positions are counted without the operands that are None.
        sets: whether the function also accepts several sets of operands, stacked along an additional first axis. If true, `vmap` stacks the
            sets and calls the function once. If false, `vmap` calls the function once for each set.
        alone: whether the function runs in one thread.
        options: attributes that are passed to the function; each is a bool, int, float or NumPy number.
    """
    register()
    fixed = {key: np.int64(value) if type(value) is int else value for key, value in options.items()}
    # devices that run this call at the same time share the cores; a traced program keeps its number of threads if the cores change later
    fixed["threads"] = np.int64(1 if alone else max(1, len(cores()) // min(devices_at_once(), jax.local_device_count("cpu"))))
    shapes = [jax.ShapeDtypeStruct(result.shape, result.dtype) for result in results]
    function = jax.ffi.ffi_call(name, shapes, vmap_method="expand_dims" if sets else "sequential", input_output_aliases=aliases)
    return list(function(*(arg for arg in args if arg is not None), **fixed))
