"""Preparation of a character corpus. Articles are joined to one text, which is divided into two splits and encoded as ids."""

import hashlib
from collections.abc import Sequence
from itertools import compress
from typing import Any, AnyStr

import numpy as np
from numpy import ndarray

from lstm_jax.aliases import AnyPath, Texts
from lstm_jax.bounds import Count, Share, check_number, checked, frozen
from lstm_jax.config.generation import Clean as Recipe
from lstm_jax.config.generation import Unit, Unseen
from lstm_jax.data.text.characters import Characters, shown
from lstm_jax.data.text.cleaning import clean, unix_line_ends
from lstm_jax.data.text.shards import ShardedText, read_shards
from lstm_jax.data.text.sources import Paths, embedded_articles, read_articles, read_byte_articles
from lstm_jax.data.text.windows import require_window
from lstm_jax.errors import InputError, require


@frozen
class Corpus:
    """One long text that is encoded as ids and divided into a training and a validation split."""

    train: ndarray | ShardedText
    """(T,) ids of the training split. For a corpus in shards, this field is a `ShardedText`, whose ids stay in memory-mapped files. The
    dtype is the smallest of uint8, uint16 and int32 that can represent every id."""
    validation: ndarray
    """(T',) ids of the validation split, which is the end of the text. The dtype is that of `train`. If nothing is held out, T' is 0."""
    characters: Characters
    """Vocabulary of the characters in both splits. If `prepare_corpus` was called with `unseen` "error" or "drop", the vocabulary has only
    the characters of the training split."""
    articles: int
    """Number of articles that are not empty after cleaning."""
    copies: int
    """Number of articles that were left out of the validation split because an article with the same text begins in the training split."""
    fingerprint: str
    """SHA-256 of the vocabulary and of the ids of both splits or, for a corpus in shards, of the index file of the shards. If a model
    resets its state where an article begins, `tasks.generation.load_corpus` appends a space and the SHA-256 of `train_starts` and
    `validation_starts`."""
    train_starts: ndarray
    """(A,) int64: positions in `train` at which the articles begin, in ascending order. The first is 0. The array is empty for a
    corpus in shards."""
    validation_starts: ndarray
    """(A',) int64: positions in `validation` at which the articles begin. If an article begins in `train` and ends in `validation`, its
    second part counts as an article."""
    notes: Texts = ()
    """Messages to the user, with one sentence for each kind of change that was made to the text when it was read."""


def prepare_corpus(
    paths: Paths = (),
    text_column: str = "",
    recipe: Recipe = "source",
    unit: Unit = "character",
    validation: float = 0.1,
    unseen: Unseen = "include",
    length: int = 40,
) -> Corpus:
    """Read a corpus of articles and return it as ids.

    The articles are cleaned and then joined with spaces. They keep their order. The joined text is cut at one point, which may lie within
    an article. The text before the cut is the training split, and the text after the cut is the validation split. If an article that begins
    after the cut is a copy of an article that begins before the cut, the copy is left out, because the loss on a copy would measure
    memorisation.

    Args:
        paths: one path or a list of paths; see `read_articles`. If there are none, the articles are those of `embedded_articles()`.
        text_column: name of the column of the texts in tables; see `read_articles`.
        recipe: recipe by which `clean` cleans each article: "source", "source-cased", "lower", "none" or "exact".
        unit: unit of the text: "character" (a Unicode code point) or "byte" (text files may then have any encoding).
        validation: share of the text in the validation split, at least 0 and below 1.
        unseen: treatment of characters that occur only in the validation split: "include" (they get ids like the other characters),
            "error" (raise an error) or "drop" (remove them from the validation split).
        length: number of ids (one for each character or byte) of the windows on which a model will be trained. Each split must have more
            ids than a window. If `validation` is 0, the validation split is empty and only the training split is checked.

    Raises:
        InputError: if an argument is out of range, if a source cannot be read, if a split is not longer than a window, if the training
            split has a single distinct character, or if `unseen` is "error" and a character occurs only in the validation split.
    """
    check_number("validation", validation, Share)
    check_number("length", length, Count)
    checked("unseen", unseen, Unseen)
    checked("unit", unit, Unit)
    articles, space, notes = cleaned_articles(paths, text_column, recipe, unit)
    cut, held, copies = _hold_out(articles, validation)
    train_text, tail = space.join(articles)[:cut], space.join(held)
    starts, held_starts = article_starts(articles), article_starts(held)
    characters = Characters.of(train_text)
    missing = () if unit == "byte" else characters.unknown(tail)
    if missing and unseen == "error":
        remedy = "clean the text, hold out another share, or drop them (unseen 'drop')"
        raise InputError("characters that only the validation part has", shown(missing), remedy)
    if missing and unseen == "include":
        characters = Characters(tuple(sorted({*characters.characters, *missing})))
        notes.append(f"{len(missing):,} characters that only the held-out part has have ids too: {shown(missing)}")
    elif missing:
        stays = np.fromiter(map(characters.char_to_id.__contains__, tail), bool, len(tail))
        tail, held_starts = "".join(compress(tail, stays)), (np.cumsum(stays) - stays)[held_starts]
        notes.append(f"{(~stays).sum():,} characters are left out of the held-out part, which alone has them: {shown(missing)}")
    train, held_out = characters.encode(train_text), characters.encode(tail)
    _require_windows(train, held_out, length, validation)
    only = f"only {characters.characters[train[0]]!r}, {len(train)} times"
    require((train != train[0]).any(), "training part", only, "give a text of two distinct characters or more")
    fingerprint = hashlib.sha256(characters.to_json())
    for ids in (train, held_out):
        fingerprint.update(f"|{len(ids)}|".encode())
        fingerprint.update(np.ascontiguousarray(ids, ids.dtype.newbyteorder("<")).data)
    begins = starts[starts < cut]
    return Corpus(train, held_out, characters, len(articles), copies, fingerprint.hexdigest(), begins, held_starts, tuple(notes))


def sharded_corpus(
    folder: AnyPath, recipe: Recipe = "source", unit: Unit = "character", validation: float = 0.1, length: int = 40
) -> Corpus:
    """Return a corpus from the shards that `write_shards` has written.

    The training split stays in the memory-mapped files of the shards. The validation split is read into memory. The arrays `train_starts`
    and `validation_starts` of the result are empty, because it is unknown at which positions the articles (the original text files) begin.

    Args:
        folder: folder of the shards.
        recipe: recipe with which `write_shards` must have cleaned the text.
        unit: unit with which `write_shards` must have been called.
        validation: share of the ids in the validation split; for this and `length`, see `prepare_corpus`.
        length: length of a window.

    Raises:
        InputError: if `validation` is out of range, if the shards cannot be read or have another recipe or unit, or if a split is not
            longer than a window.
    """
    check_number("validation", validation, Share)
    text = read_shards(folder)
    for name, wanted, found in (("clean", recipe, text.index.recipe), ("unit", unit, text.characters.unit)):
        require(wanted == found, name, wanted, f"the shards in {folder} have {found}: give it, or write others")
    cut = len(text) - round(len(text) * validation)
    train, held_out = text.part(0, cut), text[cut:]
    _require_windows(train, held_out, length, validation)
    unknown = article_starts([])
    return Corpus(train, held_out, text.characters, text.index.articles, 0, text.index.fingerprint, unknown, unknown)


def article_starts(articles: Sequence[AnyStr]) -> ndarray:
    """Return the positions (A,) at which the A articles begin in the text that joins them with one separator between two articles."""
    return np.cumsum([0, *(len(article) + 1 for article in articles)])[: len(articles)]


def _hold_out(articles: list[AnyStr], share: float) -> tuple[int, list[AnyStr], int]:
    starts = article_starts(articles)
    whole = int(starts[-1]) + len(articles[-1]) if articles else 0
    cut = whole - round(whole * share)
    begun = int(np.searchsorted(starts, cut))
    known = set(articles[:begun])
    held = [article for article in articles[begun:] if article not in known]
    copies = len(articles) - begun - len(held)
    if begun and (end := articles[begun - 1][cut - starts[begun - 1] :]):
        held.insert(0, end)
    return cut, held, copies


def cleaned_articles(paths: Paths, text_column: str, recipe: Recipe, unit: Unit, cleaned: bool = True) -> tuple[list, Any, list[str]]:
    """Return the articles that are not empty after cleaning, as bytes if the unit is "byte", their separator, and notes for the user.

    If `cleaned` is false, articles of the unit "character" only get the line ends of Unix, as with the recipe "none".
    """
    notes = []
    if unit == "byte":
        articles = read_byte_articles(paths, text_column) if paths else [article.encode() for article in embedded_articles()]
    else:
        articles = read_articles(paths, text_column) if paths else embedded_articles()
        count = sum(article.count("\r") for article in articles)
        if count and recipe != "exact":
            notes = [f"{count:,} line ends of Windows or old Macs are read as those of Unix (clean 'exact' keeps them)"]
            articles = map(unix_line_ends, articles)
    articles = (clean(article, recipe) for article in articles) if cleaned else articles
    return list(filter(None, articles)), b" " if unit == "byte" else " ", notes


def _require_windows(train: ndarray | ShardedText, held_out: ndarray, length: int, share: float):
    require_window("training part", len(train), length)
    if share > 0:
        require_window("validation part", len(held_out), length)
