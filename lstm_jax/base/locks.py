"""File locks, which the kernel releases when the process that holds them dies."""

import contextlib
import errno
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from lstm_jax.base.errors import InputError, system_errors

_NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS)
"""Error numbers that mean that the file system does not support locks."""


@contextlib.contextmanager
def locked(path: Path, subject: str) -> Iterator[None]:
    """Hold the lock of a lock file, whose folder is created if missing. If another
    holder has the lock, raise an error without waiting.
    """
    subject_of_file = f"{subject}: lock {path.name}"
    with system_errors(subject, "name a folder that can be written"):
        path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        with system_errors(subject_of_file, "name a folder that can be written"):
            file = os.fdopen(
                os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666), "r+"
            )
        if (error := lock_error(file)) and error.errno not in _NO_LOCKS:
            with file:
                owner = file.read(200).strip() or "another process"
                raise InputError(
                    subject,
                    f"in use by {owner}",
                    "wait until it ends, or name another folder",
                ) from error
        if os.path.exists(path) and os.path.samefile(file.fileno(), path):
            break
        # the previous owner removed the file after it was opened here: try again
        file.close()
    try:
        with system_errors(subject_of_file, "free some space"):
            file.truncate(0)
            file.write(f"process {os.getpid()} on {os.uname().nodename}\n")
            file.flush()
            os.fsync(file.fileno())  # other hosts read it
        yield
    finally:
        with contextlib.suppress(OSError), file:
            path.unlink()


def held(path: Path) -> bool:
    """Return whether another holder has the lock of a lock file, which need not exist."""
    with (
        contextlib.suppress(OSError),
        os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK)) as file,
    ):
        return isinstance(lock_error(file), BlockingIOError)
    return False


@contextlib.contextmanager
def folder_lock(folder: Path) -> Iterator[None]:
    """Wait for the lock of an existing folder, and hold it during a with-statement."""
    number = os.open(folder, os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(number, fcntl.LOCK_EX)
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
        yield
    finally:
        os.close(number)


def lock_error(file: IO) -> OSError | None:
    """Try to lock an open file, without waiting, and return the error if the file
    cannot be locked.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error
    return None
