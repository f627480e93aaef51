"""The embedded default: both tasks, on what needs no download, in about two minutes; then what the two runs answer.

Sentiment learns synthetic reviews from the project's own grammar; text generation learns Python's documentation.
"""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from lstm_jax import data
from lstm_jax.config import (
    DataConfig,
    GenerationConfig,
    GenerationModelConfig,
    SampleConfig,
    SentimentConfig,
    SentimentModelConfig,
    TextConfig,
    TrainConfig,
    generation_from_json,
    sentiment_from_json,
)
from lstm_jax.errors import InputError, require
from lstm_jax.tasks import generation, sentiment
from lstm_jax.training.run_folder import RunFolder

SENTIMENT = SentimentConfig(
    DataConfig(data="synthetic", vocabulary="frequency", num_words=1000, maxlen=60),
    SentimentModelConfig(embed=32, units=64),
    TrainConfig(epochs=5, learning_rate=3e-3),
)
GENERATION = GenerationConfig(
    TextConfig(clean="none", regime="stream", length=64, unseen="drop"),
    GenerationModelConfig(units=192),
    TrainConfig(epochs=12, learning_rate=4e-3, schedule="cosine", clip_norm=1.0),
    SampleConfig(sample_chars=200, sample_temperatures=(0.5,)),
)
TRAIN_REVIEWS, TEST_REVIEWS = 5000, 1000
ASKED = (
    "the film was good",
    "the film was not good",
    "it starts well but ends badly",
    "it starts badly but ends well",
)
PROMPT, CHARS = "The statement ", 400


def run(folder: Path, seed: int, console: Console) -> None:
    """Train a small model of each task, say how well they do, ask the one about pairs that differ in order or a negation, and let the other
    write.

    Raises:
        InputError: if the folder holds something else than an earlier demo.
    """
    if folder.is_dir() and any(folder.iterdir()):
        require(_is_demo(folder), f"folder {folder}", "holds something else", "name a new one with --run")
        shutil.rmtree(folder)
    require(not folder.exists() or folder.is_dir(), f"folder {folder}", "is a file", "name a new folder with --run")
    _sentiment(folder / "sentiment", seed, console)
    _generation(folder / "generation", seed, console)
    console.print(f"figures in {folder}/sentiment/figures and {folder}/generation/figures", highlight=False)


def _sentiment(folder: Path, seed: int, console: Console) -> None:
    console.print("synthetic reviews from a small grammar: a demonstration, no result; see the README for real reviews", highlight=False)
    config = replace(SENTIMENT, train=replace(SENTIMENT.train, seed=seed))
    reviews = data.encode_reviews(data.synthetic_splits(TRAIN_REVIEWS, TEST_REVIEWS, seed), config.data.num_words)
    result = sentiment.train(config, folder, reviews=reviews, console=console)
    console.print(f"accuracy on {TEST_REVIEWS:,} unseen synthetic reviews: {result.rows[-1]['test_accuracy']:.3f}", highlight=False)
    probabilities = sentiment.load(folder).probabilities(ASKED)
    for text, p in zip(ASKED, probabilities, strict=True):
        console.print(f"  {p:.3f}  {text}", highlight=False)


def _generation(folder: Path, seed: int, console: Console) -> None:
    console.print("\ncharacters of Python's own documentation", highlight=False)
    config = replace(GENERATION, train=replace(GENERATION.train, seed=seed))
    result = generation.train(config, folder, console=console)
    bits = result.rows[result.best_epoch - 1]["validation_bits"]
    console.print(f"held-out text: {bits:.3f} bits a character; {PROMPT!r} goes on, at temperature 0.5:", highlight=False)
    trained = generation.load(folder)
    pieces = trained.write(trained.encode(PROMPT), CHARS, trained.rules(0.5), seed=seed)
    console.print(PROMPT + trained.texts(pieces, 1)[0], highlight=False, markup=False, soft_wrap=True)


def _is_demo(folder: Path) -> bool:
    """Whether the folder holds runs of the demo, one or both, and nothing else."""
    known: dict[str, tuple[Callable[[Path], Any], Any]] = {
        "sentiment": (sentiment_from_json, SENTIMENT),
        "generation": (generation_from_json, GENERATION),
    }
    for path in folder.iterdir():
        if path.name not in known:
            return False
        read, config = known[path.name]
        try:
            found = read(RunFolder(path).config)
        except InputError:
            return False
        if (found.data, found.model) != (config.data, config.model):
            return False
    return True
