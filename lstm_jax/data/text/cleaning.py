"""What is done to the text of an article before its characters are counted."""

import re
from collections.abc import Iterator
from typing import AnyStr, Literal, get_args

from lstm_jax.errors import require

Recipe = Literal["source", "source-cased", "lower", "none", "exact"]

_OTHERS = re.compile(r"[^a-zA-Z .,'!;?]+")
_RUN = re.compile(r"  +")
_SPACE = re.compile(r"\s")
_BLOCK = 1 << 20  # characters; a regex or lower() over one block needs some 60 bytes a character for a moment


def clean(text: AnyStr, recipe: str = "source") -> AnyStr:
    """The text by a recipe. Time is linear, and memory beyond the result is that of a block.

    - "source": letter for letter what the source did to its articles. Everything but English letters, space and ``. , ' ! ; ?`` becomes
      a space, letters are lowered, runs of spaces become one, none at the ends: 33 distinct characters at most. It is
      `" ".join(re.sub(r"[^a-zA-Z .,'!;?]", " ", text).lower().split())`.
    - "source-cased": the same with the case kept: 59 characters at most.
    - "lower": lower case (Unicode's; of bytes, ASCII's), nothing else.
    - "none", "exact": the text as it is, with its case, white space and line ends. No recipe normalises Unicode. Of files, `prepare_corpus`
      makes all line ends those of Unix first, but for "exact".

    Args:
        text: characters, or bytes.
        recipe: one of those of `Recipe`.

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
    # Each block but the last ends in white space, so that its result ends in the one space the next must not begin with.
    kept = "".join(_RUN.sub(" ", _OTHERS.sub(" ", block)).removeprefix(" ") for block in _blocks(text)).removesuffix(" ")
    return kept if recipe == "source-cased" else kept.lower()


def unix_line_ends(text: str) -> str:
    """Return the text with each line end, of Windows (CR LF) or of old Macs (CR), as that of Unix (LF)."""
    return text.replace("\r\n", "\n").replace("\r", "\n") if "\r" in text else text


def _blocks(text: str) -> Iterator[str]:
    """Cut behind white space, where neither a run of other characters nor the context of a letter's lower case is in the way."""
    start = 0
    while start < len(text):
        space = _SPACE.search(text, start + _BLOCK)
        end = space.end() if space else len(text)
        yield text[start:end]
        start = end
