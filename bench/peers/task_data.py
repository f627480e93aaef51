"""Data that all peers get: the padded reviews of imdb_lstm, and the articles, cleaned as lstm_text_generation cleans its text."""

import os
from dataclasses import replace

import numpy as np

from bench.workloads import LENGTH, STEP
from lstm_jax import data
from lstm_jax.config import GenerationConfig, SentimentConfig, TextConfig
from lstm_jax.tasks import generation
from lstm_jax.tasks.sentiment import load_reviews, padded_rows


def imdb_rows() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return the int32 arrays x_train (25000, 80), y_train, x_test and y_test, with the word ids and the order of Keras.

    The reviews are read from `$LSTM_JAX_DATA` or the cache.
    """
    splits = padded_rows(load_reviews(SentimentConfig()), SentimentConfig())
    assert splits.test is not None
    return splits.train.ids, splits.train.labels, splits.test.ids, splits.test.labels


def articles(config: TextConfig) -> TextConfig:
    """Return the config with the articles of `$LSTM_JAX_DATA` as its text, unless the config names a text already."""
    default = (os.path.join(os.environ.get("LSTM_JAX_DATA", "data"), "articles", "wp_articles.json"),)
    return replace(config, data=config.data or default)


def article_windows(validation: float) -> tuple[np.ndarray, np.ndarray, data.Corpus]:
    """Return the windows of the training split of the articles, and the corpus.

    Args:
        validation: share of the text that is held out.

    Returns:
        Character ids X (N, LENGTH) of windows that start every `STEP` characters, ids Y (N,) of the characters after them, and the corpus.
    """
    corpus = generation.load_corpus(GenerationConfig(articles(TextConfig(validation=validation))))
    return *data.windows(corpus.train, LENGTH, STEP), corpus
