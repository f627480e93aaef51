"""Safe reading of data files: regular files only, of bounded size, with errors that name the file.

A file may be hostile: a FIFO that nobody writes to, a device without an end, a few bytes that expand to gigabytes, contents that make a
parser raise any error. All code that reads data opens it by `open_input` or `read_input`, expands it by `expanded`, parses it in `parsing`.
"""

import contextlib
import io
import os
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from lstm_jax.errors import InputError, require
from lstm_jax.runtime.machine import total_memory

STANDARD_INPUT = "-"
MAX_BYTES = "LSTM_JAX_MAX_BYTES"
MORE = f"set {MAX_BYTES} to allow more"
READABLE = "give a file that can be read"

_PIECE = 1 << 24
_SMALLEST_BOUND = 1 << 30  # on every machine
_SMALL = 256 << 20  # every compressed file may expand to this size
_RATIO = 200  # texts and weights are compressed 3 to 10 times
_KINDS = {
    stat.S_IFDIR: "Is a directory",
    stat.S_IFIFO: "a FIFO, not a regular file",
    stat.S_IFSOCK: "a socket, not a regular file",
    stat.S_IFCHR: "a device, not a regular file",
    stat.S_IFBLK: "a device, not a regular file",
}


def most_bytes() -> int:
    """Return the most bytes read from one file: `$LSTM_JAX_MAX_BYTES`, else an eighth of the memory, 1 GiB at least.

    Raises:
        InputError: if the variable holds no positive number.
    """
    return _requested_bytes() or max(_SMALLEST_BOUND, total_memory() // 8)


def most_expanded(size: int) -> int:
    """Return the most bytes that a compressed file of `size` bytes may expand to: 200 times its size, from 256 MiB to `most_bytes`."""
    return _requested_bytes() or min(most_bytes(), max(_SMALL, _RATIO * size))


def _requested_bytes() -> int:
    text = os.environ.get(MAX_BYTES, "").strip()
    good = not text or (len(text) < 20 and text.isascii() and text.isdigit() and int(text) > 0)
    require(good, MAX_BYTES, text, "give a number of bytes")
    return int(text or 0)


@contextlib.contextmanager
def parsing(subject: str, remedy: str) -> Iterator[None]:
    """Turn any exception of a parser into an `InputError` with that subject and remedy; an `InputError` passes unchanged.

    Raises:
        InputError: if the block raises an exception.
    """
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        found = error.strerror if isinstance(error, OSError) and error.strerror else f"{error}" or type(error).__name__
        raise InputError(subject, found, remedy) from error


def locate(path: str | Path, subject: str, remedy: str) -> Path:
    """Return the path with `~` expanded, after checking that it is a file or a folder that may be entered.

    Raises:
        InputError: if there is none, its user or the permission to look is missing, or the name is empty or too long.
    """
    require(str(path) != "", subject, "an empty name", remedy)
    with parsing(f"{subject} {path}", remedy):
        found = Path(path).expanduser()
        try:
            folder = stat.S_ISDIR(found.stat().st_mode)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise InputError(f"{subject} {found}", "no such file or folder", remedy) from error
        if folder:
            os.scandir(found).close()
            (found / ".").stat()  # a folder may be listed without being entered
    return found


@contextlib.contextmanager
def open_input(path: str | os.PathLike[str], subject: str = "", remedy: str = READABLE) -> Iterator[io.BufferedReader]:
    """Open a regular file of at most `most_bytes` for reading; check at the end that it has not changed meanwhile.

    Args:
        path: the file.
        subject: its name in errors; "file PATH" if empty.
        remedy: remedy in errors.

    Raises:
        InputError: if it is absent, cannot be read, is no regular file or too large, or is written to meanwhile.
    """
    subject = subject or f"file {path}"
    with parsing(subject, remedy):
        _require_regular(os.stat(path), subject, remedy)
        # non-blocking: if a FIFO takes its place now, opening it does not wait for a writer
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    with os.fdopen(handle, "rb") as file:
        before = os.fstat(handle)
        _require_regular(before, subject, remedy)
        most = most_bytes()
        require(before.st_size <= most, subject, f"{before.st_size:,} bytes, more than {most:,}", MORE)
        yield file
        after = os.fstat(handle)
        same = (before.st_size, before.st_mtime_ns) == (after.st_size, after.st_mtime_ns)
        require(same, subject, "changed while it was read", "read it when nothing writes to it")


def _require_regular(found: os.stat_result, subject: str, remedy: str) -> None:
    require(stat.S_ISREG(found.st_mode), subject, _KINDS.get(stat.S_IFMT(found.st_mode), "not a regular file"), remedy)


def read_input(path: str | Path, subject: str = "", remedy: str = READABLE) -> bytes:
    """Return the bytes of a regular file, or of standard input, which may be a pipe, for "-".

    Raises:
        InputError: as `open_input`.
    """
    subject = subject or f"file {path}"
    if str(path) == STANDARD_INPUT:
        return _read_all(sys.stdin.buffer, subject, remedy)
    with open_input(path, subject, remedy) as file:
        return _read_all(file, subject, remedy)


def _read_all(file: IO[bytes] | io.BufferedIOBase, subject: str, remedy: str) -> bytes:
    most, chunks, size = most_bytes(), [], 0
    with parsing(subject, remedy):
        # by pieces: read(n) would reserve all n bytes
        while size <= most and (chunk := file.read(_PIECE)):
            chunks.append(chunk)
            size += len(chunk)
    require(size <= most, subject, f"more than {most:,} bytes", MORE)
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


class _Bounded(io.RawIOBase):
    """A stream that raises an error after more than `most` bytes."""

    def __init__(self, stream: io.BufferedIOBase, most: int, subject: str):
        self.stream, self.most, self.subject, self.left = stream, most, subject, most

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # pyright: ignore[reportIncompatibleMethodOverride]
        chunk = self.stream.read(len(buffer))
        self.left -= len(chunk)
        require(self.left >= 0, self.subject, f"expands to more than {self.most:,} bytes", MORE)
        buffer[: len(chunk)] = chunk
        return len(chunk)


def expanded(stream: io.BufferedIOBase, size: int, subject: str) -> io.BufferedReader:
    """Return a reader of a decompressing stream that raises `InputError` after `most_expanded` bytes.

    Args:
        stream: the decompressor.
        size: bytes of the compressed file.
        subject: its name in the error.
    """
    return io.BufferedReader(_Bounded(stream, most_expanded(size), subject), 1 << 20)
