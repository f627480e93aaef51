"""Study of the best IMDB test accuracy that an LSTM reaches when it is trained on the
25,000 labelled reviews and no other text.

    # scikit-learn, for NBSVM
    pip install ".[experiments]"
    python -m experiments.best --preset toy                         # seconds
    # all choices, without a test; hours
    LSTM_JAX_DATA=... python -m experiments.best --preset choices
    # all choices, and tests of three recipes with five seeds; more hours
    LSTM_JAX_DATA=... python -m experiments.best

The study compares several models, called choices. The first choice is the unchanged
Keras example imdb_lstm. Each further choice is an earlier choice with a few changes to
the model or the training; see the table `CHOICES`. All choices are evaluated on a
validation split of 15 % of the training reviews. The models are trained on the
remaining reviews, which are about other movies.

The choice "adversarial" is called the recipe, and the choice "256 units" the wider
recipe. Only these two are evaluated on the test reviews. The recipe is trained with
several seeds. Each run uses the weights of the epoch with the lowest validation loss.
There are three main results:

- Recipe: the mean accuracy over the seeds.
- Recipe and NBSVM: the logits of the recipe are mixed with those of an NBSVM classifier
  of n-grams (`experiments.nbsvm`). The proportion of the mixture is the one with the
  lowest validation loss.
- Ensembles: the accuracy of the mean logits over all seeds, once for the recipe and
  once for its mixture with NBSVM.

The wider recipe has only the first two results. It is also trained on all 25,000
reviews, without a validation split (`ALL_REVIEWS`). These runs have all three results.
In `lstm-jax train sentiment`, the wider recipe is the preset "best" with `--dtype
bfloat16`.

Expected: a test accuracy of at least 0.92 (the wider recipe has it). Published test
accuracies of models trained on the labelled reviews only are .84 to .85 (Keras
example), .865 (tuned LSTM, Dai & Le 2015), .906 (fastText with bigrams), .912 (NBSVM),
.919 (one-hot LSTM with pooling, Johnson & Zhang 2016) and .923 (CNN with an
NBSVM-weighted bag of n-grams, Johnson & Zhang 2015).

Durations: On two cores of 130 GFLOP/s, a run of the recipe took 29 to 32 minutes, of
which its language model took 16 to 18. On one core of 245 GFLOP/s in float32, with
products in bfloat16, a run with 256 units on all reviews took 27 to 30 minutes.
"""

import base64
import sys
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from math import sqrt
from time import perf_counter

import jax
import numpy as np

from bench import groups
from experiments import nbsvm, runs
from experiments.study import Mean, Metrics, Rows, Study, main, rows_with
from lstm_jax.lab import sweep
from lstm_jax.lab.inspection.figures import BLUE, LIGHT, ORANGE
from lstm_jax.lab.sentiment import data
from lstm_jax.lab.sentiment.config import (
    DataConfig,
    SentimentConfig,
    SentimentModelConfig,
)
from lstm_jax.training.config import ADDED, TrainConfig


@dataclass(frozen=True)
class Config:
    """Config of one run, which trains and evaluates one of the models that the study
    compares. These models are called choices.
    """

    choice: str = ""
    """Name of the choice, such as "400 words", or of the group of runs that test a
    choice, such as "recipe"."""
    tested: bool = False
    """Whether the trained model is evaluated on the test reviews."""
    averaged: int = 0
    """Number of epochs, at the end of training, whose weights are averaged. If 0, the
    weights of the best epoch are used, or those of the last epoch if there is no
    validation split."""
    share: float = field(default=0.0, metadata=ADDED)
    """Weight of the model's logits in the mixture with NBSVM, for a run without a
    validation split."""
    margins: bool = field(default=True, metadata=ADDED)
    """Whether the results contain margins of the test reviews, which the ensembles
    need. Margins are signed logits (`encode_margins`)."""
    task: SentimentConfig = field(default_factory=SentimentConfig)


SOURCE, ALL_REVIEWS = "the source", "256 units, all reviews"
"""Two names in the result file: of the first choice (the unchanged Keras example
imdb_lstm), and of the runs on all reviews."""
CHOICES: dict[str, tuple[str, Metrics]] = {
    "400 words": (SOURCE, {"task.data.maxlen": 400}),
    "pooled over time": ("400 words", {"task.model.pooling": "mean+max"}),
    "both directions": ("pooled over time", {"task.model.bidirectional": True}),
    "words dropped": ("both directions", {"task.model.word_dropout": 0.3}),
    "weights dropped": ("words dropped", {"task.model.weight_drop": 0.3}),
    "weights averaged": ("words dropped", {"task.train.epochs": 5, "averaged": 3}),
    "falling learning rate": (
        "words dropped",
        {"task.train.schedule": "cosine", "task.train.epochs": 5},
    ),
    "512 words, packed": (
        "both directions",
        {
            "task.data.packed": 512,
            "task.train.batch_size": 16,
            "task.train.schedule": "cosine",
            "task.model.recurrent_dropout": 0.0,
        },
    ),
    "half dropped": (
        "512 words, packed",
        {"task.model.dropout": 0.5, "task.model.head_dropout": 0.5},
    ),
    "language model first": ("half dropped", {"task.pretraining.lm_epochs": 6}),
    "adversarial": (
        "language model first",
        {
            "task.model.adversarial": 2.0,
            "task.model.dropout": 0.3,
            "task.train.learning_rate": 2e-3,
        },
    ),
    "256 units": (
        "adversarial",
        {"task.model.units": 256, "task.model.dtype": "bfloat16"},
    ),
}
"""Dict from the name of each choice after the first to a pair (name of the earlier
choice that it changes, changes). The changes are a dict from fields of `Config` to
their new values."""
RECIPE, WIDE = "adversarial", "256 units"
SUFFIXES = {
    "recipe": "",
    "recipe, 256 units": " (256 units)",
    ALL_REVIEWS: " (all reviews)",
}
"""Dict from the name of each group of tested runs to a suffix, which follows the names
of the group's models in the conclusion."""
SEEDS = 5
SHARE = 0.5
"""Weight of the model's logits in the mixture with NBSVM, in the runs on all reviews.
The weight was chosen in runs of the choice `WIDE` with a validation split: with the
weights of the last epoch, it gave the lowest validation loss (see `LOG.md`)."""
GROUPS: dict[str, tuple[str, Metrics]] = {
    "recipe": (RECIPE, {}),
    # the margins of all groups would make the file larger than 1 MiB
    "recipe, 256 units": (WIDE, {"margins": False}),
    ALL_REVIEWS: (WIDE, {"share": SHARE, "task.data.validation": 0.0}),
}
"""Dict from the name of each group of tested runs to a pair (name of the choice that it
trains, changes)."""
ORDER = 3
"""Largest n of the n-grams of the NBSVM classifier."""
REFERENCES = {
    "Keras' example": 0.845,
    "tuned LSTM": 0.865,
    "fastText, bigrams": 0.906,
    "NBSVM": 0.912,
    "oh-2LSTMp": 0.919,
    "NBSVM-weighted CNN": 0.9233,
}


def choices(base: SentimentConfig) -> dict[str, Config]:
    """Return the configs of all choices, which are the models that the study compares,
    by their names.
    """
    configs = {SOURCE: Config(SOURCE, task=base)}
    for name, (before, changes) in CHOICES.items():
        configs[name] = sweep.override(configs[before], {"choice": name} | changes)
    return configs


def tested(base: SentimentConfig, group: str, seeds: int) -> list[Config]:
    """Return the configs of a group of runs that are evaluated on the test reviews, one
    config for each seed.
    """
    choice, changes = GROUPS[group]
    config = sweep.override(
        choices(base)[choice], {"choice": group, "tested": True} | changes
    )
    return sweep.grid(config, **{"task.train.seed": range(seeds)})


def run(config: Config) -> Metrics:
    """Train the model of a config, and return its metrics."""
    from lstm_jax.base.sharding import make_mesh
    from lstm_jax.lab.sentiment import task as sentiment
    from lstm_jax.lab.sentiment.metrics import binary_metrics
    from lstm_jax.training.parts import functional

    task, epochs, start = config.task, [], perf_counter()
    callbacks = (
        [lambda record: epochs.append(jax.tree.map(np.array, record.params))]
        if config.averaged
        else []
    )
    reviews, result = runs.train_sentiment(
        task, lambda reviews: replace(reviews, test=None), callbacks
    )
    params = (
        jax.tree.map(_mean, *epochs[-config.averaged :])
        if config.averaged
        else result.params
    )
    logits = sentiment.logits_of(
        functional(sentiment.make_model(task, reviews.vocabulary.size)).rebuild,
        make_mesh(task.train.devices),
    )

    def score(rows):
        metrics = binary_metrics(logits(params, rows), rows.targets)
        return {name: getattr(metrics, name) for name in ("accuracy", "loss", "ece")}

    held_out = sentiment.padded_rows(reviews, task).validation
    metrics: Metrics = score(held_out) if held_out else {}
    metrics["best_epoch"] = result.best_epoch
    metrics["by_epoch"] = (
        [row["validation_accuracy"] for row in result.rows] if held_out else []
    )
    metrics |= {
        "seconds": perf_counter() - start,
        "parameters": sum(a.size for a in result.params.values()),
    }
    if config.tested:
        whole = runs.reviews_of(task)
        rows = sentiment.padded_rows(whole, task).test
        assert rows is not None
        metrics |= {f"test_{name}": value for name, value in score(rows).items()} | {
            "test_reviews": len(rows.targets)
        }
        by_part = {"test_": logits(params, rows)} | (
            {"": logits(params, held_out)} if held_out else {}
        )
        metrics |= _with_grams(whole, config, by_part)
    return metrics


def _with_grams(
    reviews: data.EncodedReviews, config: Config, logits: dict[str, np.ndarray]
) -> Metrics:
    """Train an NBSVM classifier, mix its logits with those of a model, and return the
    accuracies of the classifier and of the mixture.
    """
    from lstm_jax.lab.sentiment.rows import split_reviews

    train, held_out = split_reviews(reviews, config.task)
    logits_of = nbsvm.train(train, ORDER)
    parts: Metrics = {
        name: part
        for name, part in (("", held_out), ("test_", reviews.test))
        if name in logits
    }
    own = {name: logits_of(part) for name, part in parts.items()}
    share = (
        nbsvm.best_share((logits[""], own[""]), held_out.labels)
        if held_out
        else config.share
    )
    mixed = {name: share * logits[name] + (1 - share) * own[name] for name in parts}
    metrics: Metrics = {"share": share}
    if config.margins:
        for kind, found in (("", logits), ("mixed_", mixed)):
            metrics[f"test_{kind}margins"] = encode_margins(
                found["test_"], parts["test_"].labels
            )
    for name, part in parts.items():
        for kind, found in (("nbsvm", own[name]), ("mixed", mixed[name])):
            metrics[f"{name}{kind}_accuracy"] = float(
                ((found > 0) == (part.labels == 1)).mean()
            )
    return metrics


def encode_margins(logits: np.ndarray, labels: np.ndarray) -> str:
    """Encode the margins of N reviews as a text for the result file: base64 of N
    float16 numbers that zlib has compressed.
    """
    return base64.b64encode(
        zlib.compress(np.where(labels == 1, logits, -logits).astype("<f2").tobytes(), 9)
    ).decode()


def ensemble_accuracy(texts: Iterable[str]) -> float:
    """Return the accuracy of an ensemble of models. The logit of the ensemble is the
    mean of the logits of the models.
    """
    margins = [
        np.frombuffer(zlib.decompress(base64.b64decode(text)), "<f2").astype(np.float32)
        for text in texts
    ]
    return float((np.mean(margins, axis=0) > 0).mean())


def _mean(*arrays: np.ndarray) -> np.ndarray:
    return np.mean(arrays, axis=0, dtype=np.float64).astype(arrays[0].dtype)


def spread(accuracies, reviews: int) -> Mean:
    """Return the mean test accuracy over seeds with its 95 % confidence interval, which
    reflects the sample of reviews, too.
    """
    from scipy import stats

    mean, count = float(np.mean(accuracies)), len(accuracies)
    seeds = float(np.var(accuracies, ddof=1)) / count if count > 1 else 0.0
    total = mean * (1 - mean) / reviews + seeds
    half = float(
        stats.t.ppf(0.975, (count - 1) * (total / seeds) ** 2 if seeds else np.inf)
    ) * sqrt(total)
    return Mean(mean, mean - half, mean + half)


TESTED = {
    "recipe": "test_accuracy",
    "NBSVM": "test_nbsvm_accuracy",
    "recipe and NBSVM": "test_mixed_accuracy",
}
"""Dict from the name of each model that is evaluated on the test reviews to the name of
its accuracy in the results of a run."""
ENSEMBLES = {
    "ensemble of the seeds": "test_margins",
    "ensemble and NBSVM": "test_mixed_margins",
}
"""Dict from the name of each ensemble of all seeds to the name of the margins in the
results of a run."""


def verdict(rows: Rows) -> Iterator[str]:
    """Return the conclusion of the study."""
    for row in rows_with(rows, "tested", False):
        yield (
            f"{row['choice']}: validation {row['accuracy']:.4f}, loss "
            f"{row['loss']:.4f}, {row['seconds']:.0f} s"
        )
    for suffix, tested in _tested(rows).items():
        for name, values in _accuracies(tested).items():
            by_seed = (
                f", seeds {' '.join(f'{value:.4f}' for value in values)}"
                if len(values) > 1
                else ""
            )
            yield (
                f"{name}{suffix} on the test reviews: "
                f"{spread(values, tested[0]['test_reviews']):.4f}{by_seed}"
            )
        validated = (
            " ".join(f"{row['accuracy']:.4f}" for row in tested if "accuracy" in row)
            or "none"
        )
        yield (
            f"the recipe's seeds{suffix}: validation {validated}, "
            f"{np.mean([row['seconds'] for row in tested]):.0f} s each"
        )


def _tested(rows: Rows) -> dict[str, Rows]:
    found = groups(rows_with(rows, "tested", True), ["choice"])
    return {
        suffix: found[name,] for name, suffix in SUFFIXES.items() if (name,) in found
    }


def _accuracies(tested: Rows) -> dict[str, list[float]]:
    found = {name: [row[metric] for row in tested] for name, metric in TESTED.items()}
    ensembles = (
        ENSEMBLES
        if len(tested) > 1 and all("test_margins" in row for row in tested)
        else {}
    )
    return found | {
        name: [ensemble_accuracy(row[key] for row in tested)]
        for name, key in ensembles.items()
    }


def draw(rows: Rows, figure) -> None:
    """Draw the accuracies of the study and published test accuracies as points, one row
    for each model.
    """
    ours = {
        f"{name}{suffix}": values
        for suffix, tested in _tested(rows).items()
        for name, values in _accuracies(tested).items()
    }
    axes = figure.subplots()
    for label, mark, ink, points in (
        (
            "on the validation part",
            "o",
            LIGHT,
            {
                row["choice"]: [row["accuracy"]]
                for row in rows_with(rows, "tested", False)
            },
        ),
        ("on the test reviews, each seed", "D", BLUE, ours),
        (
            "on the test reviews, published",
            "s",
            ORANGE,
            {f"{name}, published": [value] for name, value in REFERENCES.items()},
        ),
    ):
        heights = [name for name, values in points.items() for _ in values]
        axes.plot(
            [value for values in points.values() for value in values],
            heights,
            mark,
            color=ink,
            label=label,
        )
        for name, values in points.items():
            axes.annotate(
                f"{np.mean(values):.4f}",
                (max(values), name),
                (6, 0),
                textcoords="offset points",
                va="center",
                fontsize=9,
            )
    axes.margins(x=0.12)
    axes.invert_yaxis()
    axes.set_xlabel("accuracy (number: mean of the seeds)")
    axes.legend(loc="lower left")


BASE = SentimentConfig(
    DataConfig(validation=0.15), SentimentModelConfig(), TrainConfig(epochs=3)
)
TOY = sweep.override(runs.SMALL_SENTIMENT, {"data.validation": 0.2})
TESTS = [config for group in GROUPS for config in tested(BASE, group, SEEDS)]
FULL = [
    config for name, config in choices(BASE).items() if name not in (RECIPE, WIDE)
] + TESTS
"""Configs of the preset "full": all choices except `RECIPE` and `WIDE`, and `TESTS`.
The runs of `TESTS` with seed 0 include the training and the validation of `RECIPE` and
`WIDE`, so these two choices need no runs of their own."""
TOYS = [
    choices(TOY)["weights averaged"],
    *tested(TOY, "recipe", 2),
    *tested(TOY, ALL_REVIEWS, 1),
]
STUDY = Study(
    "best",
    run,
    {"toy": TOYS, "choices": list(choices(BASE).values()), "full": FULL},
    draw,
    (9.0, 8.6),
    verdict,
    needs="sklearn",
    ending=".jsonl.gz",
)

if __name__ == "__main__":
    sys.exit(main(STUDY))
