"""Where does more of everything stop to help: units, length, vocabulary, data?

    python -m experiments.scaling --preset toy                    # seconds
    LSTM_JAX_DATA=... python -m experiments.scaling --workers 2   # half an hour on two cores

One thing changes at a time, two seeds. Sentiment: the source's model with 64 units and an embedding of 64, three epochs, the last one's
accuracy on the test set; units 8 to 256, words read 10 to 320, vocabulary 200 to 20,000, training reviews a thirty-second to all of them.
Characters: stream of the articles in stretches of 64, 30 epochs at 0.005 to 0 by cosine, bits a character of the last tenth; units 16 to
256, stretches of 8 to 128, text a thirty-second to nine tenths of it.

Expected: accuracy still grows with length and data at their ends, and hardly with units; bits fall with units and data together. Runs of a
curve have as many epochs and not as many updates: a shorter stretch and a larger share bring more of them.
"""

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from experiments import runs, study
from lstm_jax import sweep
from lstm_jax.config import (
    DataConfig,
    GenerationConfig,
    GenerationModelConfig,
    SampleConfig,
    SentimentConfig,
    SentimentModelConfig,
    TextConfig,
    TrainConfig,
)
from lstm_jax.inspection.figures import log_axis, write_figure


@dataclass(frozen=True)
class Config:
    """axis: what is changed; value: to what; one of the two tasks. share: of the training data that is used."""

    axis: Literal["units", "length", "vocabulary", "data"] = "units"
    value: float = 0.0
    kind: Literal["sentiment", "characters"] = "sentiment"
    sentiment: SentimentConfig = field(default_factory=SentimentConfig)
    characters: GenerationConfig = field(default_factory=GenerationConfig)


def run(config: Config) -> dict[str, Any]:
    """Test accuracy, or held-out bits a character."""
    if config.kind == "sentiment":
        figures = runs.sentiment(config.sentiment)
        return {"score": figures["test_accuracy"], **figures}
    figures = runs.generation(config.characters)
    return {"score": figures["bits"], **figures}


SENTIMENT_FIELDS = {"units": "model.units", "length": "data.maxlen", "vocabulary": "data.num_words", "data": "data.validation"}
CHARACTER_FIELDS = {"units": "model.units", "length": "data.length", "data": "data.validation"}


def configs(sentiment: SentimentConfig, characters: GenerationConfig, axes: Any, seeds: int) -> list[Config]:
    """axes: kind -> axis -> values; a share of the data is what is not held out."""
    found = []
    for kind, values in axes.items():
        base, fields = (sentiment, SENTIMENT_FIELDS) if kind == "sentiment" else (characters, CHARACTER_FIELDS)
        for axis, value in ((axis, value) for axis, many in values.items() for value in many):
            for seed in range(seeds):
                task = sweep.override(base, {fields[axis]: 1 - value if axis == "data" else value, "train.seed": seed})
                both = (
                    {"sentiment": task, "characters": characters} if kind == "sentiment" else {"sentiment": sentiment, "characters": task}
                )
                found.append(Config(axis, value, kind, **both))
    return found


def curves(rows: study.Rows) -> dict[tuple[str, str], list[tuple[float, float, float, float]]]:
    """(kind, axis) -> value, mean score and its range, by value."""
    found: dict[tuple[str, str], list[tuple[float, float, float, float]]] = {}
    for (kind, axis, value), scores in sorted(study.grouped(rows, ["kind", "axis", "value"], "score").items()):
        found.setdefault((kind, axis), []).append((value, float(np.mean(scores)), min(scores), max(scores)))
    return found


def verdict(rows: study.Rows) -> str:
    """A line a curve."""
    return "\n".join(
        f"{kind}, {axis}: " + ", ".join(f"{value:g} {score:.4f}" for value, score, _, _ in line)
        for (kind, axis), line in curves(rows).items()
    )


def draw(rows: study.Rows, path: Path) -> object:
    """A panel a curve."""

    def fill(figure: Any) -> None:
        panels = figure.subplots(2, 4)
        for n, kind in enumerate(("sentiment", "characters")):
            for axes, axis in zip(panels[n], ("units", "length", "vocabulary", "data"), strict=True):
                line = curves(rows).get((kind, axis))
                if not line:
                    axes.set_axis_off()
                    continue
                values, scores, low, high = zip(*line, strict=True)
                if axis == "data":
                    values = [round(100 * value, 1) for value in values]
                axes.fill_between(values, low, high, color="#0072B2", alpha=0.15)
                axes.plot(values, scores, "o-", color="#0072B2")
                log_axis(axes, "x", values)
                axes.set_xlabel("percent of the data" if axis == "data" else axis)
            panels[n][0].set_ylabel("test accuracy" if kind == "sentiment" else "held-out bits a character")

    return write_figure(path, (12.0, 5.6), fill)


SENTIMENT = SentimentConfig(DataConfig(), SentimentModelConfig(embed=64, units=64), TrainConfig(epochs=3))
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
    "characters": {"units": (16, 32, 64, 128, 256), "length": (8, 16, 32, 64, 128), "data": (1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2, 0.9)},
}
SMALL = configs(
    SentimentConfig(DataConfig("synthetic", maxlen=8), SentimentModelConfig(embed=4, units=4), TrainConfig(epochs=1)),
    GenerationConfig(TextConfig(length=4, step=900), GenerationModelConfig(units=4), TrainConfig(epochs=1), SampleConfig(sample_chars=0)),
    {"sentiment": {"units": (2, 4), "length": (4, 8)}, "characters": {"units": (2, 4)}},
    1,
)
STUDY = study.Study("scaling", run, {"toy": SMALL, "full": configs(SENTIMENT, CHARACTERS, AXES, 2)}, draw, verdict)

if __name__ == "__main__":
    sys.exit(study.main(STUDY))
