"""Whole files or none: written under a temporary name in the same folder, then renamed."""

import contextlib
import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import IO

from lstm_jax.errors import InputError


def default_cache_dir() -> Path:
    """`$XDG_CACHE_HOME/lstm_jax`, or `~/.cache/lstm_jax`; as that variable's standard has it, it counts only if it is absolute.

    Raises:
        InputError: if this user has no home.
    """
    named = Path(os.environ.get("XDG_CACHE_HOME", ""))
    try:
        return (named if named.is_absolute() else Path.home() / ".cache") / "lstm_jax"
    except RuntimeError as error:
        raise InputError("cache folder", "this user has no home", "name a folder in XDG_CACHE_HOME") from error


def write_atomically(path: Path, content: str | bytes | Callable[[IO[bytes]], object]) -> None:
    """Create or replace `path`: a crash leaves the old file or none, never half of one.

    Args:
        path: the file; folders above it are made.
        content: text (as UTF-8), bytes, or a function that writes to the open binary file.

    Raises:
        InputError: if the folder cannot be written or the disk is full; nothing is left behind.
    """
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
        with temporary.open("xb") as file:
            if callable(content):
                content(file)
            else:
                file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException as error:
        if temporary is not None:
            with contextlib.suppress(OSError):
                temporary.unlink()
        if isinstance(error, OSError):
            raise InputError(f"writing {path}", error.strerror or error, "free some space or name another folder") from error
        raise
