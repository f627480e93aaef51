"""Character corpora. Articles are joined to one text, which is divided into two splits
and encoded as ids. Its windows are views of the array of ids, so that nothing is copied.

The Keras example lstm_text_generation stores the N windows of 40 characters in one-hot
encoding, as a boolean array (N, 40, 33).
"""

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from itertools import compress
from typing import Any, cast

import numpy as np
from numpy import ndarray
from numpy.lib.stride_tricks import sliding_window_view

from lstm_jax.base.checks import Count, Share, check_number, checked, frozen
from lstm_jax.base.errors import InputError, require
from lstm_jax.base.types import AnyPath, Texts
from lstm_jax.lab.files.mapped import MappedIds
from lstm_jax.lab.generation.config import Clean as Recipe
from lstm_jax.lab.generation.config import Token, Unseen
from lstm_jax.lab.generation.data.characters import (
    LINE_END,
    UNKNOWN,
    Characters,
    Words,
    shown,
)
from lstm_jax.lab.generation.data.shards import read_shards
from lstm_jax.lab.generation.data.sources import (
    Paths,
    clean,
    embedded_articles,
    read_articles,
    read_byte_articles,
    unix_line_ends,
)


def window_count(n: int, length: int, step: int) -> int:
    """Return the number of windows of a text of `n` characters; see `windows`. A window
    counts only if a character follows it.
    """
    check_number("length", length, Count)
    check_number("step", step, Count)
    return len(range(0, n - length, step))


def some_windows(n: int, length: int, step: int) -> int:
    """Return the number of windows of a text like `window_count`, and raise
    `InputError` if there are no windows.
    """
    count = window_count(n, length, step)
    require_window("text", n, length)
    return count


def windows(ids: ndarray, length: int = 40, step: int = 5) -> tuple[ndarray, ndarray]:
    """Return the windows X (N, length) of a text and their targets Y (N,), as read-only
    views of its ids (T,).

    X[k] is ids[k * step : k * step + length], and Y[k] is the id after that window.

    Raises:
        InputError: if the text is too short for a window and the character after it, or
            if `length` or `step` is below 1.
    """
    some_windows(len(ids), length, step)
    X = sliding_window_view(ids[:-1], length)[::step]
    Y = ids[length::step]
    Y.flags.writeable = False
    return X, Y


def one_hot(X: ndarray, Y: ndarray, size: int) -> tuple[ndarray, ndarray]:
    """Return windows (N, length) and targets (N,) in one-hot encoding, as the Keras
    example lstm_text_generation stores them: boolean arrays (N, length, size) and
    (N, size), which take N * (length + 1) * size bytes.
    """
    for ids in (X, Y):
        require(
            ((ids >= 0) & (ids < size)).all(),
            "size",
            size,
            "give the number of distinct characters: each id is below it",
        )
    characters = np.arange(size)
    return X[..., None] == characters, Y[..., None] == characters


def chunks(ids: ndarray, length: int) -> tuple[ndarray, ndarray]:
    """Cut a text into N = (T - 1) // length consecutive chunks, and return the inputs X
    and the targets Y, both as read-only views (N, length) of `ids` (T,).

    X[k] begins at the index k * length of `ids`, and Y[k] one index later. Characters
    at the end that do not fill a chunk are left out.

    Raises:
        InputError: if the text is too short for a chunk and the character after it, or
            if `length` is below 1.
    """
    some_windows(len(ids), length, 1)
    X = sliding_window_view(ids[:-1], length)[::length]
    Y = sliding_window_view(ids[1:], length)[::length]
    return X, Y


def stream_chunks(n: int, length: int, batch: int) -> ndarray:
    """Return the indices of the chunks that form each batch of truncated
    back-propagation through time.

    A text of `n` characters is cut into `batch` consecutive streams of equal length,
    and each stream into S = (n - 1) // (batch * length) chunks. Batch s consists of
    chunk s of every stream, so that row b of batch s continues row b of batch s - 1.
    Characters at the end that do not fill one more chunk in every stream are left out.

    Returns:
        An int64 array (S, batch). The entry at [s, b] is b * S + s, the index of a row
        of the arrays that `chunks` returns. For `n` 13, `length` 2 and `batch` 3, the
        array is [[0, 2, 4], [1, 3, 5]].
    """
    check_number("length", length, Count)
    check_number("batch", batch, Count)
    steps = max(n - 1, 0) // (length * batch)
    remedy = (
        f"{batch} streams of {length} characters need {batch * length + 1}: give "
        "more text, a smaller batch or length"
    )
    require(steps >= 1, "text", f"{n} characters", remedy)
    return np.arange(batch * steps).reshape(batch, steps).T


def require_window(subject: str, n: int, length: int, unit: str = "character") -> None:
    """Check that a text of `n` characters has a window of `length` characters and the
    character after it.
    """
    noun = "word" if unit == "word" else "character"
    remedy = (
        f"a window and its next {noun} need {length + 1}: give more text or a "
        "smaller length"
    )
    require(n > length, subject, f"{n} {noun}s", remedy)


@frozen
class Corpus:
    """One long text that is encoded as ids and divided into a training and a validation
    split.
    """

    train: ndarray | MappedIds
    """(T,) ids of the training split, of the dtype of the vocabulary. For a corpus in
    shards, they stay in a memory-mapped file."""
    validation: ndarray
    """(T',) ids of the validation split, which is the end of the text. If nothing is
    held out, T' is 0."""
    characters: Characters
    """Vocabulary of both splits."""
    articles: int
    """Number of articles that are not empty after cleaning."""
    copies: int
    """Number of articles that were left out of the validation split because an article
    with the same text begins in the training split."""
    fingerprint: str
    """SHA-256 of the vocabulary and of the ids of both splits or, for a corpus in
    shards, of their index."""
    train_starts: ndarray
    """(A,) int64: positions in `train` at which the articles begin, in ascending order.
    The array is empty for a corpus in shards."""
    validation_starts: ndarray
    """(A',) int64: positions in `validation` at which the articles begin. If an article
    begins in `train` and ends in `validation`, its second part counts as an article."""
    notes: Texts = ()
    """Sentences that tell the user how the text was changed when it was read."""


def prepare_corpus(
    paths: Paths = (),
    text_column: str = "",
    recipe: Recipe = "source",
    unit: Token = "character",
    validation: float = 0.1,
    unseen: Unseen = "include",
    length: int = 40,
    num_words: int = 20_000,
    validation_paths: Paths = (),
) -> Corpus:
    """Read a corpus of articles and return it as ids.

    The articles are cleaned and then joined with spaces, in their order. The joined
    text is cut at one point, which may lie within an article, into the training split
    and the validation split. A copy in the validation split of an article that begins
    in the training split is left out.

    Args:
        paths: one path or a list of paths; see `read_articles`. If there are none, the
            articles are those of `embedded_articles()`.
        text_column: name of the column of the texts in tables; see `read_articles`.
        recipe: recipe by which `clean` cleans each article.
        unit: unit of the text: "character" (a Unicode code point), "byte" (text files
            may then have any encoding) or "word".
        validation: share of the text in the validation split, at least 0 and below 1.
        unseen: treatment of characters that occur only in the validation split:
            "include" (they get ids like the other characters), "error" (raise an error)
            or "drop" (remove them from the validation split). With "include", words
            become `<unk>`.
        length: number of ids of a window; each split that is not empty by choice must
            have more.
        num_words: size of the vocabulary of words; see `TextConfig`.
        validation_paths: paths of the validation split, which replace the share.

    Raises:
        InputError: if an argument is out of range, if a source cannot be read, if a
            split is not longer than a window, if the training split has a single
            distinct character, or if `unseen` is "error" and a character occurs only in
            the validation split.
    """
    check_number("validation", validation, Share)
    check_number("length", length, Count)
    checked("unseen", unseen, Unseen)
    checked("unit", unit, Token)
    articles, space, notes = cleaned_articles(paths, text_column, recipe, unit)
    given = (
        cleaned_articles(validation_paths, text_column, recipe, unit)[0]
        if validation_paths
        else []
    )
    if unit == "word":
        return _word_corpus(
            articles, given, validation, unseen, length, num_words, notes
        )
    cut, held, copies = _hold_out(articles, 0.0 if given else validation)
    held = given or held
    train_text, tail = space.join(articles)[:cut], space.join(held)
    starts = article_starts(articles)
    held_starts = article_starts(held)
    characters = Characters.of(train_text)
    missing = () if unit == "byte" else characters.unknown(tail)
    if missing and unseen == "error":
        remedy = "clean the text, hold out another share, or drop them (unseen 'drop')"
        raise InputError(
            "characters that only the validation part has", shown(missing), remedy
        )
    if missing and unseen == "include":
        characters = Characters(tuple(sorted({*characters.characters, *missing})))
        notes.append(
            f"{len(missing):,} characters that only the held-out part has "
            f"have ids too: {shown(missing)}"
        )
    elif missing:
        stays = np.fromiter(
            map(characters.char_to_id.__contains__, tail), bool, len(tail)
        )
        tail = "".join(compress(tail, stays))
        held_starts = (np.cumsum(stays) - stays)[held_starts]
        notes.append(
            f"{(~stays).sum():,} characters are left out of the held-out "
            f"part, which alone has them: {shown(missing)}"
        )
    train = characters.encode(train_text)
    held_out = characters.encode(tail)
    begins = starts[starts < cut]
    corpus = Corpus(
        train,
        held_out,
        characters,
        len(articles),
        copies,
        "",
        begins,
        held_starts,
        tuple(notes),
    )
    return _checked(corpus, length, 1.0 if given else validation)


def _word_corpus(
    articles: list[str],
    given: list[str],
    validation: float,
    unseen: Unseen,
    length: int,
    num_words: int,
    notes: list[str],
) -> Corpus:
    ids_of: defaultdict[str, int] = defaultdict()
    # a word's id is the number of distinct words before it
    ids_of.default_factory = ids_of.__len__
    unknown, line_end = ids_of[UNKNOWN], ids_of[LINE_END]

    def encode(article: str) -> ndarray:
        return Words.encode_by(article, ids_of.__getitem__)

    texts = [*map(encode, articles)]
    cut, held, copies = _hold_out(articles, 0.0 if given else validation, texts)
    held = [*map(encode, given)] or held
    train = np.concatenate(texts)[:cut]
    tail = np.concatenate([np.zeros(0, np.int32), *held])
    starts = article_starts(texts, 0)
    held_starts = article_starts(held, 0)
    words = tuple(ids_of)
    counts = np.bincount(train, minlength=len(ids_of))
    once = int((counts[line_end + 1 :] == 1).sum())
    spoken = len(train) - int(counts[line_end])
    remedy = "give a longer text or, if it has no spaces, the unit character"
    require(
        once <= max(spoken / 2, 1),
        "training part",
        f"{once:,} of {spoken:,} words occur once",
        remedy,
    )
    lacking = counts[tail] == 0
    if unseen != "include" and lacking.any():
        strange = shown(tuple(words[i] for i in dict.fromkeys(tail[lacking].tolist())))
        require(
            unseen == "drop",
            "words that only the validation part has",
            strange,
            "drop them, or read them as <unk> (unseen 'include')",
        )
        notes.append(
            f"{lacking.sum():,} words are left out of the held-out part, "
            f"which alone has them: {strange}"
        )
        tail = tail[~lacking]
        held_starts = (np.cumsum(~lacking) - ~lacking)[held_starts]
    kept = counts > (0 if counts[unknown] else 1)
    kept[[unknown, line_end]] = False
    frequent = [
        i
        for i in np.argsort(-counts, kind="stable")[: num_words + 2].tolist()
        if kept[i]
    ][: num_words - 2]
    vocabulary = Words((UNKNOWN, LINE_END, *(words[i] for i in frequent)))
    ids = np.zeros(len(words), vocabulary.dtype)
    ids[[line_end, *frequent]] = np.arange(1, vocabulary.size)
    train, tail = ids[train], ids[tail]
    shares = [
        f"{(part == unknown).mean():.1%} of the {name} part"
        for name, part in (("training", train), ("held-out", tail))
        if len(part)
    ]
    notes.append(f"{UNKNOWN} is {' and '.join(shares)}")
    corpus = Corpus(
        train,
        tail,
        vocabulary,
        len(articles),
        copies,
        "",
        starts[starts < cut],
        held_starts,
        tuple(notes),
    )
    return _checked(corpus, length, 1.0 if given else validation)


def _checked(corpus: Corpus, length: int, validation: float) -> Corpus:
    """Return the corpus with its fingerprint, after checking the lengths of its splits."""
    train = cast(ndarray, corpus.train)
    held_out = corpus.validation
    characters = corpus.characters
    _require_windows(train, held_out, length, validation, characters.unit)
    only = f"only {characters.characters[train[0]]!r}, {len(train)} times"
    require(
        (train != train[0]).any(),
        "training part",
        only,
        f"give a text of two distinct {characters.unit}s or more",
    )
    fingerprint = hashlib.sha256(characters.to_json())
    for ids in (train, held_out):
        fingerprint.update(f"|{len(ids)}|".encode())
        fingerprint.update(np.ascontiguousarray(ids, ids.dtype.newbyteorder("<")).data)
    return replace(corpus, fingerprint=fingerprint.hexdigest())


def sharded_corpus(
    folder: AnyPath,
    recipe: Recipe = "source",
    unit: Token = "character",
    validation: float = 0.1,
    length: int = 40,
) -> Corpus:
    """Return a corpus from the shards that `write_shards` has written.

    The training split stays in a memory-mapped file. The validation split is read into
    memory. `recipe` and `unit` must be those of the shards; `prepare_corpus` describes
    the other arguments.

    Raises:
        InputError: if `validation` is out of range, if the shards cannot be read or
            have another recipe or unit, or if a split is not longer than a window.
    """
    check_number("validation", validation, Share)
    text = read_shards(folder)
    for name, wanted, found in (
        ("clean", recipe, text.recipe),
        ("unit", unit, text.characters.unit),
    ):
        remedy = f"the shards in {folder} have {found}: give it, or write others"
        require(wanted == found, name, wanted, remedy)
    ids = text.ids
    cut = len(ids) - round(len(ids) * validation)
    train = ids.part(0, cut)
    held_out = ids[cut:]
    _require_windows(train, held_out, length, validation)
    unknown = article_starts([])
    return Corpus(
        train,
        held_out,
        text.characters,
        text.articles,
        0,
        text.fingerprint,
        unknown,
        unknown,
    )


def article_starts(articles: Sequence[Any], separator: int = 1) -> ndarray:
    """Return the positions (A,) at which the A articles begin in the text that joins
    them with one separator between two articles.
    """
    return np.cumsum([0, *(len(article) + separator for article in articles)])[
        : len(articles)
    ]


def _hold_out(
    articles: list, share: float, ids: list[ndarray] | None = None
) -> tuple[int, list, int]:
    """Return the cut, the articles after it, or their ids if they are given, and the
    number of copies.
    """
    texts: list[Any] = articles if ids is None else ids
    # each word is an id, and a space between two words is none
    separator = 1 if ids is None else 0
    starts = article_starts(texts, separator)
    whole = int(starts[-1]) + len(texts[-1]) if texts else 0
    cut = whole - round(whole * share)
    begun = int(np.searchsorted(starts, cut))
    known = set(articles[:begun])
    held = [
        text
        for article, text in zip(articles[begun:], texts[begun:], strict=True)
        if article not in known
    ]
    copies = len(articles) - begun - len(held)
    if begun and len(end := texts[begun - 1][cut - starts[begun - 1] :]):
        held.insert(0, end)
    return cut, held, copies


def cleaned_articles(
    paths: Paths, text_column: str, recipe: Recipe, unit: Token, cleaned: bool = True
) -> tuple[list, Any, list[str]]:
    """Return the articles that are not empty after cleaning, as bytes if the unit is
    "byte", their separator, and notes for the user.

    If `cleaned` is false, articles of the unit "character" only get the line ends of
    Unix, as with the recipe "none".
    """
    notes = []
    articles: Any
    if unit == "byte":
        articles = (
            read_byte_articles(paths, text_column)
            if paths
            else [article.encode() for article in embedded_articles()]
        )
    else:
        articles = read_articles(paths, text_column) if paths else embedded_articles()
        count = sum(article.count("\r") for article in articles)
        if count and recipe != "exact":
            notes = [
                (
                    f"{count:,} line ends of Windows or old Macs are read as "
                    "those of Unix (clean 'exact' keeps them)"
                )
            ]
            articles = map(unix_line_ends, articles)
    articles = (clean(article, recipe) for article in articles) if cleaned else articles
    found: list[Any] = list(filter(None, articles))
    if unit == "word":  # each article ends with <eos>
        found = [
            article if article.endswith("\n") else f"{article}\n" for article in found
        ]
    return found, b" " if unit == "byte" else " ", notes


def _require_windows(
    train: ndarray | MappedIds,
    held_out: ndarray,
    length: int,
    share: float,
    unit: Token = "character",
):
    require_window("training part", len(train), length, unit)
    if share > 0:
        require_window("validation part", len(held_out), length, unit)
