"""Atomic writing of files, file locks, and checks of the path to which a command writes
its output.

A file has the mark of lstm-jax if its first 4,096 bytes contain the text that the
constant `MARK` holds. lstm-jax writes this text into its pages and figures, so that a
later command may replace them. Files without the mark may belong to the user. The
functions of this module allow such a file to be replaced only if their argument `force`
is true.
"""

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import re
import secrets
import shutil
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from lstm_jax.base.errors import InputError, require, system_errors
from lstm_jax.base.reading import KINDS
from lstm_jax.base.types import AnyPath, Values

MARK = "written by lstm-jax, which may replace it"
"""Text near the start of the pages and figures that lstm-jax writes. It marks files
that a later command may replace."""

NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS)
"""Error numbers that mean that the file system does not support locks."""
_TEMPORARY = re.compile(r"\.(.+)\.[0-9a-f]{8}\.tmp")
"""Pattern of the names of the temporary files of `write_atomically`. Its group is the
final name of the file."""


def default_cache_dir() -> Path:
    """Return the folder for caches: `$XDG_CACHE_HOME/lstm_jax` or, if XDG_CACHE_HOME is
    not an absolute path, `~/.cache/lstm_jax`.
    """
    named = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (
        named
        if named.is_absolute()
        else user_path("~/.cache", "name a folder in XDG_CACHE_HOME")
    ) / "lstm_jax"


def user_path(path: AnyPath, remedy: str = "give the whole path") -> Path:
    """Return a path in which `~` is replaced by the home folder of this user, and
    `~name` by the home folder of the user `name`.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise InputError(f"path {path}", "no such user, or no home", remedy) from error


def check_output(
    path: Path,
    inputs: Iterable[Path | str] = (),
    force: bool = False,
    own: bytes = MARK.encode(),
) -> None:
    """Check that a command may write its output to the file that the user has named."""
    subject, absolute = f"writing {path}", path.absolute()
    with (
        system_errors(subject, "name another file"),
        contextlib.suppress(FileNotFoundError, NotADirectoryError),
    ):
        kind = stat.S_IFMT(os.lstat(path).st_mode)
        require(
            kind == stat.S_IFREG,
            subject,
            KINDS.get(kind),
            "name a regular file, or a new one",
        )
        marked = False
        with contextlib.suppress(OSError), path.open("rb") as file:
            marked = re.search(own, file.read(4096)) is not None
        for given in inputs:
            require(
                not _reads(given, path, marked),
                subject,
                f"the command reads {given}",
                "name another file",
            )
        require(
            force or marked,
            subject,
            "exists, and lstm-jax did not mark it as its own",
            "name a new file, or replace it with --force",
        )
    above = next(folder for folder in absolute.parents if os.path.lexists(folder))
    good = above.is_dir() and os.access(above, os.W_OK | os.X_OK)
    require(
        good,
        subject,
        f"{above} is no folder, or read-only",
        "name a folder that can be written",
    )


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")


def _reads(given: Path | str, path: Path, marked: bool) -> bool:
    """Return whether the existing file `path` is an input of a command that reads
    `given`.
    """
    try:
        found = os.stat(0 if str(given) == "-" else given)
        if os.path.samestat(found, os.stat(path)):
            return True
        return (
            stat.S_ISDIR(found.st_mode)
            and not marked
            and path.resolve().is_relative_to(Path(given).resolve())
        )
    except OSError:
        return False


def write_atomically(
    path: Path, content: str | bytes | Callable[[IO[bytes]], object], force: bool = True
) -> None:
    """Create or replace a file by writing a temporary file and renaming it."""
    check_output(path, force=force)
    with system_errors(f"writing {path}", "free some space or name another folder"):
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_temporaries(path.parent, path.name)
        temporary, opened = _open_temporary(path)
        try:
            with opened as file:
                # there is no old file, or the file system has no permissions
                with contextlib.suppress(OSError):
                    shutil.copymode(path, temporary)
                if callable(content):
                    content(file)
                else:
                    file.write(
                        content.encode() if isinstance(content, str) else content
                    )
                file.flush()
                os.fsync(file.fileno())
                check_output(path, force=force)
                # the file is still locked here, so that no process removes it as a
                # leftover
                temporary.replace(path)
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink()


def _open_temporary(path: Path):
    while True:
        temporary = _temporary(path)
        file = temporary.open("xb")
        # by a process that is about to remove it
        taken = isinstance(lock_error(file), BlockingIOError)
        # false if another process removed it before it was locked
        if not taken and temporary.exists():
            return temporary, file
        file.close()


def remove_temporaries(folder: Path, name: str = "") -> None:
    """Remove the temporary files of killed processes from a folder."""
    # none in a folder that can be written but not listed
    for path in folder.glob(".*.tmp"):
        match = _TEMPORARY.fullmatch(path.name)
        if (
            match
            and name in ("", match[1])
            and path.is_file()
            and not path.is_symlink()
        ):
            with contextlib.suppress(OSError), path.open("rb") as file:
                if lock_error(file) is None:
                    path.unlink()


def summed_json(content: Values) -> bytes:
    """Encode a dict as bytes: a line with the SHA-256 checksum of the JSON in
    hexadecimal, and then the JSON.
    """
    body = json.dumps(content, indent=1).encode() + b"\n"
    return hashlib.sha256(body).hexdigest().encode() + b"\n" + body


def read_summed(content: bytes) -> Values | None:
    """Return the dict that `summed_json` has encoded as `content`, or None if `content`
    is damaged.
    """
    first, _, body = content.partition(b"\n")
    with contextlib.suppress(ValueError, RecursionError):
        found = (
            json.loads(body)
            if hashlib.sha256(body).hexdigest().encode() == first
            else None
        )
        return found if isinstance(found, dict) else None
    return None


def plain(value) -> Any:
    """Return a value as JSON represents it. An array of JAX or NumPy becomes a list, or
    a number if it has one entry.
    """
    return json.loads(json.dumps(value, default=_converted))


def _converted(value) -> Any:
    if isinstance(value, Mapping):
        return dict(value)
    if getattr(value, "size", 1) != 1:
        return value.tolist()
    item = value.item() if hasattr(value, "item") else value
    return item if isinstance(item, bool | int | float | str) else float(item)


# Locks, which the kernel releases when the process that holds them dies


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
            file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o666), "r+")
        if (error := lock_error(file)) and error.errno not in NO_LOCKS:
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


def lock_error(file: IO) -> OSError | None:
    """Try to lock an open file, without waiting, and return the error if the file
    cannot be locked.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error
    return None
