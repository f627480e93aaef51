"""Files of text: their bytes, and those bytes as UTF-8 with an error that says where they are something else."""

import sys
from pathlib import Path

from lstm_jax.errors import InputError

STANDARD_INPUT = "-"


def read_content(path: str | Path) -> bytes:
    """The bytes of a file; of standard input for "-".

    Raises:
        InputError: if the file is absent or cannot be read.
    """
    try:
        return sys.stdin.buffer.read() if str(path) == STANDARD_INPUT else Path(path).read_bytes()
    except OSError as error:
        raise InputError(f"file {path}", error.strerror or error, "give a file that can be read") from error


def decode_utf8(content: bytes, path: str | Path) -> str:
    """The characters of a file's content: a byte-order mark in front is dropped, line ends stay as they are.

    Args:
        content: all bytes of the file.
        path: the file's name, for the error.

    Raises:
        InputError: naming the file and the offset of the first byte that is not UTF-8.
    """
    try:
        return content.decode().removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        found = f"byte 0x{content[error.start]:02x} at offset {error.start} is not UTF-8"
        raise InputError(f"file {path}", found, "convert the file to UTF-8, or read a text file as bytes (unit 'byte')") from error
