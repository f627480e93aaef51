"""The text that every side of a text-generation measurement gets: the articles of `$LSTM_JAX_DATA`, cleaned as the source cleans them."""

import os
from dataclasses import replace

import numpy as np

from lstm_jax import data
from lstm_jax.config import GenerationConfig, TextConfig
from lstm_jax.tasks import generation

LENGTH, CHARACTERS, CHARS = 40, 33, 400
"""Of the source: a window, the distinct characters, the characters drawn after an epoch."""


def articles(config: TextConfig) -> TextConfig:
    """The config with the articles as its text, unless it names another."""
    default = (os.path.join(os.environ.get("LSTM_JAX_DATA", "data"), "articles", "wp_articles.json"),)
    return replace(config, data=config.data or default)


def article_windows(validation: float) -> tuple[np.ndarray, np.ndarray, data.Corpus]:
    """X (N, LENGTH) and Y (N,) ids, every 5 characters of the training part; and the corpus."""
    corpus = generation.load_corpus(GenerationConfig(articles(TextConfig(validation=validation))))
    return *data.windows(corpus.train, LENGTH, 5), corpus
