"""Cleaning of articles before they are encoded as ids."""

import re
from typing import AnyStr

from lstm_jax.base.checks import checked
from lstm_jax.lab.generation.config import Clean as Recipe

_REMOVED = re.compile(r"[^a-zA-Z .,'!;?]+")
_RUN = re.compile(r"  +")
_SPACE = re.compile(r"\s")
# characters of a block; a regex or lower() takes some 60 bytes of memory per character
_BLOCK = 1 << 20


def clean(text: AnyStr, recipe: str = "source") -> AnyStr:
    """Return the text after cleaning it by one of five recipes.

    - "source": every character except English letters, spaces and ``. , ' ! ; ?``
      becomes a space, letters become lower case, runs of spaces become one space, and
      spaces at the start and the end are removed, as in the variant of the Keras
      example lstm_text_generation that this project reproduces. At most 33 distinct
      characters are left. The result equals `" ".join(re.sub(r"[^a-zA-Z .,'!;?]", " ",
      text).lower().split())`.
    - "source-cased": like "source", but letters keep their case, so that at most 59
      distinct characters are left.
    - "lower": letters become lower case, and nothing else changes. In bytes only ASCII
      letters are changed.
    - "none" and "exact": the text is unchanged. With any recipe but "exact", and with
      `unit="character"`, `prepare_corpus` and `write_shards` replace the line endings
      of Windows and old Macs by LF before they call `clean`.

    No recipe normalises Unicode. `InputError` is raised if `recipe` has another value.
    """
    if checked("clean", recipe, Recipe) in ("none", "exact"):
        return text
    if isinstance(text, bytes):
        return (
            text.lower()
            if recipe == "lower"
            else clean(text.decode("latin-1"), recipe).encode("latin-1")
        )
    if recipe == "lower":
        return "".join(block.lower() for block in blocks(text))
    # Each block except the last ends in white space, so its result ends in a space; a
    # space at the start of the next block is removed.
    kept = "".join(
        _RUN.sub(" ", _REMOVED.sub(" ", block)).removeprefix(" ")
        for block in blocks(text)
    ).removesuffix(" ")
    return kept if recipe == "source-cased" else kept.lower()


def unix_line_ends(text: str) -> str:
    """Return the text with the line endings of Windows (CR LF) and of old Macs (CR)
    replaced by those of Unix (LF).
    """
    return text.replace("\r\n", "\n").replace("\r", "\n") if "\r" in text else text


def blocks(text: str):
    """Yield a text in blocks of about `_BLOCK` characters that can be cleaned
    separately.
    """
    start = 0
    while start < len(text):
        space = _SPACE.search(text, start + _BLOCK)
        end = space.end() if space else len(text)
        yield text[start:end]
        start = end
