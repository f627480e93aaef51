"""Checks that a compiled library was not written by another user, who could otherwise run code in this process.

A library in a cache folder is trusted if these conditions hold:
- It is a regular file and not a symbolic link.
- The file and its folder belong to this user or to root, and no other user can write to them.
- The file ends with the SHA-256 hash of all bytes before the hash, which the function `write` appends.

The folders above the library's folder may be writable by other users. If another user replaced the library's folder, the new folder would
belong to that user, and its files would not be trusted. The hash is stored in the same file as the library, so that two builds that run at
the same time cannot store the library of one with the hash of the other.

For a library that was installed with lstm_jax, the hash is checked but the owner is not. A user who can change the library can also change
the Python files beside it.
"""

import contextlib
import errno
import hashlib
import os
import secrets
import stat
from collections.abc import Callable
from pathlib import Path

from lstm_jax.errors import InputError, require, system_errors
from lstm_jax.files.writing import write_atomically

MARK = b"\nlstm_jax sha256 "
NOT_BUILT = "not built"
SPACE = "free some space or name another folder in XDG_CACHE_HOME"
SEAL = len(MARK) + 2 * hashlib.sha256().digest_size
LARGEST = 2**28
"""Largest size of a library in bytes that is accepted. It is about a hundred times the usual size."""


class UntrustedError(Exception):
    """Error for a compiled library that does not exist or cannot be trusted or loaded. The message says why it is not used."""


def open_library(path: Path) -> int:
    """Open a compiled library in a cache folder, check that no other user can have written it, and return its file descriptor."""
    try:
        # if the folder is a symbolic link, the folder to which it points is opened and checked
        folder = os.open(os.path.realpath(path.parent), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise UntrustedError(NOT_BUILT) from error
    except OSError as error:
        raise UntrustedError(f"its folder {error.strerror}") from error
    try:
        _check_owner_and_mode(os.fstat(folder), "its folder")
        # O_NONBLOCK: if the file is a FIFO, opening it must not wait for a writer
        file = os.open(path.name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
    except FileNotFoundError as error:
        raise UntrustedError(NOT_BUILT) from error
    except OSError as error:
        raise UntrustedError("it is a link" if error.errno == errno.ELOOP else f"it cannot be read ({error.strerror})") from error
    finally:
        os.close(folder)
    return _checked(file, _check_owner_and_mode)


def open_packaged(path: Path) -> int:
    """Open a library that was installed with lstm_jax, check its hash, and return its file descriptor."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise UntrustedError(f"{path} cannot be read ({error.strerror})") from error
    return _checked(file, lambda found, name: None)


def _checked(file: int, check_owner: Callable[[os.stat_result, str], None]) -> int:
    """Check an open library, and return its file descriptor."""
    try:
        found = os.fstat(file)
        if not stat.S_ISREG(found.st_mode):
            raise UntrustedError("it is no regular file")
        check_owner(found, "it")
        content = os.pread(file, found.st_size, 0) if found.st_size <= LARGEST else b""
        code, seal = content[:-SEAL], content[-SEAL:]
        if not code or seal != _seal(code):
            raise UntrustedError("it is damaged, or not what was built")
    except BaseException:
        os.close(file)
        raise
    return file


def _check_owner_and_mode(found: os.stat_result, name: str) -> None:
    if found.st_uid not in (os.geteuid(), 0):
        raise UntrustedError(f"{name} belongs to another user")
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise UntrustedError(f"{name} can be written by others")


def _seal(code: bytes) -> bytes:
    return MARK + hashlib.sha256(code).hexdigest().encode()


def write_packaged(path: Path, code: bytes) -> None:
    """Write a compiled library and its hash to a file atomically. This library will be installed as a part of lstm_jax."""
    write_atomically(path, code + _seal(code))
    path.chmod(0o644)  # every user of the installation may load it


def check_folder(path: Path) -> None:
    """Create the folder of a compiled library if it does not exist, and check that it belongs to the user and allows loading libraries."""
    with system_errors(f"writing {path}", SPACE):
        folder = _own_folder(path.parent)
        forbidden = os.statvfs(folder).f_flag & getattr(os, "ST_NOEXEC", 0)
        os.close(folder)
    require(not forbidden, f"folder {path.parent}", "is mounted with noexec", "name another folder in XDG_CACHE_HOME")


def write(path: Path, code: bytes) -> None:
    """Write a compiled library and its hash to a file in a cache folder atomically."""
    with system_errors(f"writing {path}", SPACE):
        folder = _own_folder(path.parent)
        try:
            _write_into(folder, path.name, code + _seal(code))
        finally:
            os.close(folder)


def _own_folder(path: Path) -> int:
    """Create a folder if it does not exist, make it writable by this user only, and return its file descriptor."""
    for folder in (*reversed(path.parents), path):
        if not folder.is_dir():
            folder.mkdir(0o700, exist_ok=True)  # another build may have created it
            folder.chmod(0o700)  # a umask may have removed permissions
    opened = os.open(os.path.realpath(path), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    found = os.fstat(opened)
    try:
        if found.st_uid != os.geteuid():
            raise InputError(f"folder {path}", "belongs to another user", "name another folder in XDG_CACHE_HOME")
        os.fchmod(opened, stat.S_IMODE(found.st_mode) & ~0o022 | 0o700)
    except BaseException:
        os.close(opened)
        raise
    return opened


def _write_into(folder: int, name: str, content: bytes) -> None:
    temporary = f".{name}.{secrets.token_hex(4)}.tmp"
    file = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=folder)
    try:
        with os.fdopen(file, "wb") as opened:
            os.fchmod(file, 0o600)  # a umask may have removed permissions
            opened.write(content)
            opened.flush()
            os.fsync(file)
        os.replace(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary, dir_fd=folder)
        raise
