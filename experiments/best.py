"""Study of one question: which test accuracy does an LSTM reach on IMDB from the 25,000 labelled reviews alone, without any other text?

    python -m experiments.best --preset toy                                     # seconds
    LSTM_JAX_DATA=... python -m experiments.best --preset choices --workers 2   # the choices, without the test reviews; 90 minutes
    LSTM_JAX_DATA=... python -m experiments.best --workers 2                    # choices and recipe; 112 minutes

Durations are from two cores of 100 GFLOP/s each, shared with other work; the recipe alone took 21 minutes.

The study starts from the Keras example imdb_lstm. Each choice makes one change to an earlier choice, and is evaluated on a validation split
of 15 % of the training reviews, which shares no movie with the reviews that are trained on. The choices are: read 400 words of a review
instead of 80; pool the outputs over time instead of using the last one; read in both directions; drop whole words; drop entries of the
recurrent kernel; average the weights of the last epochs; let the learning rate fall to zero; train the embedding and the LSTMs first as a
language model of the same reviews (`experiments.pretraining`); and, after that, train for three epochs only. The recipe is the last choice.
Its epoch is chosen by the loss on the validation split, and the test reviews are read once, with the weights of that epoch.

Expected: the recipe reaches a test accuracy of 0.90 or above. Published test accuracies with labelled reviews only: Keras example .84 to
.85, tuned LSTM .865 (Dai & Le 2015), fastText with bigrams .906, NBSVM .912, one-hot LSTM with pooling .919 (Johnson & Zhang 2016).
"""

import sys
import time
from dataclasses import dataclass, field, replace
from math import sqrt
from pathlib import Path
from typing import Any

import numpy as np

from experiments import runs, study
from experiments.pretraining import pretrain
from lstm_jax import data, sweep
from lstm_jax.config import DataConfig, SentimentConfig, SentimentModelConfig, TrainConfig
from lstm_jax.inspection.figures import write_figure


@dataclass(frozen=True)
class Config:
    """Run of one choice."""

    choice: str = ""
    """Name of the choice, which is that of its last change."""
    tested: bool = False
    """Whether the test reviews are read at the end."""
    averaged: int = 0
    """Number of epochs at the end whose weights are averaged. If 0, the weights of the best epoch are used."""
    pretrained: float = 0.0
    """Number of passes over the training reviews with which the language model is trained. If 0, there is no language model."""
    task: SentimentConfig = field(default_factory=SentimentConfig)


SOURCE = "the source"
"""Name, in the rows, of the choice that is the unchanged Keras example imdb_lstm."""
CHOICES: dict[str, tuple[str, dict[str, Any]]] = {
    "400 words": (SOURCE, {"task.data.maxlen": 400}),
    "pooled over time": ("400 words", {"task.model.pooling": "mean+max"}),
    "both directions": ("pooled over time", {"task.model.bidirectional": True}),
    "words dropped": ("both directions", {"task.model.word_dropout": 0.3}),
    "weights dropped": ("words dropped", {"task.model.weight_drop": 0.3}),
    "weights averaged": ("words dropped", {"task.train.epochs": 5, "averaged": 3}),
    "falling learning rate": ("words dropped", {"task.train.schedule": "cosine", "task.train.epochs": 5}),
    "language model first": ("falling learning rate", {"pretrained": 4.0}),
    "three epochs": ("language model first", {"task.train.epochs": 3}),
}
"""Name of a choice -> name of the choice that it builds on, and the fields of `Config` that it changes."""
RECIPE = "three epochs"
SEEDS = 1
REFERENCES = {"Keras' example": 0.845, "tuned LSTM": 0.865, "fastText, bigrams": 0.906, "NBSVM": 0.912, "oh-2LSTMp": 0.919}


def choices(base: SentimentConfig) -> list[Config]:
    """Return one config for each choice, the unchanged Keras example first; `base` is the config of that example."""
    configs = {SOURCE: Config(SOURCE, task=base)}
    for name, (before, changes) in CHOICES.items():
        configs[name] = sweep.override(configs[before], {"choice": name} | changes)
    return list(configs.values())


def named(base: SentimentConfig, choice: str) -> Config:
    """Return the config of the choice with this name."""
    return next(config for config in choices(base) if config.choice == choice)


def recipe(base: SentimentConfig, seeds: int) -> list[Config]:
    """Return the config of the recipe for each of `seeds` seeds, with evaluation on the test reviews."""
    best = named(base, RECIPE)
    return [sweep.override(best, {"choice": "recipe", "tested": True, "task.train.seed": seed}) for seed in range(seeds)]


def run(config: Config) -> dict[str, Any]:
    """Train a choice and return its metrics.

    The metrics are accuracy, loss and calibration error (ECE) on the validation split and, if `config.tested`, on the test reviews; also
    the seconds and the number of parameters.
    """
    from lstm_jax.models import functional
    from lstm_jax.runtime.sharding import make_mesh
    from lstm_jax.tasks import sentiment
    from lstm_jax.training.metrics import binary_metrics

    task, epochs, nats, start = config.task, [], [], time.perf_counter()

    def keep(record: Any) -> None:
        epochs.append({name: np.array(array) for name, array in record.params.items()})

    def pretrained(reviews: data.EncodedReviews) -> dict[str, Any]:
        arrays, losses = _pretrain(config, reviews)
        nats.extend(losses)
        return arrays

    callbacks, initial = [keep] if config.averaged else [], pretrained if config.pretrained else None
    reviews, result = runs.train_sentiment(task, lambda reviews: replace(reviews, test=None), callbacks, initial)
    params = _mean(epochs[-config.averaged :]) if config.averaged else result.params
    logits = sentiment.make_logits(functional(sentiment.make_model(task, reviews.vocabulary.size)).rebuild, make_mesh(task.train.devices))

    def score(rows: Any) -> dict[str, float]:
        metrics = binary_metrics(logits(params, rows.ids), rows.labels)
        return {name: getattr(metrics, name) for name in ("accuracy", "loss", "ece")}

    metrics: dict[str, Any] = score(sentiment.padded_rows(reviews, task).validation)
    metrics |= {"best_epoch": result.best_epoch, "by_epoch": [row["validation_accuracy"] for row in result.rows]}
    metrics |= {"language_model_nats": nats} if nats else {}
    metrics |= {"seconds": time.perf_counter() - start, "parameters": sum(a.size for a in result.params.values())}
    if config.tested:
        rows = sentiment.padded_rows(runs.reviews_of(task), task).test
        assert rows is not None
        metrics |= {f"test_{name}": value for name, value in score(rows).items()} | {"test_reviews": len(rows.labels)}
    return metrics


def _pretrain(config: Config, reviews: data.EncodedReviews) -> tuple[dict[str, Any], list[float]]:
    """Train the language model on the training split.

    Returns:
        The initial parameters of the classifier, and the losses of the language model in nats.
    """
    task, train = config.task, reviews.train
    rows, _ = data.grouped_split(train.labels, train.groups, task.data.validation, task.train.seed, train.hashes())
    sizes = reviews.vocabulary.size, task.model.embed, task.model.units, 1 + task.model.bidirectional
    return pretrain(train.select(rows).values, *sizes, config.pretrained, task.train.seed)


def _mean(epochs: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Return the mean over epochs of each parameter, computed in float64; `epochs` has the parameters of each epoch."""
    return {
        name: np.mean([params[name] for params in epochs], axis=0, dtype=np.float64).astype(array.dtype)
        for name, array in epochs[0].items()
    }


def spread(accuracies: Any, reviews: int) -> float:
    """Return half the width of the 95 % confidence interval of the mean accuracy over seeds.

    The variance is the sum of that of the draw of the reviews (binomial) and that of the mean over seeds.

    Args:
        accuracies: accuracy of each seed.
        reviews: number of test reviews.
    """
    mean = float(np.mean(accuracies))
    seeds = float(np.var(accuracies, ddof=1)) / len(accuracies) if len(accuracies) > 1 else 0.0
    return 1.96 * sqrt(mean * (1 - mean) / reviews + seeds)


def verdict(rows: study.Rows) -> str:
    """Return a line for each choice with its validation metrics, and one with the test accuracy of the recipe."""
    lines = []
    for row in (row for row in rows if not row["tested"]):
        lines.append(f"{row['choice']}: validation {row['accuracy']:.4f}, loss {row['loss']:.4f}, {row['seconds']:.0f} s")
    tested = [row for row in rows if row["tested"]]
    if tested:
        accuracies = [row["test_accuracy"] for row in tested]
        half = spread(accuracies, tested[0]["test_reviews"])
        by_seed = " ".join(f"{accuracy:.4f}" for accuracy in accuracies)
        mean, seconds = np.mean(accuracies), np.mean([row["seconds"] for row in tested])
        bounds = f"{mean - half:.4f} to {mean + half:.4f}"
        lines.append(f"the recipe on the test reviews: {mean:.4f} (95 %: {bounds}), seeds {by_seed}, {seconds:.0f} s each")
    return "\n".join(lines)


def draw(rows: study.Rows, path: Path) -> object:
    """Draw the validation accuracy of each choice, and the test accuracy of the recipe beside published test accuracies."""

    def fill(figure: Any) -> None:
        tested = [row["test_accuracy"] for row in rows if row["tested"]]
        points = [(row["choice"], row["accuracy"]) for row in rows if not row["tested"]]
        points += [(RECIPE, row["accuracy"]) for row in rows if row["tested"]][:1]
        axes = figure.subplots()
        for y, (_, value) in enumerate(points):
            axes.plot(value, y, "o", color="#0072B2")
            axes.annotate(f"{value:.4f}", (value, y), xytext=(6, 0), textcoords="offset points", va="center", fontsize=9)
        axes.margins(x=0.12)
        names = [name for name, _ in points]
        if tested:
            axes.plot(tested, [len(names)] * len(tested), "D", color="#D55E00")
            axes.annotate(
                f"{np.mean(tested):.4f}", (max(tested), len(names)), xytext=(6, 0), textcoords="offset points", va="center", fontsize=9
            )
            names.append("recipe, test")
        for name, value in REFERENCES.items():
            axes.axvline(value, color="#777777", linewidth=0.8, linestyle=":")
            axes.text(value, -0.7, name, rotation=45, fontsize=8, color="#555555", ha="left", va="bottom")
        axes.set_yticks(range(len(names)), names)
        axes.set_ylim(len(names) - 0.4, -0.6)
        axes.set_xlabel("accuracy")
        axes.grid(axis="y", visible=False)

    return write_figure(path, (9.0, 4.2), fill)


BASE = SentimentConfig(DataConfig(validation=0.15), SentimentModelConfig(), TrainConfig(epochs=3))
TOY = SentimentConfig(DataConfig("synthetic", maxlen=8, validation=0.2), SentimentModelConfig(embed=4, units=4), TrainConfig(epochs=1))
FULL = [config for config in choices(BASE) if config.choice != RECIPE] + recipe(BASE, SEEDS)
"""Configs of the preset full. The choice `RECIPE` is left out, since seed 0 of the recipe is the same training run, which gives the same
validation accuracy."""
STUDY = study.Study(
    "best",
    run,
    {"toy": [named(TOY, "weights averaged"), *recipe(TOY, 1)], "choices": choices(BASE), "full": FULL},
    draw,
    verdict,
)

if __name__ == "__main__":
    sys.exit(study.main(STUDY))
