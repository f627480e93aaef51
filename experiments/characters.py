"""Study of how well LSTMs predict the next character of tiny Shakespeare and of
newspaper articles.

    python -m experiments.characters --preset toy                     # seconds
    # an hour on two cores
    LSTM_JAX_DATA=... python -m experiments.characters --workers 1

The last tenth of each of the two texts is held out. All models read the text as a
stream and carry the state from chunk to chunk. Their metric is the loss of the held-out
text at the best epoch, with the state carried through this text. A recipe is a model
together with its training settings. The epoch and the recipe are chosen on the held-out
text itself. The published results with which the study compares its own were obtained
in the same way.

- Tiny Shakespeare, with the split of nanoGPT: the first 90 % of the characters are used
  for training, and the last 10 % are held out. The recipe is the preset "shakespeare"
  of `lstm-jax train generation`, with three seeds. The loss is given in nats per
  character.
- Articles, cleaned as in the Keras example lstm_text_generation. One recipe has the
  87,201 parameters of this example, and is trained with three seeds. Three recipes have
  at most ten times as many parameters: one layer, two layers, and two layers with
  shorter chunks. These three are compared with one seed. The recipe with shorter chunks
  is trained with two more seeds. The loss is given in bits per character.

Expected: On tiny Shakespeare, the LSTM is better than the 1.4697 nats of nanoGPT, which
has five times as many parameters. On the articles, ten times as many parameters gain at
most 0.05 bits, because the text has only 870,000 characters.
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from math import log
from time import perf_counter

import numpy as np

from bench import groups
from experiments import runs
from experiments.study import GREY, SHADES, Metrics, Rows, Study, main, rows_with
from lstm_jax.lab import sweep
from lstm_jax.lab.generation.config import (
    PRESETS,
    GenerationConfig,
    GenerationModelConfig,
    SampleConfig,
    TextConfig,
)
from lstm_jax.lab.inspection.figures import BLUE, GREEN, ORANGE, PINK, YELLOW
from lstm_jax.training.config import TrainConfig


@dataclass(frozen=True)
class Config:
    """Config of one training run: the name of a recipe in `RECIPES`, and the config of
    this recipe with the seed of the run.
    """

    recipe: str = ""
    """Name of the recipe, a key of `RECIPES`."""
    task: GenerationConfig = field(default_factory=GenerationConfig)


SHAKESPEARE = "tiny Shakespeare"
"""Name of the only recipe for tiny Shakespeare. All other recipes are for the articles.
"""
NO_SAMPLES = SampleConfig(sample_chars=0)
SMALL = GenerationConfig(
    TextConfig(data=(runs.ARTICLES,), regime="stream", length=50, unseen="error"),
    GenerationModelConfig(units=128, recurrent_dropout=0.1),
    TrainConfig(epochs=120, learning_rate=5e-3, schedule="cosine", clip_norm=1.0),
    NO_SAMPLES,
)
LARGE = sweep.override(
    SMALL,
    {
        "data.length": 100,
        "model.dropout": 0.2,
        "train.epochs": 30,
        "train.learning_rate": 3e-3,
    },
)
ONE_LAYER = {"model.units": 446, "model.recurrent_dropout": 0.3}
TWO_LAYERS = {"model.units": 262, "model.layers": 2, "model.recurrent_dropout": 0.25}
RECIPES: dict[str, tuple[GenerationConfig, int]] = {
    SHAKESPEARE: (
        sweep.override(
            PRESETS["shakespeare"],
            {"data.data": (runs.SHAKESPEARE,), "sample.sample_chars": 0},
        ),
        3,
    ),
    "articles, 128 units": (SMALL, 3),
    "articles, 446 units": (sweep.override(LARGE, ONE_LAYER), 1),
    "articles, 2 x 262 units": (sweep.override(LARGE, TWO_LAYERS), 1),
    "articles, 2 x 262 units, chunks of 50": (
        sweep.override(LARGE, TWO_LAYERS | {"data.length": 50}),
        3,
    ),
}
"""Dict from the name of each recipe to a pair (config, number of seeds)."""
REFERENCES = {
    "nanoGPT": 1.4697,
    "Transformer": 1.547,
    "minGRU": 1.548,
    "minLSTM": 1.555,
    "Mamba": 1.575,
}
"""Published losses on tiny Shakespeare, in nats per character. The loss of nanoGPT is
that of the model with 10.65 million parameters in nanoGPT's README. The other losses
are from Feng et al. 2024."""


def configs(recipes: dict[str, tuple[GenerationConfig, int]]) -> list[Config]:
    """Return the configs of all runs: each recipe with the seeds 0 to n - 1, where n is
    its number of seeds.
    """
    return [
        sweep.override(Config(name, task), {"task.train.seed": seed})
        for name, (task, seeds) in recipes.items()
        for seed in range(seeds)
    ]


def run(config: Config) -> Metrics:
    """Train the model of a config, and return its metrics."""
    began = perf_counter()
    return runs.generation(config.task) | {"seconds": perf_counter() - began}


def nats(bits: float) -> float:
    """Convert a loss in bits per character to nats per character."""
    return bits * log(2)


def verdict(rows: Rows) -> Iterator[str]:
    """Return the conclusion of the study."""
    for (name,), own in groups(rows, ["recipe"]).items():
        unit, loss = ("nats", nats) if name == SHAKESPEARE else ("bits", float)
        losses = [loss(row["bits"]) for row in own]
        minutes = np.mean([row["seconds"] for row in own]) / 60
        by_seed = ", ".join(f"{value:.4f}" for value in losses)
        yield (
            f"{name}: {np.mean(losses):.4f} {unit} ({by_seed}), "
            f"{own[0]['parameters']:,} parameters, {minutes:.1f} minutes a run"
        )


def draw(rows: Rows, figure) -> None:
    """Draw the loss of the held-out text at each epoch in two panels, with one line for
    each run.
    """
    left, right = figure.subplots(1, 2)
    ours = rows_with(rows, "recipe", SHAKESPEARE)
    for row in ours:
        losses = [nats(bits) for bits in row["by_epoch"]]
        label = None if row["task.train.seed"] else "LSTM, each seed"
        left.plot(
            range(2, len(losses) + 1),
            losses[1:],
            "o-",
            color=BLUE,
            markersize=3,
            label=label,
        )
    for ink, (name, loss) in zip(
        (ORANGE, GREY, GREEN, PINK, YELLOW), REFERENCES.items(), strict=True
    ):
        left.axhline(
            loss,
            color=ink,
            linestyle="--",
            linewidth=1.5,
            label=f"{name}, {loss:g} published",
        )
    left.set(
        xlabel="epoch (from 2)",
        ylabel="held-out nats per character",
        title="tiny Shakespeare",
    )
    articles = groups([row for row in rows if row["recipe"] != SHAKESPEARE], ["recipe"])
    for ink, ((name,), own) in zip(SHADES, articles.items(), strict=False):
        for row in own:
            bits = row["by_epoch"]
            label = None if row["task.train.seed"] else name.removeprefix("articles, ")
            right.plot(
                np.arange(1, len(bits) + 1) / len(bits),
                bits,
                color=ink,
                linewidth=1.2,
                label=label,
            )
    right.set(
        xlabel="fraction of the training",
        ylabel="held-out bits per character",
        title="articles",
    )
    right.set_ylim(top=1.3 * rows[0]["bits"])
    for axes in (left, right):
        axes.legend(fontsize=9)


def small(config: GenerationConfig) -> GenerationConfig:
    """Return a copy of a config for a short training: four units, two epochs and chunks
    of half the length.
    """
    data = TextConfig(regime="stream", length=config.data.length // 2)
    return replace(
        config,
        data=data,
        model=replace(config.model, units=4, embed=0),
        train=replace(config.train, epochs=2, batch_size=256),
    )


TOY = configs({name: (small(task), 1) for name, (task, _) in RECIPES.items()})
STUDY = Study(
    "characters",
    run,
    {"toy": TOY, "full": configs(RECIPES)},
    draw,
    (11.0, 4.5),
    verdict,
)

if __name__ == "__main__":
    sys.exit(main(STUDY))
