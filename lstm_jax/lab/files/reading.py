"""Reading of data files, texts and archives, and downloads.

A path may lead to a FIFO to which no process writes, to a device that never ends, to a
small compressed file that expands to gigabytes, or to a file on which a parser fails
with any exception. Code that reads a whole data file therefore opens it with
`open_input` of `lstm_jax.base.reading` or with `read_input`, decompresses it with
`expanded`, parses it inside `with parsing(...)`, and decodes texts by `decode_utf8`.
"""

import contextlib
import hashlib
import io
import lzma
import os
import re
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from typing import IO

from lstm_jax.base import reading
from lstm_jax.base.errors import InputError, parsing, require
from lstm_jax.base.reading import MORE, READABLE, open_input
from lstm_jax.base.types import Progress
from lstm_jax.base.writing import write_atomically

STANDARD_INPUT = "-"


_PIECE = 1 << 24


_XZ_PIECE = 1 << 16


_SMALL = 16 << 20  # every compressed file may expand to this many bytes


# a compressed file may expand to this many times its size; texts and weights expand to
# 3 to 10 times
_RATIO = 200


ARCHIVES = {
    rb"PK\x03\x04": ("a .zip archive", "unzip it and give its files or their folder"),
    rb"PK\x05\x06": ("an empty .zip archive", "give the files themselves"),
    rb"\x1f\x8b": ("compressed by gzip", "unpack it with gunzip"),
    rb"\xfd7zXZ\x00": ("compressed by xz", "unpack it with unxz"),
    # the second is the end of an empty file
    rb"BZh[1-9](1AY&SY|\x17rE8P\x90)": (
        "compressed by bzip2",
        "unpack it with bunzip2",
    ),
    rb"\x28\xb5\x2f\xfd": ("compressed by zstd", "unpack it with unzstd"),
    rb"7z\xbc\xaf\x27\x1c": ("a .7z archive", "unpack it"),
    rb"%PDF-": ("a PDF", "extract its text first, as with pdftotext"),
}
"""Dict from a pattern of the first bytes of a file to its kind and advice."""


MARKS = {
    b"\xff\xfe\x00\x00": "UTF-32",
    b"\x00\x00\xfe\xff": "UTF-32",
    b"\xff\xfe": "UTF-16",
    b"\xfe\xff": "UTF-16",
}


NOT_UTF8 = "convert the file to UTF-8, or read it as bytes (--unit byte)"


# a file with one NUL or more in this many bytes is refused: in English text as UTF-16
# every second byte is NUL
_NULS = 5


_EXAMINED = 1 << 16


def most_expanded(size: int) -> int:
    """Return the largest number of bytes to which a compressed file of `size` bytes may
    expand.
    """
    return reading.requested_bytes() or min(
        reading.most_bytes(), max(_SMALL, _RATIO * size)
    )


def locate(path: str | Path, subject: str, remedy: str) -> Path:
    """Check that a path exists and, if it is a folder, that it can be listed and
    entered. Return the path with `~` expanded.
    """
    require(str(path), subject, "an empty name", remedy)
    with parsing(f"{subject} {path}", remedy):
        found = Path(path).expanduser()
        try:
            folder = stat.S_ISDIR(found.stat().st_mode)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise InputError(
                f"{subject} {found.absolute()}", "no such file or folder", remedy
            ) from error
        if folder:
            os.scandir(found).close()
            (found / ".").stat()  # a folder may be listed without being entered
    return found


def read_input(path: str | Path, subject: str = "", remedy: str = READABLE) -> bytes:
    """Return the bytes of a regular file or a FIFO, or of standard input if the path is
    "-".
    """
    subject, standard = subject or f"file {path}", str(path) == STANDARD_INPUT
    if standard and sys.stdin is None:
        raise InputError(
            "standard input", "closed", "name a file, or send the text through a pipe"
        )
    opened = (
        contextlib.nullcontext(sys.stdin.buffer)
        if standard
        else open_input(path, subject, remedy, fifo=True)
    )
    most, content = reading.most_bytes(), bytearray()
    with parsing(subject, remedy), opened as file:
        # Read piece by piece: read(most) would reserve that many bytes at once.
        while len(content) <= most and (chunk := file.read(_PIECE)):
            content += chunk
        require(len(content) <= most, subject, f"more than {most:,} bytes", MORE)
        idle = (
            not content
            and not standard
            and stat.S_ISFIFO(os.fstat(file.fileno()).st_mode)
        )
        require(not idle, subject, "a FIFO to which nothing writes", remedy)
    return bytes(content)


def file_digest(path: Path, name: str = "sha256") -> str:
    """Return the checksum of a file as a hexadecimal string."""
    with parsing(f"file {path}", READABLE), open_input(path, limited=False) as file:
        return hashlib.file_digest(file, name).hexdigest()


class XzStream:
    """Reader of an .xz file that is the concatenation of any number of xz streams, with
    or without padding between them.

    `lzma.LZMAFile` stops without an error at a stream whose header is damaged.
    """

    def __init__(self, file: IO[bytes] | io.BufferedIOBase):
        self.file, self.decoder = file, lzma.LZMADecompressor(lzma.FORMAT_XZ)

    def read(self, size: int) -> bytes:
        """Return at most `size` decompressed bytes, or b"" at the end of the file."""
        while True:
            rest = self.decoder.unused_data  # b"" before the end of a stream
            if self.decoder.eof:
                while not (rest := rest.lstrip(b"\0")) and (
                    rest := self.file.read(_XZ_PIECE)
                ):
                    pass
                if not rest:
                    return b""
                self.decoder = lzma.LZMADecompressor(lzma.FORMAT_XZ)
            elif self.decoder.needs_input and not (rest := self.file.read(_XZ_PIECE)):
                raise EOFError("the file ends in the middle")
            if found := self.decoder.decompress(rest, size):
                return found


class _Bounded(io.RawIOBase):
    """Stream that reads from another stream, and raises `InputError` when the number of
    bytes read exceeds `most`.
    """

    # `subject` is the name of the file in the error message.

    def __init__(self, stream: io.BufferedIOBase | XzStream, most: int, subject: str):
        self.stream, self.most, self.subject, self.left = stream, most, subject, most

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # pyright: ignore[reportIncompatibleMethodOverride]
        chunk = self.stream.read(len(buffer))
        self.left -= len(chunk)
        require(
            self.left >= 0,
            self.subject,
            f"expands to more than {self.most:,} bytes",
            MORE,
        )
        buffer[: len(chunk)] = chunk
        return len(chunk)


def expanded(
    stream: io.BufferedIOBase | XzStream, size: int, subject: str
) -> io.BufferedReader:
    """Return a stream that reads from a decompressing stream and limits the number of
    decompressed bytes.
    """
    return io.BufferedReader(_Bounded(stream, most_expanded(size), subject), 1 << 20)


def require_no_archive(content: bytes, path: str | Path) -> None:
    """Check that a file which should be a text file is not an archive, a compressed
    file or a PDF.
    """
    for magic, (kind, remedy) in ARCHIVES.items():
        require(
            re.match(magic, content) is None,
            f"file {path}",
            f"is {kind}, not a text",
            remedy,
        )


def require_utf8(start: bytes, subject: str) -> None:
    """Check that a text file is not encoded as UTF-16 or UTF-32, with or without a
    byte-order mark.
    """
    for mark, name in MARKS.items():
        found = f"byte 0x{mark[0]:02x} at offset 0 is not UTF-8: the file is {name}"
        require(
            not start.startswith(mark),
            subject,
            found,
            f"convert it from {name} to UTF-8",
        )
    examined = start[:_EXAMINED]
    found = (
        f"{examined.count(0):,} of {len(examined):,} bytes are NUL, as in UTF-16 "
        "or a binary file"
    )
    require(
        examined.count(0) * _NULS < max(len(examined), 1),
        subject,
        found,
        "convert the file to UTF-8",
    )


def decode_utf8(content: bytes, path: str | Path, remedy: str = NOT_UTF8) -> str:
    """Return the text of a UTF-8 file, without a byte-order mark at its start."""
    require_no_archive(content, path)
    require_utf8(content, f"file {path}")
    try:
        return content.decode().removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        found = f"byte 0x{content[error.start]:02x} at offset {error.start}"
        raise InputError(f"file {path}", f"{found} is not UTF-8", remedy) from error


def encode_utf8(
    text: str,
    subject: str = "text",
    remedy: str = "give valid Unicode",
    errors: str = "strict",
) -> bytes:
    """Return a text as UTF-8, or raise `InputError` if it has lone surrogates."""
    with parsing(subject, remedy):
        return text.encode(errors=errors)


CHUNK = 1 << 20


TIMEOUT = 30  # seconds without a byte from the server, after which a download fails


def download(
    url: str,
    path: Path,
    check: Callable[[Path], None],
    remedy: str,
    on_bytes: Progress | None = None,
) -> None:
    """Download `url` to a temporary name, check the file, then rename it to `path`."""
    import http.client  # here, since most commands download nothing
    import urllib.error
    import urllib.request

    def fetch(file: IO[bytes]):
        try:
            with urllib.request.urlopen(url, timeout=TIMEOUT) as reply:
                total, done = int(reply.headers.get("Content-Length") or 0), 0
                while chunk := reply.read(CHUNK):
                    file.write(chunk)
                    done += len(chunk)
                    if on_bytes:
                        on_bytes(done, total)
        except (
            urllib.error.URLError,
            http.client.HTTPException,
            TimeoutError,
            ConnectionError,
        ) as error:
            raise InputError(
                f"download of {url}", getattr(error, "reason", error), remedy
            ) from error
        file.flush()
        check(Path(file.name))

    write_atomically(path, fetch)
