"""Data with which every benchmarked library trains and evaluates the models of the
Keras examples imdb_lstm and lstm_text_generation.

The data for imdb_lstm are the padded IMDB reviews. The data for lstm_text_generation
are newspaper articles, which are cleaned in the same way as the text of this Keras
example.
"""

from dataclasses import replace

import numpy as np

from bench import data_file
from lstm_jax.lab.generation.config import TextConfig
from lstm_jax.lab.sentiment.config import SentimentConfig
from lstm_jax.lab.sentiment.task import encoded_reviews, padded_rows


def imdb_rows() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return the IMDB reviews as arrays x_train (25000, 80), y_train (25000,), x_test
    (25000, 80) and y_test (25000,).
    """
    splits = padded_rows(encoded_reviews(SentimentConfig()), SentimentConfig())
    assert splits.test is not None
    return (
        np.asarray(splits.train.ids),
        splits.train.labels,
        np.asarray(splits.test.ids),
        splits.test.labels,
    )


def articles(config: TextConfig) -> TextConfig:
    """Return a copy of a text config. If `config.data` is empty, the field `data` of
    the copy is the file of the newspaper articles.
    """
    return replace(
        config, data=config.data or (data_file("articles", "wp_articles.json"),)
    )
