"""Mutations that damage the bytes of a file: flipped bits, cuts, splices, edited
numbers and words, other encodings, deep nesting.
"""

import random
import re
import struct
from collections.abc import Callable

SPECIAL = (
    b"",
    b"\x00",
    b"\xff\xfe",
    b"\xef\xbb\xbf",
    b'"',
    b"\n",
    b"\r",
    b",",
    b"\\ud800",
    b"\xed\xa0\x80",
    b"{",
    b"]",
    b"\x1a",
    b"\x85",
    # a reader may take these for a size
    *(struct.pack("<I", size) for size in (0, 1, 2**15, 2**31 - 1, 2**31, 2**32 - 1)),
)
"""Bytes that have a meaning in some file format."""
NUMBERS = (
    b"-1 0 nan inf -inf 1e300 1e400 1e-320 2147483648 9223372036854775808 1_0 true null"
    b" [1] 0x10 10000-01-01 9999-12-31T23:59:59 0001-01-01 2020-02-30"
).split()
NUMBERS += [b"", b"9" * 5000]
ENCODINGS = ("utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-8-sig", "utf-7")

Mutation = Callable[[random.Random, bytes], bytes]
"""Function from a source of random numbers and the content of a file to the damaged
content."""


def flip_bit(draw, content):
    place = draw.randrange(len(content))
    flipped = content[place] ^ 1 << draw.randrange(8)
    return content[:place] + bytes([flipped]) + content[place + 1 :]


def truncate(draw, content):
    return content[: draw.randrange(len(content))]


def splice(draw, content):
    """Replace a part of the content, which may be empty, by special bytes, a copy of
    another part, or a random byte.
    """
    place, start = draw.randrange(len(content)), draw.randrange(len(content))
    new = draw.choice(
        (
            draw.choice(SPECIAL),
            content[start : start + draw.randint(1, 200)],
            draw.randbytes(1),
        )
    )
    end = place + draw.choice((0, len(new), draw.randint(1, 200)))
    return content[:place] + new + content[end:]


def edit_digit(draw, content):
    """Replace one digit by another one or, if there is none, flip a bit."""
    digits = list(re.finditer(rb"\d", content))
    if not digits:
        return flip_bit(draw, content)
    match = draw.choice(digits)
    new = (int(match[0]) + draw.randint(1, 9)) % 10
    return content[: match.start()] + b"%d" % new + content[match.end() :]


def edit_number(draw, content):
    """Replace a number by another one, or by a text that is no number."""
    found = list(re.finditer(rb"-?\d+(?:\.\d+)?", content))
    if not found:
        return content
    match = draw.choice(found)
    return content[: match.start()] + draw.choice(NUMBERS) + content[match.end() :]


def edit_word(draw, content):
    """Double or remove a word, convert it to upper case, or replace it by another word,
    an accented letter or a very long word.
    """
    found = list(re.finditer(rb"[A-Za-z_]{2,}", content[:20_000]))
    if not found:
        return content
    match = draw.choice(found[: draw.choice((3, len(found)))])
    word, other = match[0], draw.choice(found)[0]
    new = draw.choice((b"", word * 2, other, word.upper(), b"\xc3\xa9", b"x" * 100_000))
    return content[: match.start()] + new + content[match.end() :]


def encode(draw, content):
    """Write the text in another encoding, with other line ends, or with letters that
    are not valid UTF-8.
    """
    text = content.decode("latin-1")
    if draw.random() < 0.6:
        return text.encode(draw.choice(ENCODINGS))
    old, new = draw.choice(
        (("\n", "\r\n"), ("\n", "\r"), ("\n", "\u2028"), ("e", "\xe9"))
    )
    return text.replace(old, new).encode("latin-1", "replace")


def nest(draw, content):
    """Insert brackets that may be nested deeper than a parser's stack, or replace the
    content by them.
    """
    deep = draw.choice((b"[", b'{"a":', b'{"text": [')) * draw.choice((100, 100_000))
    return deep if draw.random() < 0.5 else content[:20] + deep + content[20:]


def empty(draw, content):
    """Replace the content by nothing or by a few bytes without meaning."""
    return draw.choice((b"", b"\n", b"\x00" * 100, content[:1], b" " * 50))


ANY = (flip_bit, flip_bit, truncate, splice, splice, splice, empty)
TEXTUAL = (*ANY, edit_number, edit_number, edit_word, edit_word, encode, encode, nest)


def mutated(draw, content, kinds):
    """Apply one to three mutations, and return their names and the damaged content."""
    names = []
    for kind in draw.choices(kinds, k=draw.choice((1, 1, 1, 2, 3))):
        content = kind(draw, content or b" ")
        names.append(kind.__name__)
    return "+".join(names), content
