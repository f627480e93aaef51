"""A character corpus: articles joined to one text, its tail held out, both parts as ids."""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import AnyStr, Literal

import numpy as np

from lstm_jax.data.text.characters import Characters, Unit, shown
from lstm_jax.data.text.cleaning import Recipe, clean, unix_line_ends
from lstm_jax.data.text.sources import Paths, embedded_articles, read_articles, read_byte_articles
from lstm_jax.errors import InputError, require


@dataclass(frozen=True)
class Corpus:
    """One long text as ids, in two parts."""

    train: np.ndarray
    """(T,) ids of the training part: uint8, uint16 or int32, whichever holds them."""
    validation: np.ndarray
    """(V,) ids of the held-out tail, of the same type; V = 0: nothing was held out."""
    characters: Characters
    """The bag: of both parts, or with unseen "error" or "drop" of the training part."""
    articles: int
    """Articles that were not empty, before and after cleaning."""
    copies: int
    """Articles of the tail that were left out because the training part has the same text."""
    fingerprint: str
    """SHA-256 of the bag and of both parts' ids."""
    notes: tuple[str, ...] = ()
    """Notes on changes that reading made to the text, a line each."""


def prepare_corpus(
    paths: Paths = (),
    text_column: str = "",
    recipe: Recipe = "source",
    unit: Unit = "character",
    validation: float = 0.1,
    unseen: Literal["include", "error", "drop"] = "include",
    length: int = 40,
) -> Corpus:
    """Read, clean, join with " " in order, hold out the tail, encode.

    The tail is the last `validation` of the characters; the cut may fall within an article. An article that lies whole in the tail and
    is a copy of one that begins before the cut is left out of it: its loss would show memory. No window reaches over the cut.

    Args:
        paths: one source or several, as `read_articles` reads them; empty: `embedded_articles`.
        text_column: of the tables; empty: found.
        recipe: of `clean`.
        unit: "character": Unicode code points; "byte": all 256 bytes, any encoding.
        validation: share of the characters held out, from 0 to below 1.
        unseen: of characters that only the tail has. "include": they get ids like all others; "error": refuse; "drop": take them out of
            the tail.
        length: of the windows to come. Each part (an empty validation part aside) must hold one and the character after it.

    Raises:
        InputError: for sources that cannot be read, a part shorter than a window, a text of one distinct character, unseen characters.
    """
    require(0 <= validation < 1, "validation", validation, "give a share from 0 to below 1")
    require(unseen in ("include", "error", "drop"), "unseen", unseen, "give 'include', 'error' or 'drop'")
    require(length >= 1, "length", length, "give 1 or more characters")
    require(unit in ("character", "byte"), "unit", unit, "give 'character' or 'byte'")
    notes: list[str] = []
    if unit == "byte":
        raw = read_byte_articles(paths, text_column) if paths else tuple(article.encode() for article in embedded_articles())
        articles = _cleaned(raw, recipe)
        cut, held, copies = _hold_out(articles, validation)
        train_text, tail = b" ".join(articles)[:cut], b" ".join(held)
        characters = Characters.all_bytes()
    else:
        read = read_articles(paths, text_column) if paths else embedded_articles()
        articles = _cleaned(read if recipe == "exact" else _with_unix_line_ends(read, notes), recipe)
        cut, held, copies = _hold_out(articles, validation)
        train_text, tail = " ".join(articles)[:cut], " ".join(held)
        characters = Characters.of(train_text)
        characters, tail = _with_unseen(tail, characters, unseen, notes)
    train, held_out = characters.encode(train_text), characters.encode(tail)
    _check_length("training part", train, length)
    if validation > 0:
        _check_length("validation part", held_out, length)
    only = f"only {characters.characters[train[0]]!r}, {len(train)} times"
    require(bool((train != train[0]).any()), "training part", only, "give a text of two distinct characters or more")
    return Corpus(train, held_out, characters, len(articles), copies, _fingerprint(characters, train, held_out), tuple(notes))


def _cleaned(articles: Sequence[AnyStr], recipe: Recipe) -> list[AnyStr]:
    # An article that is empty now would add a space that the source's cleaning of the whole text does not have.
    return [text for text in (clean(article, recipe) for article in articles) if text]


def _hold_out(articles: list[AnyStr], share: float) -> tuple[int, list[AnyStr], int]:
    """Where the joined text is cut, the articles behind the cut (of one that is cut, its end), and how many were left out of them."""
    starts = np.cumsum([0, *(len(article) + 1 for article in articles)])
    whole = max(int(starts[-1]) - 1, 0)
    cut = whole - round(whole * share)
    begun = int(np.searchsorted(starts[:-1], cut))
    known = set(articles[:begun])
    held = [article for article in articles[begun:] if article not in known]
    copies = len(articles) - begun - len(held)
    if begun and (end := articles[begun - 1][cut - int(starts[begun - 1]) :]):
        held.insert(0, end)
    return cut, held, copies


def _with_unix_line_ends(articles: Sequence[str], notes: list[str]) -> Sequence[str]:
    count = sum(article.count("\r") for article in articles)
    if not count:
        return articles
    notes.append(f"{count:,} line ends of Windows or old Macs are read as those of Unix (clean 'exact' keeps them)")
    return [unix_line_ends(article) for article in articles]


def _with_unseen(tail: str, characters: Characters, unseen: str, notes: list[str]) -> tuple[Characters, str]:
    """The bag that encodes the tail, and the tail."""
    missing = characters.unknown(tail)
    if not missing:
        return characters, tail
    if unseen == "error":
        remedy = "clean the text, hold out another share, or drop them (unseen 'drop')"
        raise InputError("characters that only the validation part has", shown(missing), remedy)
    if unseen == "drop":
        kept = re.sub(f"[{re.escape(''.join(missing))}]", "", tail)
        notes.append(f"{len(tail) - len(kept):,} characters are left out of the held-out part, which alone has them: {shown(missing)}")
        return characters, kept
    notes.append(f"{len(missing):,} characters that only the held-out part has have ids too: {shown(missing)}")
    return Characters(tuple(sorted({*characters.characters, *missing}))), tail


def _check_length(part: str, ids: np.ndarray, length: int) -> None:
    remedy = f"a window and its next character need {length + 1}: give more text or a smaller length"
    require(len(ids) > length, part, f"{len(ids)} characters", remedy)


def _fingerprint(characters: Characters, *parts: np.ndarray) -> str:
    whole = hashlib.sha256(characters.to_json())
    for ids in parts:
        whole.update(f"|{len(ids)}|".encode())
        whole.update(np.ascontiguousarray(ids, ids.dtype.newbyteorder("<")).data)
    return whole.hexdigest()
