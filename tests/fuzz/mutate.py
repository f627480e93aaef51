"""Mutations that damage the bytes of a file: flipped bits, cuts, splices, edited
numbers and sizes, other encodings, deep nesting.
"""

import random
import re
import struct
from collections.abc import Callable

CHUNKS = (
    b"\x00",
    b"\xff\xfe",
    b"\xef\xbb\xbf",
    b'"',
    b"\n",
    b"\r\n",
    b"\r",
    b",",
    b"\\ud800",
    b"\xed\xa0\x80",
    b"{",
    b"]",
    b"\x1a",
    b"\x85",
)
NUMBERS = (
    b"-1",
    b"0",
    b"nan",
    b"inf",
    b"-inf",
    b"1e300",
    b"1e400",
    b"1e-320",
    b"9" * 5000,
    b"2147483648",
    b"9223372036854775808",
    b"1_0",
)
NUMBERS += (
    b"",
    b"true",
    b"null",
    b"[1]",
    b"0x10",
    b"10000-01-01",
    b"9999-12-31T23:59:59",
    b"0001-01-01",
    b"2020-02-30",
)
SIZES = (0, 1, 2**7, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1)

Mutation = Callable[[random.Random, bytes], bytes]
"""Function from a source of random numbers and the content of a file to the damaged
content."""


def flip_bit(draw, content):
    """Flip one bit."""
    place = draw.randrange(len(content))
    return (
        content[:place]
        + bytes([content[place] ^ 1 << draw.randrange(8)])
        + content[place + 1 :]
    )


def flip_bits(draw, content):
    """Flip 2 to 20 bits."""
    for _ in range(draw.randint(2, 20)):
        content = flip_bit(draw, content)
    return content


def set_byte(draw, content):
    """Replace one byte by a random one."""
    place = draw.randrange(len(content))
    return content[:place] + bytes([draw.randrange(256)]) + content[place + 1 :]


def truncate(draw, content):
    """Keep only the beginning of the content."""
    return content[: draw.randrange(len(content))]


def splice(draw, content):
    """Insert a copy of a part of the content at another place."""
    start, place = draw.randrange(len(content)), draw.randrange(len(content))
    return (
        content[:place]
        + content[start : start + draw.randint(1, 200)]
        + content[place:]
    )


def remove(draw, content):
    """Remove a part of the content."""
    start = draw.randrange(len(content))
    return content[:start] + content[start + draw.randint(1, 200) :]


def insert(draw, content):
    """Insert bytes that have a special meaning in some file format."""
    place = draw.randrange(len(content) + 1)
    return (
        content[:place] + draw.choice(CHUNKS) * draw.choice((1, 1, 3)) + content[place:]
    )


def edit_digit(draw, content):
    """Replace one digit by another one or, if there is none, flip a bit."""
    digits = list(re.finditer(rb"\d", content))
    if not digits:
        return flip_bit(draw, content)
    match = draw.choice(digits)
    return (
        content[: match.start()]
        + b"%d" % ((int(match[0]) + draw.randint(1, 9)) % 10)
        + content[match.end() :]
    )


def edit_number(draw, content):
    """Replace a number by another one, or by a text that is no number."""
    found = list(re.finditer(rb"-?\d+(?:\.\d+)?", content))
    if not found:
        return content
    match = draw.choice(found)
    return content[: match.start()] + draw.choice(NUMBERS) + content[match.end() :]


def edit_size(draw, content):
    """Overwrite four bytes by an integer that a reader may take for a size."""
    place = draw.randrange(max(1, len(content) - 4))
    return (
        content[:place]
        + struct.pack(draw.choice("<>") + "I", draw.choice(SIZES))
        + content[place + 4 :]
    )


def edit_word(draw, content):
    """Double or remove a word, convert it to upper case, or replace it by another word,
    an accented letter or a very long word.
    """
    found = list(re.finditer(rb"[A-Za-z_]{2,}", content[:20_000]))
    if not found:
        return content
    match = draw.choice(found[: draw.choice((3, len(found)))])
    new = draw.choice(
        (
            b"",
            match[0] * 2,
            draw.choice(found)[0],
            match[0].upper(),
            b"\xc3\xa9",
            b"x" * 100_000,
        )
    )
    return content[: match.start()] + new + content[match.end() :]


def encode(draw, content):
    """Write the text in another encoding, with other line ends, or with letters that
    are not valid UTF-8.
    """
    text = content.decode("latin-1")
    encodings = ("utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-8-sig", "utf-7")
    ends = (
        text.replace("\n", "\r\n"),
        text.replace("\n", "\r"),
        text.replace("\n", "\u2028"),
        text.replace("e", "\xe9"),
    )
    return (
        draw.choice(ends).encode("latin-1", "replace")
        if draw.random() < 0.4
        else text.encode(draw.choice(encodings))
    )


def nest(draw, content):
    """Insert brackets that may be nested deeper than a parser's stack, or replace the
    content by them.
    """
    deep = draw.choice((b"[", b'{"a":', b'{"text": [')) * draw.choice((100, 100_000))
    return deep if draw.random() < 0.5 else content[:20] + deep + content[20:]


def empty(draw, content):
    """Replace the content by nothing or by a few bytes without meaning."""
    return draw.choice(
        (b"", b"\n", b"\x00" * 100, content[:1], b"\xef\xbb\xbf", b" " * 50)
    )


ANY = (
    flip_bit,
    flip_bits,
    set_byte,
    truncate,
    splice,
    remove,
    insert,
    edit_size,
    empty,
)
TEXTUAL = (
    *ANY,
    edit_number,
    edit_number,
    edit_number,
    edit_word,
    edit_word,
    encode,
    encode,
    nest,
)


def mutated(draw, content, kinds):
    """Apply one to three mutations, and return their names and the damaged content."""
    names = []
    for kind in draw.choices(kinds, k=draw.choice((1, 1, 1, 2, 3))):
        content = kind(draw, content or b" ")
        names.append(kind.__name__)
    return "+".join(names), content
