"""Which compiled library may be loaded: whoever writes that file, or to its folder, runs code in this process.

It must be a regular file, no link, of this user or root, that nobody else can write, in such a folder, and end in the SHA-256 of all before
it, which `write` records. Folders above may be shared: what others put in place of this one is theirs, and so not loaded. The hash is part
of the file, so that two builds at once cannot leave the one's library beside the other's hash.
"""

import contextlib
import errno
import hashlib
import os
import secrets
import stat
from pathlib import Path

from lstm_jax.errors import InputError

MARK = b"\nlstm_jax sha256 "
SEAL = len(MARK) + 2 * hashlib.sha256().digest_size
LARGEST = 2**28
"""Bytes of a library, some hundred times what it has."""


class UntrustedError(Exception):
    """Why a file is not loaded, in some words."""


def open_library(path: Path) -> int:
    """Return a file descriptor of the library at `path`, once what it reads has been found to be what `write` wrote.

    Raises:
        UntrustedError: if there is no such file, or it is not to be trusted.
    """
    try:
        # a link to the folder is followed: where it leads is checked
        folder = os.open(os.path.realpath(path.parent), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise UntrustedError("not built") from error
    except OSError as error:
        raise UntrustedError(f"its folder {error.strerror}") from error
    try:
        _check_owner_and_mode(os.fstat(folder), "its folder")
        # O_NONBLOCK: a FIFO must not wait
        file = os.open(path.name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
    except FileNotFoundError as error:
        raise UntrustedError("not built") from error
    except OSError as error:
        raise UntrustedError("it is a link" if error.errno == errno.ELOOP else f"it cannot be read ({error.strerror})") from error
    finally:
        os.close(folder)
    try:
        _check_file(file)
    except BaseException:
        os.close(file)
        raise
    return file


def _check_owner_and_mode(found: os.stat_result, name: str) -> None:
    if found.st_uid not in (os.geteuid(), 0):
        raise UntrustedError(f"{name} belongs to another user")
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise UntrustedError(f"{name} can be written by others")


def _check_file(file: int) -> None:
    found = os.fstat(file)
    if not stat.S_ISREG(found.st_mode):
        raise UntrustedError("it is no regular file")
    _check_owner_and_mode(found, "it")
    content = os.pread(file, found.st_size, 0) if found.st_size <= LARGEST else b""
    code, seal = content[:-SEAL], content[-SEAL:]
    if not code or seal != _seal(code):
        raise UntrustedError("it is damaged, or not what was built")


def _seal(code: bytes) -> bytes:
    return MARK + hashlib.sha256(code).hexdigest().encode()


def write(path: Path, code: bytes) -> None:
    """Write a library and its hash so that `open_library` takes it, whatever the umask: all of it, or nothing.

    Raises:
        InputError: if the folder is not this user's, cannot be written, or the disk is full.
    """
    try:
        folder = _own_folder(path.parent)
        try:
            _write_into(folder, path.name, code + _seal(code))
        finally:
            os.close(folder)
    except OSError as error:
        remedy = "free some space or name another folder in XDG_CACHE_HOME"
        raise InputError(f"writing {path}", error.strerror or error, remedy) from error


def _own_folder(path: Path) -> int:
    """A file descriptor of the folder, made if need be, which nobody else can write."""
    for folder in (*reversed(path.parents), path):
        if not folder.is_dir():
            folder.mkdir(0o700, exist_ok=True)  # two that build at once
            folder.chmod(0o700)  # a umask may have left less
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
            os.fchmod(file, 0o600)  # a umask may have left less
            opened.write(content)
            opened.flush()
            os.fsync(file)
        os.replace(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary, dir_fd=folder)
        raise
