"""Texts of the text-generation task: the corpus that a config names, and a text that a trained model reads to be examined."""

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from lstm_jax import data
from lstm_jax.config import GenerationConfig
from lstm_jax.data.text.corpus import article_starts, clean_articles, read_units
from lstm_jax.errors import require
from lstm_jax.tasks.running import check_own_data


def load_corpus(config: GenerationConfig) -> data.Corpus:
    """Load the corpus that a config names: a training text and a held-out text, both as character ids."""
    text = config.data
    if text.input == "stream":
        return data.sharded_corpus(text.data[0], text.clean, text.unit, text.validation, text.length)
    corpus = data.prepare_corpus(text.data, text.text_column, text.clean, text.unit, text.validation, text.unseen, text.length)
    if not text.article_resets:
        return corpus
    starts = b"|".join(own.tobytes() for own in (corpus.train_starts, corpus.validation_starts))
    return replace(corpus, fingerprint=f"{corpus.fingerprint} {hashlib.sha256(starts).hexdigest()}")


class ReadText(NamedTuple):
    """Text that a model of a run is to read."""

    ids: np.ndarray
    """Ids (N,) of the characters."""
    starts: np.ndarray | None
    """Positions at which the articles begin. None if the config does not reset the state there (`article_resets`)."""


def read_text(
    trained: Any,
    paths: Sequence[str] = (),
    text: str | None = None,
    text_column: str = "",
    clean: bool = False,
    unknown: str = "",
    most: int = 0,
) -> ReadText:
    """Return the character ids of a given text, or of the held-out text of the run, and the beginnings of its articles."""
    require(text is None or not paths, "text", "given with files", "give one of the two")
    require(most >= 0, "chars", most, "give 1 or more, or 0 for all")
    if text is not None:
        ids, starts = trained.encode(text, clean, unknown), np.zeros(1, np.int64)
    elif not paths:
        corpus = load_corpus(trained.config)
        check_own_data(trained.run, corpus.fingerprint)
        ids, starts = corpus.validation, corpus.validation_starts
        require(len(ids) > 0, "text", "none given, and the run held none out", "name files, - for standard input, or --text")
    else:
        recipe = trained.config.data.clean
        articles, space = read_units(paths, text_column, recipe, trained.characters.unit, [])
        articles = clean_articles(articles, recipe) if clean else articles
        ids, starts = trained.encode(space.join(articles), unknown=unknown), article_starts(articles)
    ids = ids[:most] if most else ids
    return ReadText(ids, starts[starts < len(ids)] if trained.config.data.article_resets else None)
