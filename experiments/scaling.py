"""Study of how the scores of two tasks depend on the number of units, the sequence
length, the vocabulary size and the amount of data.

    python -m experiments.scaling --preset toy                    # seconds
    # half an hour on two cores
    LSTM_JAX_DATA=... python -m experiments.scaling --workers 2

The quantities that are varied, such as the number of units, are called axes. Each run
varies one axis, and is repeated with two seeds. There are two tasks:

- sentiment: The model of the Keras example imdb_lstm, but with 64 units and an
  embedding of 64 features, is trained for three epochs. The score is the test accuracy
  of the last epoch. If only a fraction of the training reviews is used, the other
  reviews are the validation split, and the score is the test accuracy of the epoch that
  is best on this split. The axes are the number of units (8 to 256), the number of
  words read from each review (10 to 320), the vocabulary size (200 to 20,000) and the
  fraction of the training reviews (1/32 to 1).
- characters: A model is trained on articles for 30 epochs. The text is read as a stream
  in windows of 64 characters, and the learning rate falls from 0.005 to 0 on a cosine
  schedule. The score is the bits per character of held-out text at the best epoch. The
  axes are the number of units (16 to 256), the length of a window (8 to 128 characters)
  and the fraction of the text that is used for training (1/32 to 9/10). The rest of the
  text is held out, so the held-out text differs between these fractions.

Expected: At the largest sizes, the accuracy still grows with length and data, but
hardly with the number of units. The bits per character fall with the number of units as
well as with the amount of data. All runs of a task have the same number of epochs. They
do not have the same number of updates, because shorter windows and more data lead to
more updates.
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from bench import groups
from experiments import runs
from experiments.study import Metrics, Rows, Study, flat, lines, main, plot_means
from lstm_jax.lab import sweep
from lstm_jax.lab.generation.config import (
    GenerationConfig,
    GenerationModelConfig,
    SampleConfig,
    TextConfig,
)
from lstm_jax.lab.inspection.figures import log_axis
from lstm_jax.lab.sentiment.config import (
    DataConfig,
    SentimentConfig,
    SentimentModelConfig,
)
from lstm_jax.training.config import TrainConfig


@dataclass(frozen=True)
class Config:
    """Config of one run of the study: a task in which one quantity, the axis, has a
    given value.
    """

    axis: Literal["units", "length", "vocabulary", "data"] = "units"
    value: float = 0.0
    """Value of the axis. For the axis "data", it is the fraction of the data that is
    used for training."""
    kind: Literal["sentiment", "characters"] = "sentiment"
    """Task that is trained. The config of the other task is ignored."""
    sentiment: SentimentConfig = field(default_factory=SentimentConfig)
    characters: GenerationConfig = field(default_factory=GenerationConfig)


def run(config: Config) -> Metrics:
    """Train the model of a config, and return its metrics."""
    if config.kind == "sentiment":
        metrics = runs.sentiment(config.sentiment)
        return {"score": metrics["test_accuracy"], **metrics}
    metrics = runs.generation(config.characters)
    return {"score": metrics["bits"], **metrics}


FIELDS = {
    "sentiment": {
        "units": "model.units",
        "length": "data.maxlen",
        "vocabulary": "data.num_words",
        "data": "data.validation",
    },
    "characters": {
        "units": "model.units",
        "length": "data.length",
        "data": "data.validation",
    },
}


def configs(
    sentiment: SentimentConfig, characters: GenerationConfig, axes, seeds: int
) -> list[Config]:
    """Return the configs of all runs. An axis is a quantity that is varied, such as the
    number of units.
    """
    found = []
    for kind, axis in (
        (kind, axis) for kind, values in axes.items() for axis in values
    ):
        for value in axes[kind][axis]:
            changes = {
                f"{kind}.{FIELDS[kind][axis]}": 1 - value if axis == "data" else value
            }
            config = sweep.override(
                Config(axis, value, kind, sentiment, characters), changes
            )
            found += sweep.grid(config, **{f"{kind}.train.seed": range(seeds)})
    return found


def verdict(rows: Rows) -> Iterator[str]:
    """Return the conclusion of the study."""
    for (kind, axis), own in sorted(groups(rows, ["kind", "axis"]).items()):
        yield (
            f"{kind}, {axis}: "
            f"{', '.join(lines(own, ['value'], '{:g} {score.mean:.4f}'))}"
        )


def draw(rows: Rows, figure) -> None:
    """Draw the score over each varied quantity (`Config.axis`), one panel for each task
    and quantity.
    """
    for part, (kind, fields) in zip(figure.subfigures(2), FIELDS.items(), strict=True):
        panels, reviews = (
            part.subplots(1, len(fields), sharey=True),
            kind == "sentiment",
        )
        for axes, axis in zip(panels, fields, strict=True):
            own = [row for row in rows if (row["kind"], row["axis"]) == (kind, axis)]
            if axis == "data":
                own = [
                    flat(
                        row["config"] | {"value": round(100 * row["value"], 1)},
                        row["result"],
                    )
                    for row in own
                ]
            plot_means(
                axes,
                own,
                "score",
                "value",
                interval=lambda values: (
                    float(np.mean(values)),
                    min(values),
                    max(values),
                ),
            )
            log_axis(axes, "x", sorted({row["value"] for row in own}))
            axes.tick_params("x", rotation=45)
            axes.set_xlabel(
                {
                    "data": "training data, %",
                    "length": "length, words" if reviews else "length, characters",
                    "vocabulary": "vocabulary, words",
                }.get(axis, axis)
            )
            axes.set_ylabel("")
        panels[0].set_ylabel(
            ("test accuracy of reviews" if reviews else "held-out bits a character")
            + "\n(mean, smallest to largest)"
        )


SENTIMENT = SentimentConfig(
    DataConfig(), SentimentModelConfig(embed=64, units=64), TrainConfig(epochs=3)
)
CHARACTERS = GenerationConfig(
    TextConfig(data=(runs.ARTICLES,), regime="stream", length=64, unseen="drop"),
    GenerationModelConfig(units=64),
    TrainConfig(epochs=30, learning_rate=5e-3, schedule="cosine", clip_norm=1.0),
    SampleConfig(sample_chars=0),
)
AXES = {
    "sentiment": {
        "units": (8, 16, 32, 64, 128, 256),
        "length": (10, 20, 40, 80, 160, 320),
        "vocabulary": (200, 1000, 5000, 20_000),
        "data": (1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2, 1.0),
    },
    "characters": {
        "units": (16, 32, 64, 128, 256),
        "length": (8, 16, 32, 64, 128),
        "data": (1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2, 0.9),
    },
}
SMALL = configs(
    runs.SMALL_SENTIMENT,
    runs.SMALL_GENERATION,
    {"sentiment": {"units": (2, 4)}, "characters": {"length": (4,)}},
    1,
)
STUDY = Study(
    "scaling",
    run,
    {"toy": SMALL, "full": configs(SENTIMENT, CHARACTERS, AXES, 2)},
    draw,
    (11.0, 7.4),
    verdict,
)

if __name__ == "__main__":
    sys.exit(main(STUDY))
