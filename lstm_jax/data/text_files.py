"""Texts as UTF-8. If a file is not UTF-8, the error names its probable kind or the offset of its first invalid byte."""

from pathlib import Path

from lstm_jax.errors import InputError, require

ARCHIVES = {
    b"PK\x03\x04": ("a .zip archive", "unzip it and give its files or their folder"),
    b"PK\x05\x06": ("an empty .zip archive", "give the files themselves"),
    b"\x1f\x8b": ("compressed by gzip", "unpack it with gunzip"),
    b"\xfd7zXZ\x00": ("compressed by xz", "unpack it with unxz"),
    **{
        b"BZh%d" % level + block: ("compressed by bzip2", "unpack it with bunzip2")
        for level in range(1, 10)
        for block in (b"1AY&SY", b"\x17rE8P\x90")  # the second is the end of an empty file
    },
    b"\x28\xb5\x2f\xfd": ("compressed by zstd", "unpack it with unzstd"),
    b"7z\xbc\xaf\x27\x1c": ("a .7z archive", "unpack it"),
    b"%PDF-": ("a PDF", "extract its text first, as with pdftotext"),
}
MARKS = {b"\xff\xfe\x00\x00": "UTF-32", b"\x00\x00\xfe\xff": "UTF-32", b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16"}
_NULS = 5  # a file with one NUL or more in this many bytes is refused: in English text as UTF-16 every second byte is NUL
_EXAMINED = 1 << 16


def require_no_archive(content: bytes, path: str | Path) -> None:
    """Check that a file which should be a text file is not an archive, a compressed file or a PDF."""
    for magic, (kind, remedy) in ARCHIVES.items():
        require(not content.startswith(magic), f"file {path}", f"is {kind}, not a text", remedy)


def require_utf8(start: bytes, subject: str) -> None:
    """Check that a text file is not encoded as UTF-16 or UTF-32, with or without a byte-order mark."""
    for mark, name in MARKS.items():
        found = f"byte 0x{mark[0]:02x} at offset 0 is not UTF-8: the file is {name}"
        require(not start.startswith(mark), subject, found, f"convert it from {name} to UTF-8")
    examined = start[:_EXAMINED]
    found = f"{examined.count(0):,} of {len(examined):,} bytes are NUL, as in UTF-16 or a binary file"
    require(examined.count(0) * _NULS < max(len(examined), 1), subject, found, "convert the file to UTF-8")


def decode_utf8(
    content: bytes, path: str | Path, remedy: str = "convert the file to UTF-8, or read it as bytes (--unit byte)", begin: int = 0
) -> str:
    """Return the text of a UTF-8 file, or of its part from the byte `begin` on, without a byte-order mark at the start of the file."""
    if begin == 0:
        require_no_archive(content, path)
        require_utf8(content, f"file {path}")
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        found = f"byte 0x{content[error.start]:02x} at offset {begin + error.start} is not UTF-8"
        raise InputError(f"file {path}", found, remedy) from error
    return text if begin else text.removeprefix("\ufeff")


def encode_utf8(text: str, subject: str = "text", remedy: str = "give valid Unicode", errors: str = "strict") -> bytes:
    """Return a text as UTF-8, or raise `InputError` if it has lone surrogates."""
    try:
        return text.encode(errors=errors)
    except UnicodeEncodeError as error:
        raise InputError(subject, error, remedy) from error
