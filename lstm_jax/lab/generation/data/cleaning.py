"""Cleaning of articles before they are encoded as ids."""

import re
from collections.abc import Iterable, Iterator
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
    checked("clean", recipe, Recipe)
    if isinstance(text, str):
        return "".join(clean_pieces(blocks(text), recipe))
    if recipe.startswith("source"):
        return clean(text.decode("latin-1"), recipe).encode("latin-1")
    return text.lower() if recipe == "lower" else text


def clean_pieces(pieces: Iterable[str], recipe: str) -> Iterator[str]:
    """Yield a text, which comes in pieces, cleaned; see `clean`. With the recipe
    "lower", no word may be divided.
    """
    gap = begun = False  # whether a space, or any text, stands before a piece
    for piece in pieces:
        if not recipe.startswith("source"):
            yield piece.lower() if recipe == "lower" else piece
            continue
        spaced = _RUN.sub(" ", _REMOVED.sub(" ", piece))
        kept = spaced.strip(" ")
        if recipe == "source":
            kept = kept.lower()
        gap = gap or spaced.startswith(" ")
        if kept:
            yield f" {kept}" if gap and begun else kept
            begun, gap = True, spaced.endswith(" ")


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
