"""How far does an LSTM go on IMDB from the 25,000 labelled reviews alone, without any other text?

    python -m experiments.best --preset toy                          # seconds
    LSTM_JAX_DATA=... python -m experiments.best --preset choices    # what led to the recipe, without the test reviews
    LSTM_JAX_DATA=... python -m experiments.best                     # and the recipe: three seeds, each reads the test reviews once

From the source's model, one change after another, each judged on 15 % of the training reviews, no movie in both parts: all of a review
instead of 80 words, outputs pooled over time instead of the last one, both directions, words dropped whole, a learning rate that falls to
nothing. The recipe is the last of them; the loss on the same part chooses its epoch, and the test reviews are read once, with that epoch's
weights.

References for labelled reviews only: Keras' examples .84 to .85, tuned LSTM .865 (Dai & Le 2015), fastText with bigrams .906, NBSVM .912,
one-hot LSTM with pooling .919 (Johnson & Zhang 2016).
"""

import sys
from dataclasses import dataclass, field, replace
from math import sqrt
from pathlib import Path
from typing import Any

import numpy as np

from experiments import runs, study, sweep
from lstm_jax import plots
from lstm_jax.config import DataConfig, SentimentConfig, SentimentModelConfig, TrainConfig


@dataclass(frozen=True)
class Config:
    """choice: the name of the last change; tested: read the test reviews at the end; task: the run."""

    choice: str = ""
    tested: bool = False
    task: SentimentConfig = field(default_factory=SentimentConfig)


CHOICES: dict[str, dict[str, Any]] = {
    "the source": {},
    "400 words": {"data.maxlen": 400},
    "pooled over time": {"model.pooling": "mean+max"},
    "both directions": {"model.bidirectional": True},
    "words dropped": {"model.word_dropout": 0.3},
    "falling learning rate": {"train.schedule": "cosine", "train.epochs": 5},
}
"""Change by change, each on top of those before."""
REFERENCES = {"Keras' example": 0.845, "tuned LSTM": 0.865, "fastText, bigrams": 0.906, "NBSVM": 0.912, "oh-2LSTMp": 0.919}


def choices(base: SentimentConfig) -> list[Config]:
    """A run a change."""
    found, task = [], base
    for name, changes in CHOICES.items():
        task = sweep.override(task, changes)
        found.append(Config(name, False, task))
    return found


def recipe(base: SentimentConfig, seeds: int) -> list[Config]:
    """All changes, tested, a run a seed."""
    task = choices(base)[-1].task
    return [Config("recipe", True, sweep.override(task, {"train.seed": seed})) for seed in range(seeds)]


def run(config: Config) -> dict[str, Any]:
    """Accuracy and loss of the best epoch on the validation part; of its weights on the test reviews, if they are to be read."""
    from lstm_jax.models import functional
    from lstm_jax.sharding import make_mesh
    from lstm_jax.tasks import sentiment
    from lstm_jax.training.metrics import binary_metrics

    task = config.task
    reviews, result = runs.train_sentiment(task, lambda reviews: replace(reviews, test=None))
    best = result.rows[result.best_epoch - 1]
    figures = {name: best[f"validation_{name}"] for name in ("accuracy", "loss", "ece")}
    figures |= {"best_epoch": result.best_epoch, "by_epoch": [row["validation_accuracy"] for row in result.rows]}
    figures |= {"seconds": result.seconds, "parameters": sum(a.size for a in result.params.values())}
    if config.tested:
        rows = sentiment.padded_rows(runs.reviews_of(task), task).test
        assert rows is not None
        rebuild = functional(sentiment.make_model(task, reviews.vocabulary.size)).rebuild
        tested = binary_metrics(sentiment.make_logits(rebuild, make_mesh(task.train.devices))(result.params, rows.ids), rows.labels)
        figures |= {"test_accuracy": tested.accuracy, "test_loss": tested.loss, "test_ece": tested.ece, "test_reviews": len(rows.labels)}
    return figures


def spread(accuracies: Any, reviews: int) -> float:
    """Half the 95 % interval of the mean accuracy of so many seeds: of the reviews drawn (binomial), and of the seeds."""
    mean = float(np.mean(accuracies))
    seeds = float(np.var(accuracies, ddof=1)) / len(accuracies) if len(accuracies) > 1 else 0.0
    return 1.96 * sqrt(mean * (1 - mean) / reviews + seeds)


def verdict(rows: study.Rows) -> str:
    """A line a choice, and the test accuracy of the recipe."""
    lines = []
    for row in (row for row in rows if not row["tested"]):
        lines.append(f"{row['choice']}: validation {row['accuracy']:.4f}, loss {row['loss']:.4f}, {row['seconds']:.0f} s")
    tested = [row for row in rows if row["tested"]]
    if tested:
        accuracies = [row["test_accuracy"] for row in tested]
        half = spread(accuracies, tested[0]["test_reviews"])
        told = " ".join(f"{accuracy:.4f}" for accuracy in accuracies)
        mean, seconds = np.mean(accuracies), np.mean([row["seconds"] for row in tested])
        bounds = f"{mean - half:.4f} to {mean + half:.4f}"
        lines.append(f"the recipe on the test reviews: {mean:.4f} (95 %: {bounds}), seeds {told}, {seconds:.0f} s each")
    return "\n".join(lines)


def draw(rows: study.Rows, path: Path) -> object:
    """Validation accuracy change by change, and the tested recipe among the references."""

    def fill(figure: Any) -> None:
        tested = [row["test_accuracy"] for row in rows if row["tested"]]
        shown = [(row["choice"], row["accuracy"]) for row in rows if not row["tested"]]
        axes = figure.subplots()
        for place, (_, value) in enumerate(shown):
            axes.plot(value, place, "o", color="#0072B2")
            axes.annotate(f"{value:.4f}", (value, place), xytext=(6, 0), textcoords="offset points", va="center", fontsize=9)
        names = [name for name, _ in shown]
        if tested:
            axes.plot(tested, [len(names)] * len(tested), "D", color="#D55E00")
            axes.annotate(
                f"{np.mean(tested):.4f}", (max(tested), len(names)), xytext=(6, 0), textcoords="offset points", va="center", fontsize=9
            )
            names.append("recipe, test")
        for name, value in REFERENCES.items():
            axes.axvline(value, color="#777777", linewidth=0.8, linestyle=":")
            axes.text(value, -0.6, name, rotation=90, fontsize=7, color="#555555", ha="right", va="top")
        axes.set_yticks(range(len(names)), names)
        axes.set_ylim(len(names) - 0.4, -0.6)
        axes.set_xlabel("accuracy")
        axes.grid(axis="y", visible=False)

    return plots.write_figure(path, (9.0, 4.2), fill)


BASE = SentimentConfig(DataConfig(validation=0.15), SentimentModelConfig(), TrainConfig(epochs=3))
TOY = SentimentConfig(DataConfig("synthetic", maxlen=8, validation=0.2), SentimentModelConfig(embed=4, units=4), TrainConfig(epochs=1))
STUDY = study.Study(
    "best",
    run,
    {"toy": choices(TOY)[-2:] + recipe(TOY, 1), "choices": choices(BASE), "full": choices(BASE) + recipe(BASE, 3)},
    draw,
    verdict,
)

if __name__ == "__main__":
    sys.exit(study.main(STUDY))
