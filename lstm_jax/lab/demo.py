"""Demonstration that trains two small models without any download, in about two
minutes.

The demonstration trains a sentiment classifier on synthetic reviews from a small
grammar, and a character model on the documentation of Python. It then prints the
predictions of the classifier for some short reviews, and a text that the character
model has written after a prompt.
"""

import csv
import io
import shutil
from pathlib import Path

from rich.console import Console
from rich.text import Text

from lstm_jax.base.errors import require, system_errors
from lstm_jax.base.writing import write_atomically
from lstm_jax.lab.generation import task as generation
from lstm_jax.lab.generation.config import (
    GenerationConfig,
    GenerationModelConfig,
    SampleConfig,
    TextConfig,
)
from lstm_jax.lab.machine.console import say
from lstm_jax.lab.runs.folder import RunFolder
from lstm_jax.lab.sentiment import data
from lstm_jax.lab.sentiment import task as sentiment
from lstm_jax.lab.sentiment.config import (
    DataConfig,
    SentimentConfig,
    SentimentModelConfig,
)
from lstm_jax.lab.sweep.configs import override
from lstm_jax.training.config import TrainConfig

SENTIMENT = SentimentConfig(
    DataConfig(vocabulary="frequency", num_words=1000, maxlen=60),
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
REVIEWS = (
    "the film was good",
    "the film was not good",
    "it starts well but ends badly",
    "it starts badly but ends well",
)
PROMPT, CHARS = "The statement ", 400
MARK = "demo.json"
"""Name of the file that marks the folder of a demo."""
PARTS = ("reviews", "sentiment", "generation")
"""Folders in the folder of a demo, which a later demo removes."""


def run(folder: Path, seed: int, console: Console) -> None:
    """Train a small sentiment classifier and a small character model, and print
    examples of their output.

    What an earlier demo wrote to the folder is removed first.

    Raises:
        InputError: if the folder is not empty and no demo wrote it, or if another
            process uses it.
    """
    with RunFolder(folder).locked():
        _clear(folder)
        splits = data.synthetic_splits(TRAIN_REVIEWS, TEST_REVIEWS, seed)
        for split, reviews in splits.items():
            texts = (text.decode() for text in reviews.texts)
            table = io.StringIO()
            csv.writer(table, lineterminator="\n").writerows(
                [("text", "label"), *zip(texts, reviews.labels, strict=True)]
            )
            write_atomically(folder / "reviews" / f"{split}.csv", table.getvalue())
        _sentiment(folder / "sentiment", folder / "reviews", seed, console)
        _generation(folder / "generation", seed, console)
    following = {
        f"predict --run {folder}/sentiment --text 'a good film'": "classify a review of your own",
        f"inspect --run {folder}/sentiment": "see what the network does at each word",
        "train sentiment --help": "train on real reviews",
    }
    say(console, "\nWhat to do next:")
    for command, purpose in following.items():
        console.print(Text(f"  lstm-jax {command}  # {purpose}"), soft_wrap=True)


def _sentiment(folder: Path, reviews: Path, seed: int, console: Console) -> None:
    say(console, "synthetic reviews from a small grammar: a demonstration, no result")
    result = sentiment.train(
        override(SENTIMENT, {"data.data": str(reviews), "train.seed": seed}),
        folder,
        console=console,
    )
    say(
        console,
        f"accuracy on {TEST_REVIEWS:,} unseen synthetic reviews: "
        f"{result.rows[-1]['test_accuracy']:.3f}",
    )
    probabilities = sentiment.load(folder).probabilities(REVIEWS)
    for text, p in zip(REVIEWS, probabilities, strict=True):
        say(console, f"  {p:.3f}  {text}")


def _generation(folder: Path, seed: int, console: Console) -> None:
    say(console, "\ncharacters of Python's own documentation")
    result = generation.train(
        override(GENERATION, {"train.seed": seed}), folder, console=console
    )
    bits = result.rows[result.best_epoch - 1]["validation_bits"]
    say(console, f"held-out text: {bits:.3f} bits a character")
    say(console, f"text from the prompt {PROMPT!r}, at temperature 0.5:")
    trained = generation.load(folder)
    pieces = trained.write(trained.encode(PROMPT), CHARS, trained.rules(0.5), seed=seed)
    text = PROMPT + trained.texts(pieces, 1)[0]
    say(console, text)


def _clear(folder: Path) -> None:
    remedy = "name a new one with --run"
    with system_errors(f"folder {folder}", remedy):
        lock = RunFolder(folder).lock
        others = [path.name for path in folder.iterdir() if path != lock]
        require(
            MARK in others or not others,
            f"folder {folder}",
            "holds something else",
            remedy,
        )
        for part in PARTS:
            if (folder / part).exists():
                shutil.rmtree(folder / part)
    write_atomically(folder / MARK, "{}\n")
