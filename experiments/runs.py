"""Functions that train a model with one of the library's tasks, and return metrics.

Their argument is the config of the task. A study may vary any field of this config.
"""

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from bench import data_file
from experiments.study import Metrics
from lstm_jax.lab import sweep
from lstm_jax.lab.commands.common import start_training
from lstm_jax.lab.generation.config import (
    GenerationConfig,
    GenerationModelConfig,
    SampleConfig,
    TextConfig,
)
from lstm_jax.lab.generation.data import Corpus
from lstm_jax.lab.sentiment.config import (
    DataConfig,
    SentimentConfig,
    SentimentModelConfig,
)
from lstm_jax.lab.sentiment.data import EncodedReviews, encode_reviews, synthetic_splits
from lstm_jax.training.config import TrainConfig

ARTICLES, SHAKESPEARE = "articles", "tiny Shakespeare"
"""Names of texts. If one of them is the only entry of `TextConfig.data`, `generation`
replaces it by the path of the text's file."""
TEXTS: dict[tuple[str, ...], tuple[str, str]] = {
    (ARTICLES,): ("articles", "wp_articles.json"),
    (SHAKESPEARE,): ("charlm", "tinyshakespeare.txt"),
}
"""Dict from a value of `TextConfig.data` to the place of its text: a pair (name of a
folder in the data folder, name of a file in it)."""
TOY_REVIEWS = 400, 200
"""Number of training reviews and number of test reviews if the field `data.data` of a
config is "synthetic"."""

SMALL_SENTIMENT = SentimentConfig(
    DataConfig("synthetic", vocabulary="frequency", maxlen=8),
    SentimentModelConfig(embed=4, units=4),
    TrainConfig(epochs=1),
)
SMALL_GENERATION = GenerationConfig(
    TextConfig(length=4, step=900),
    GenerationModelConfig(units=4),
    TrainConfig(epochs=1),
    SampleConfig(sample_chars=0),
)
"""Configs of the runs of the presets "toy"."""


def _common(result, metric: str) -> Metrics:
    """Return the metrics that the runs of all tasks have: a metric of each epoch, the
    time of an epoch, and the size of the model.
    """
    timed = [row for row in result.rows if row["epoch"] > 1] or result.rows
    return {
        "epoch_seconds": min(row["seconds"] for row in timed),
        "examples_per_second": max(row["examples_per_second"] for row in timed),
        "by_epoch": [row[metric] for row in result.rows],
        "parameters": sum(array.size for array in result.params.values()),
    }


def corpus_of(text: str) -> Corpus:
    """Return the corpus of a text in `TEXTS`, or that of a small text for the preset
    "toy".
    """
    from lstm_jax.lab.generation import task

    given = (data_file(*TEXTS[text,]),) if (text,) in TEXTS else ()
    return task.load_corpus(GenerationConfig(TextConfig(data=given)))


def reviews_of(config: SentimentConfig) -> EncodedReviews:
    """Return the reviews that `config.data` selects, encoded as word ids."""
    from lstm_jax.lab.sentiment import task

    if config.data.data == "synthetic":
        return encode_reviews(
            synthetic_splits(*TOY_REVIEWS, config.train.seed),
            config.data.num_words,
        )
    return task.encoded_reviews(config)


def train_sentiment(
    config: SentimentConfig,
    change: Callable[[EncodedReviews], EncodedReviews] | None = None,
    callbacks: Sequence[Callable[[Any], None]] = (),
) -> tuple[Any, Any]:
    """Train the model of the sentiment task."""
    start_training(config.train.devices, config.model)
    from lstm_jax.lab.sentiment import task

    reviews = change(reviews_of(config)) if change else reviews_of(config)
    with tempfile.TemporaryDirectory() as folder:
        return reviews, task.train(
            config,
            Path(folder) / "run",
            data=reviews,
            figures=False,
            callbacks=callbacks,
        )


def sentiment(config: SentimentConfig) -> Metrics:
    """Train the model of the sentiment task, and return its metrics."""
    _, result = train_sentiment(config)
    part = "validation" if config.data.validation else "test"
    row = (
        result.rows[result.best_epoch - 1]
        if config.data.validation
        else result.rows[-1]
    )
    metrics = {name: row[f"{part}_{name}"] for name in ("accuracy", "loss", "ece")} | {
        "test_accuracy": row["test_accuracy"]
    }
    return metrics | _common(result, f"{part}_accuracy")


def generation(config: GenerationConfig) -> Metrics:
    """Train the model of the text generation task, and return its metrics."""
    if names := TEXTS.get(config.data.data):
        config = sweep.override(config, {"data.data": (data_file(*names),)})
    start_training(config.train.devices, config.model)
    from lstm_jax.lab.generation import task

    with tempfile.TemporaryDirectory() as folder:
        result = task.train(config, Path(folder) / "run", figures=False)
    metrics = _common(result, "validation_bits")
    bits = metrics["by_epoch"]
    return {
        "bits": min(bits),
        "last_bits": bits[-1],
        "train_bits": result.rows[-1]["train_bits"],
    } | metrics
