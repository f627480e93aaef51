"""Demonstration that trains two small models without any download, in about two
minutes.

The demonstration trains a sentiment classifier on synthetic reviews from a small
grammar, and a character model on the documentation of Python. It then prints the
predictions of the classifier for some short reviews, and a text that the character
model has written after a prompt.
"""

import contextlib
import csv
import io
import json
from pathlib import Path

from rich.console import Console
from rich.text import Text

from lstm_jax.base.errors import InputError, require, system_errors
from lstm_jax.base.reading import file_digest, parsing
from lstm_jax.base.writing import remove_temporaries, write_atomically
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
"""Name of the marker file in the folder of a demo. It lists the SHA-256 of every file
that the demo wrote, so that a later demo removes only these files."""


def run(folder: Path, seed: int, console: Console) -> None:
    """Train a small sentiment classifier and a small character model, and print
    examples of their output.

    The classifier is applied to pairs of reviews that differ only in word order or by a
    negation. The character model continues a prompt. The files that an earlier demo
    wrote to the folder are removed first.

    Raises:
        InputError: if the folder holds files that no earlier demo wrote or that have
            changed, if an earlier demo in this folder was killed, or if another process
            uses the folder.
    """
    with RunFolder(folder).locked():
        _clear(folder)
        try:
            for split, reviews in data.synthetic_splits(
                TRAIN_REVIEWS, TEST_REVIEWS, seed
            ).items():
                table = io.StringIO()
                rows = zip(
                    (text.decode() for text in reviews.texts),
                    reviews.labels,
                    strict=True,
                )
                csv.writer(table, lineterminator="\n").writerows(
                    [("text", "label"), *rows]
                )
                write_atomically(folder / "reviews" / f"{split}.csv", table.getvalue())
            _sentiment(folder / "sentiment", folder / "reviews", seed, console)
            _generation(folder / "generation", seed, console)
        finally:  # the marker file is also written after an interrupt
            with contextlib.suppress(InputError):
                write_atomically(
                    folder / MARK, json.dumps({"made": _files(folder)}, indent=1) + "\n"
                )
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


def _files(folder: Path) -> dict[str, str]:
    found = {}
    for path in folder.rglob("*"):
        is_link = path.is_symlink()
        filled = path.is_dir() and not is_link and any(path.iterdir())
        if path not in (folder / MARK, RunFolder(folder).lock) and not filled:
            found[path.relative_to(folder).as_posix()] = (
                file_digest(path) if path.is_file() and not is_link else ""
            )
    return found


def _clear(folder: Path) -> None:
    mark, remedy = folder / MARK, "name a new one with --run"
    with parsing(f"mark {mark}", remedy):
        made = (
            dict(json.loads(mark.read_bytes())["made"] or {}) if mark.exists() else {}
        )
    with system_errors(f"folder {folder}", remedy):
        remove_temporaries(folder)
        found = _files(folder)
        for name, digest in found.items():
            own = (
                f"{remedy}, or move {name} away: no demo that ended made it, or "
                "it has changed"
            )
            require(
                digest and made.get(name) == digest,
                f"folder {folder}",
                "holds something else",
                own,
            )
        for name in found:
            (folder / name).unlink()
        mark.unlink(missing_ok=True)
        for path in sorted(
            (path for path in folder.rglob("*") if path.is_dir()), reverse=True
        ):
            path.rmdir()
