"""The embedded default: synthetic reviews from the project's own grammar, trained on and asked about in about a minute."""

import shutil
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from lstm_jax import data
from lstm_jax.config import DataConfig, SentimentConfig, SentimentModelConfig, TrainConfig, sentiment_from_json
from lstm_jax.errors import InputError, require
from lstm_jax.tasks import sentiment
from lstm_jax.training.run_folder import RunFolder

CONFIG = SentimentConfig(
    DataConfig(data="synthetic", vocabulary="frequency", num_words=1000, maxlen=60),
    SentimentModelConfig(embed=32, units=64),
    TrainConfig(epochs=5, learning_rate=3e-3),
)
TRAIN_REVIEWS, TEST_REVIEWS = 5000, 1000
ASKED = (
    "the film was good",
    "the film was not good",
    "it starts well but ends badly",
    "it starts badly but ends well",
)


def run(folder: Path, seed: int, console: Console) -> None:
    """Train a small model on synthetic reviews, say how well it does, and ask it about pairs that differ in order or a negation.

    Raises:
        InputError: if the folder holds something else than an earlier demo.
    """
    if folder.is_dir() and any(folder.iterdir()):
        require(_is_demo(folder), f"folder {folder}", "holds something else", "name a new one with --run")
        shutil.rmtree(folder)
    console.print("synthetic reviews from a small grammar: a demonstration, no result; see the README for real reviews", highlight=False)
    config = replace(CONFIG, train=replace(CONFIG.train, seed=seed))
    reviews = data.encode_reviews(data.synthetic_splits(TRAIN_REVIEWS, TEST_REVIEWS, seed), config.data.num_words)
    result = sentiment.train(config, folder, reviews=reviews, console=console)
    console.print(f"accuracy on {TEST_REVIEWS:,} unseen synthetic reviews: {result.rows[-1]['test_accuracy']:.3f}", highlight=False)
    probabilities = sentiment.load(folder).probabilities(ASKED)
    for text, p in zip(ASKED, probabilities, strict=True):
        console.print(f"  {p:.3f}  {text}", highlight=False)
    console.print(f"figures in {folder}/figures", highlight=False)


def _is_demo(folder: Path) -> bool:
    try:
        found = sentiment_from_json(RunFolder(folder).config)
    except InputError:
        return False
    return (found.data, found.model) == (CONFIG.data, CONFIG.model)
