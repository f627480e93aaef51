"""Opening of data files. Only regular files of limited size are opened, and every error
message names the file.
"""

import contextlib
import io
import os
import re
import stat
from collections.abc import Iterator

from lstm_jax.base.errors import parsing, require
from lstm_jax.base.machine import total_memory
from lstm_jax.base.types import AnyPath

MAX_BYTES = "LSTM_JAX_MAX_BYTES"
MORE = f"set {MAX_BYTES} to allow more"
READABLE = "give a file that can be read"

_SMALLEST_BOUND = 1 << 30  # a file may have this many bytes on every machine
KINDS = {
    stat.S_IFDIR: "Is a directory",
    stat.S_IFIFO: "Is a FIFO",
    stat.S_IFSOCK: "Is a socket",
    stat.S_IFCHR: "Is a device",
    stat.S_IFBLK: "Is a device",
    stat.S_IFLNK: "Is a link",
}
"""Kinds of files that are no regular files, for error messages."""


def most_bytes() -> int:
    """Return the largest number of bytes that may be read from one file."""
    return requested_bytes() or max(_SMALLEST_BOUND, total_memory() // 8)


def requested_bytes() -> int:
    """Return the number of bytes that the user allows for a file, or 0 for none."""
    text = os.environ.get(MAX_BYTES, "").strip()
    require(
        re.fullmatch("(0*[1-9][0-9]{0,18})?", text),
        MAX_BYTES,
        text,
        "give a number of bytes",
    )
    return int(text or 0)


@contextlib.contextmanager
def open_input(
    path: AnyPath,
    subject: str = "",
    remedy: str = READABLE,
    limited: bool = True,
    fifo: bool = False,
) -> Iterator[io.BufferedReader]:
    """Open a file for reading during a with-statement. At the end of the
    with-statement, check that the file has not changed.
    """
    subject = subject or f"file {path}"
    with parsing(subject, remedy):
        kind = stat.S_IFMT(os.stat(path).st_mode)
        good = kind == stat.S_IFREG or (fifo and kind == stat.S_IFIFO)
        require(good, subject, KINDS.get(kind), remedy)
        # does not wait for the writer of a FIFO
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    with os.fdopen(handle, "rb") as file:
        before = os.fstat(handle)
        if stat.S_ISFIFO(before.st_mode):
            require(fifo, subject, KINDS[stat.S_IFIFO], remedy)
            # reading waits for those that write to it now, and ends at once if there
            # are none
            os.set_blocking(handle, True)
            yield file
            return
        most = most_bytes() if limited else requested_bytes() or before.st_size
        require(
            before.st_size <= most,
            subject,
            f"{before.st_size:,} bytes, more than {most:,}",
            MORE,
        )
        yield file
        after = os.fstat(handle)
        same = (before.st_size, before.st_mtime_ns) == (
            after.st_size,
            after.st_mtime_ns,
        )
        require(
            same,
            subject,
            "changed while it was read",
            "read it when nothing writes to it",
        )
