"""Cleaning of articles before their characters get ids."""

import re
from collections.abc import Iterator
from typing import AnyStr, Literal, get_args

from lstm_jax.errors import require

Recipe = Literal["source", "source-cased", "lower", "none", "exact"]

_REMOVED = re.compile(r"[^a-zA-Z .,'!;?]+")
_RUN = re.compile(r"  +")
_SPACE = re.compile(r"\s")
_BLOCK = 1 << 20  # characters; a regex or lower() takes some 60 bytes a character of a block


def clean(text: AnyStr, recipe: str = "source") -> AnyStr:
    """Return the text cleaned by a recipe, in linear time and with the memory of one block beyond the result.

    - "source": the cleaning of the reproduced variant of Keras' example lstm_text_generation, character by character. All but English
      letters, space and ``. , ' ! ; ?`` becomes a space, letters become lower case, runs of spaces become one space, none at the ends: 33
      distinct characters at most. It equals `" ".join(re.sub(r"[^a-zA-Z .,'!;?]", " ", text).lower().split())`.
    - "source-cased": like "source", with the case kept: 59 characters at most.
    - "lower": lower case (Unicode's; of bytes, ASCII's) and no other change.
    - "none", "exact": the text unchanged, with its case, white space and line ends. No recipe normalises Unicode. `prepare_corpus` first
      turns all line ends of files into those of Unix, except with "exact".

    Args:
        text: characters, or bytes.
        recipe: a value of `Recipe`.

    Raises:
        InputError: for another recipe.
    """
    require(recipe in get_args(Recipe), "clean", recipe, f"give one of {', '.join(get_args(Recipe))}")
    if recipe in ("none", "exact"):
        return text
    if isinstance(text, bytes):
        return text.lower() if recipe == "lower" else clean(text.decode("latin-1"), recipe).encode("latin-1")
    if recipe == "lower":
        return "".join(block.lower() for block in _blocks(text))
    # Each block but the last ends in white space, so its result ends in a space, with which the next must not begin.
    kept = "".join(_RUN.sub(" ", _REMOVED.sub(" ", block)).removeprefix(" ") for block in _blocks(text)).removesuffix(" ")
    return kept if recipe == "source-cased" else kept.lower()


def unix_line_ends(text: str) -> str:
    """Return the text with the line ends of Windows (CR LF) and of old Macs (CR) replaced by those of Unix (LF)."""
    return text.replace("\r\n", "\n").replace("\r", "\n") if "\r" in text else text


def _blocks(text: str) -> Iterator[str]:
    """Yield blocks cut after white space, so that no run of removed characters and no context of a letter's lower case is split."""
    start = 0
    while start < len(text):
        space = _SPACE.search(text, start + _BLOCK)
        end = space.end() if space else len(text)
        yield text[start:end]
        start = end
