"""The rows that every side of a sentiment measurement gets: Keras' own IMDB ids and order, padded as the source pads them."""

import numpy as np

from lstm_jax.config import SentimentConfig
from lstm_jax.tasks.sentiment import load_reviews, padded_rows


def imdb_rows() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """x_train (25000, 80), y_train, x_test, y_test; int32. `$LSTM_JAX_DATA` or the cache must have the reviews."""
    splits = padded_rows(load_reviews(SentimentConfig()), SentimentConfig())
    assert splits.test is not None
    return splits.train.ids, splits.train.labels, splits.test.ids, splits.test.labels
