"""Whole files or none: written under a temporary name in the same folder, then renamed. And locks, so that one process writes at a time."""

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import re
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from lstm_jax.errors import InputError

_TEMPORARY = re.compile(r"\.(.+)\.[0-9a-f]{8}\.tmp")
"""Names that `write_atomically` writes under; the group is the file's own name."""
_NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS)
"""Error numbers of a file system that has no locks."""


def default_cache_dir() -> Path:
    """`$XDG_CACHE_HOME/lstm_jax`, or `~/.cache/lstm_jax`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lstm_jax"


def write_atomically(path: Path, content: str | bytes | Callable[[IO[bytes]], object]) -> None:
    """Create or replace `path`: a crash leaves the old file or none, never half of one.

    What a killed process left of the same file is removed.

    Args:
        path: the file; folders above it are made.
        content: text (as UTF-8), bytes, or a function that writes to the open binary file.

    Raises:
        InputError: if the folder cannot be written or the disk is full; nothing is left behind.
    """
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_temporaries(path.parent, path.name)
        temporary, opened = _open_temporary(path)
        with opened as file:
            if callable(content):
                content(file)
            else:
                file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
            temporary.replace(path)  # while the lock is held: nobody takes it for a file that was left
    except BaseException as error:
        if temporary is not None:
            with contextlib.suppress(OSError):
                temporary.unlink()
        if isinstance(error, OSError):
            raise InputError(f"writing {path}", error.strerror or error, "free some space or name another folder") from error
        raise


def _open_temporary(path: Path) -> tuple[Path, IO[bytes]]:
    """A new temporary file for `path`, locked while it is open, so that `remove_temporaries` of another process leaves it alone."""
    while True:
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
        file = temporary.open("xb")
        _lock_error(file)
        if temporary.exists():  # else it was removed before it was locked
            return temporary, file
        file.close()


def remove_temporaries(folder: Path, name: str = "") -> None:
    """Remove what `write_atomically` left in `folder` when its process was killed; of the file of that name, or of all files."""
    try:
        entries = list(os.scandir(folder))
    except OSError:
        return  # a folder that can be written but not listed
    for entry in entries:
        match = _TEMPORARY.fullmatch(entry.name)
        if match and name in ("", match[1]) and entry.is_file(follow_symlinks=False):
            with contextlib.suppress(OSError), open(entry.path, "rb") as file:
                if _lock_error(file) is None:
                    os.unlink(entry.path)


@contextlib.contextmanager
def locked(path: Path, thing: str) -> Iterator[None]:
    """Hold the lock file `path`, in which this process and its host stand, and remove it at the end.

    The kernel drops the lock of a process that died, whatever killed it. A file system that has no locks gives none.

    Args:
        path: in a folder that exists.
        thing: what it locks, for the error.

    Raises:
        InputError: if another process, or another call in this one, holds it; if it cannot be written.
    """
    file = _open_lock(path, thing)
    try:
        yield
    finally:
        with contextlib.suppress(OSError), file:
            path.unlink()


def _open_lock(path: Path, thing: str) -> IO[str]:
    while True:
        try:
            file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666), "r+")
        except OSError as error:
            raise InputError(f"{thing}: lock {path.name}", error.strerror or error, "name a folder that can be written") from error
        if (error := _lock_error(file)) and error.errno not in _NO_LOCKS:
            with file:
                owner = file.read(200).strip() or "another process"
                raise InputError(thing, f"in use by {owner}", "wait until it ends, or name another folder") from error
        if os.path.exists(path) and os.path.samestat(os.fstat(file.fileno()), os.stat(path)):
            file.truncate(0)
            file.write(f"process {os.getpid()} on {os.uname().nodename}\n")
            file.flush()
            return file
        file.close()  # its owner removed it between the two calls


def _lock_error(file: IO) -> OSError | None:
    """Lock an open file until it is closed or this process dies; return why that failed."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error
    return None


def summed_json(content: dict[str, Any]) -> bytes:
    """JSON behind a first line with its SHA-256, for `read_summed`."""
    body = json.dumps(content, indent=1).encode() + b"\n"
    return hashlib.sha256(body).hexdigest().encode() + b"\n" + body


def read_summed(content: bytes) -> dict[str, Any] | None:
    """Read back what `summed_json` made; None if a bit of it has changed."""
    first, _, body = content.partition(b"\n")
    return json.loads(body) if hashlib.sha256(body).hexdigest().encode() == first else None
