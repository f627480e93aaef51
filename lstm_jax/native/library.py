"""Functions that choose a compiled library of the C++ code, load it, and call the
functions in it.

If the function `build` has compiled a library for exactly this processor, that library
is used. It is in the user's cache folder. Otherwise a library that was installed with
lstm_jax is used, or one that an installation of the same sources has left in the cache;
see packaged.py.
"""

import contextlib
import ctypes
import functools
import os
import tempfile
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from lstm_jax.base.errors import InputError, require, system_errors
from lstm_jax.base.machine import cores, keep_freed_memory, processor
from lstm_jax.base.types import Texts
from lstm_jax.base.writing import default_cache_dir, write_atomically
from lstm_jax.native import compiler, packaged
from lstm_jax.native.partition import devices_at_once

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
"""Dict from each dtype of matrix products to its number in native/narrow.h. The key
None means the dtype of the parameters."""
BUILD = "run lstm-jax backends --build"
NOT_BUILT = "not built"
VARIABLE = "LSTM_JAX_COMPILED_CODE"

# the values are part of the key of JAX's program caches, so that a program that was
# traced with another value is not reused
_enabled = jax.make_user_context(
    default_value=os.environ.get(VARIABLE, "1").lower()
    not in ("0", "false", "off", "no")
)
_threads = jax.make_user_context(default_value=0)


def compiled_code(enabled: bool) -> contextlib.AbstractContextManager:
    """Return a context manager that turns the use of compiled C++ code on or off.

    Without compiled code, the recurrence, the dropout masks and row-sparse updates are
    computed in JAX. The results with and without compiled code are equal up to
    rounding. The environment variable LSTM_JAX_COMPILED_CODE=0 turns compiled code off
    for the process, except within `compiled_code(True)`.
    """
    return _enabled(enabled)


def threads(most: int) -> contextlib.AbstractContextManager:
    """Return a context manager in which a call of the C++ code uses at most `most`
    threads, for servers with a Python thread for each user.

        with native.threads(1):
            output, state = step(x, state)

    JAX compiles a program again for each limit. An `InputError` is raised if `most` is
    no positive int.
    """
    require(type(most) is int and most > 0, "most", most, "give a positive int")
    return _threads(most)


def is_off() -> str:
    """Return "" if compiled C++ code is turned on, else a message that says how it was
    turned off.
    """
    return "" if _enabled.value else f"turned off by {VARIABLE} or compiled_code(False)"


def _flags() -> Texts:
    return ("-march=native", *compiler.sanitizer_flags())


@functools.cache
def _key(flags: Texts) -> str:
    return compiler.short_hash(compiler.source_hash(), processor(), *flags)


def library_path() -> Path:
    """Return the path at which `build` stores the library that it compiles. The file
    may not exist yet.
    """
    return default_cache_dir() / "native" / f"lstm-{_key(_flags())}.so"


def build() -> Path:
    """Compile the C++ library for exactly this processor, store it in the user's cache
    folder, and return its path.

    The compilation takes about a minute. If the library has been compiled before and
    can be loaded, it is not compiled again. A process that already uses another
    compiled library, such as one that was installed with lstm_jax, continues to use
    that one.

    Raises:
        InputError: if there is no compiler, if it fails or makes a library that cannot
            be loaded, or if the cache folder cannot be used.
    """
    path = library_path()
    if not compiler.loading_error(path):
        return path
    command = compiler.find_compiler()
    elsewhere = "name another folder in XDG_CACHE_HOME"
    with system_errors(f"writing {path}", f"free some space or {elsewhere}"):
        path.parent.mkdir(0o700, parents=True, exist_ok=True)
        loads = not os.statvfs(path.parent).f_flag & getattr(os, "ST_NOEXEC", 0)
        require(loads, f"folder {path.parent}", "is mounted with noexec", elsewhere)
        # the usual one may forbid loading
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            made = Path(folder) / "lstm.so"
            compiler.compile_library(command, _flags(), made)
            complaint = compiler.loading_error(made)
            require(
                not complaint,
                f"library made by {command[0]}",
                complaint,
                compiler.OTHER,
            )
            write_atomically(path, made.read_bytes())
    return path


class Library(NamedTuple):
    """Result of the search for a compiled library: the library to use, if any, and why
    other libraries cannot be used.
    """

    path: Path | None
    """Path of the library, or None if the process can use no library."""
    notes: Texts
    """Messages that say why other libraries cannot be used."""
    code: Any = None
    """The loaded library, a `ctypes.CDLL`, or None if the process can use no library.
    """


_LOADED: list[Library] = []
"""The library whose functions are registered with XLA, once there is one."""


def _open(path: Path) -> ctypes.CDLL:
    if "address" in os.environ.get("LSTM_JAX_SANITIZE", "") and not hasattr(
        ctypes.CDLL(None), "__asan_init"
    ):
        # loading it would kill the process
        raise OSError("built with AddressSanitizer, whose runtime is not preloaded")
    code = ctypes.CDLL(str(path))
    for name in TARGETS:
        jax.ffi.register_ffi_target(
            name, jax.ffi.pycapsule(getattr(code, name)), platform="cpu"
        )
    return code


def _load() -> Library:
    if _LOADED:
        return _LOADED[0]

    notes, built = [], []
    try:
        built = [library_path()]
    except InputError as error:
        notes.append(str(error))
    folders = (packaged.FOLDER, *(path.parent for path in built))
    if os.environ.get("LSTM_JAX_SANITIZE"):
        folders = ()

    for path in (*built, *packaged.candidates(*folders)):
        name = f"the installed {path.name}"
        if path in built:
            name = "the library built for this processor"
        if not os.path.exists(path):
            notes += [NOT_BUILT] * (path in built)
            continue
        try:
            code = _open(path)
        except Exception as error:  # XLA raises errors of several classes
            notes.append(f"{name}: cannot be loaded ({' '.join(str(error).split())})")
        else:
            # so that a program that does not donate its arrays pays for new memory once
            keep_freed_memory(large=False)
            _LOADED.append(Library(path, tuple(notes), code))
            return _LOADED[0]
    return Library(None, tuple(notes))


def why_not() -> str:
    """Return "" if the compiled C++ code can be used, else why it cannot. The library
    is loaded, if none is.
    """
    if off := is_off():
        return off
    library = _load()
    return "" if library.path else f"{'; '.join(library.notes)}: {BUILD}"


def warn_if_slow() -> None:
    """Warn, once in a process, if it has no compiled code that suits this processor,
    although lstm_jax can be compiled for it.
    """
    if not is_off():
        _warn_if_slow()


@functools.cache
def _warn_if_slow() -> None:
    levels = packaged.levels_here()
    if not levels:
        return
    path, notes, _ = _load()
    reason = "; ".join(notes)
    if path is not None:
        names = [packaged.file_name(level) for level in levels]
        if path.name not in names[1:]:
            return
        reason = f"{path.name} is for an older processor than this one"
    warnings.warn(
        f"lstm_jax is slower than it can be: {reason}; {BUILD}, or set {VARIABLE}=0",
        stacklevel=3,
    )


def why_not_products(dtype: str) -> str:
    """Return "" if the compiled C++ code can multiply in a dtype, "bfloat16" or "int8",
    else a message that says why it cannot.
    """
    path = loaded_library()
    if path is None:
        return why_not()
    number = ctypes.c_int64(PRODUCT_NUMBERS[dtype])
    if _load().code.lstm_jax_has_products(number):
        return ""
    feature = packaged.NARROW[dtype]
    if feature in processor().split():
        return f"{path.name} has no products in {dtype}: {BUILD}"
    return f"this processor lacks {feature}"


def loaded_library() -> Path | None:
    """Return the path of the compiled library that this process uses, or None if it
    uses no compiled code.
    """
    return None if is_off() else _load().path


def describe_library() -> str:
    """Return a text with the file name and the origin of the compiled library that this
    process uses, or the reason why it uses none.
    """
    path = loaded_library()
    if path is None:
        return why_not()
    origin = "kept from an installation"
    if path.parent == packaged.FOLDER:
        origin = "installed with lstm_jax"
    elif path == library_path():
        origin = "built for this processor"
    rejected = [f"{note}: {BUILD}" for note in _load().notes if note != NOT_BUILT]
    return "; ".join([f"{path.name}, {origin}", *rejected])


def register() -> None:
    """Load a compiled library and register its functions with XLA, if this process has
    not done so yet.
    """
    library = _load()
    require(library.path, "native code", "; ".join(library.notes), BUILD)


def call(
    name: str,
    results,
    args,
    /,
    aliases: dict[int, int] | None = None,
    sets: bool = False,
    one_thread: bool = False,
    **options,
) -> Any:
    """Call a function of the compiled C++ library on arrays of one device, and return
    its results, in the structure of `results`.

    Args:
        name: name of the function, one of `TARGETS`.
        results: pytree of one object for each result, with the shape and dtype of the
            result.
        args: pytree of the operands.
        aliases: dict from the position of an operand to the position of a result that
            may be stored in the memory of this operand.
        sets: whether the function also accepts several sets of operands, stacked along
            an additional first axis. If true, `vmap` stacks the sets and calls the
            function once. If false, `vmap` calls the function once for each set.
        one_thread: whether the function runs in one thread.
        options: attributes that are passed to the function; each is a bool, int, float
            or NumPy number.
    """
    register()
    # devices that run this call at the same time share the cores; a traced program
    # keeps its number of threads if the cores change later
    devices = min(devices_at_once(), jax.local_device_count("cpu"))
    share = max(1, len(cores()) // devices)
    options["threads"] = 1 if one_thread else min(share, _threads.value or share)

    leaves, tree = jax.tree.flatten(results)
    function = jax.ffi.ffi_call(
        name,
        [jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in leaves],
        vmap_method="expand_dims" if sets else "sequential",
        input_output_aliases=aliases,
    )
    attributes = {
        key: np.int64(value) if type(value) is int else value
        for key, value in options.items()
    }
    return tree.unflatten(function(*jax.tree.leaves(args), **attributes))


def call_by_name(name: str, results: dict, operands: dict, **options) -> dict:
    """Like `call`, for a function that knows its arrays by the names in contract.h.

    `results` and `operands` are dicts from names to arrays, or to None for an array
    that the call does not have.
    """
    results, operands = (
        {part: array for part, array in arrays.items() if array is not None}
        for arrays in (results, operands)
    )
    named = {"operands": ",".join(operands), "results": ",".join(results)}
    found = call(
        name,
        list(results.values()),
        list(operands.values()),
        sets=True,
        **named,
        **options,
    )
    return dict(zip(results, found, strict=True))


@functools.cache
def few_rows() -> int:
    """Return the largest batch size for which `lstm_jax_forward` and
    `lstm_jax_backward` take no arrays (B, T, ...).
    """
    return _load().code.lstm_jax_few_rows()
