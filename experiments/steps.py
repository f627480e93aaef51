"""Study of whether a smaller step between text windows acts like a lower learning rate,
and a longer window like a larger batch.

    python -m experiments.steps --preset toy                    # seconds
    # only the long trainings; an hour or two
    LSTM_JAX_DATA=... python -m experiments.steps --preset converged --workers 2
    # everything; two or three hours
    LSTM_JAX_DATA=... python -m experiments.steps --workers 2

For text generation, windows of a given length are cut from a text. The step is the
number of characters from the start of one window to the start of the next. Here "step"
always has this meaning; a change of the parameters is called an update. The study tests
this claim about the step and the length: "smaller number is similar to lowering the
learning rate; increasing the length of the sequence is similar to train with larger
batch size". The "number" in this quotation is the step. An LSTM with 64 units is
trained with Adam on newspaper articles, with two seeds unless stated otherwise. The
last tenth of the text is held out. There are three grids:

- steps: The windows have 40 characters and start every 1, 2, 5, 10 or 20 characters.
  The model is trained for 1, 2, 5, 10 or 20 epochs respectively, so that all runs make
  the same number of updates. The batch size is 128, and there is a run for each step
  and each of three learning rates. After the first epoch, every run has read the whole
  text once, but the runs have made different numbers of updates.
- lengths: The windows have 10, 20, 40 or 80 characters and start every 5 characters.
  There is a run for each length and each of the batch sizes 32, 64, 128 and 256. With
  these batch sizes, the model is trained for 1, 2, 4 and 8 epochs respectively, so that
  all runs make the same number of updates.
- converged: The windows start every 1, 5 or 20 characters. There are two initial
  learning rates, which fall to 0 on a cosine schedule, and three seeds. The runs make
  eight times as many updates as those of the grid "steps". The metric is the bits per
  character at the best epoch instead of the last one, since a model that sees few
  windows many times overfits.

If a smaller step acted like a lower learning rate, then at equal numbers of updates a
small step with a high learning rate would give the same result as a large step with a
low learning rate.

Expected: All comparisons are at equal numbers of updates. At the same learning rate,
the results for steps of 1 to 10 differ by at most 0.02 bits per character. At the
highest learning rate, a step of 20 gives 0.1 bits more than these steps. The lowest and
the highest learning rate differ by 0.6 bits. Lengths of 10 and 80 differ by at most
0.05 bits, and batch sizes of 32 and 256 differ by 0.24 bits (see `LOG.md`).
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from experiments import runs
from experiments.study import (
    SHADES,
    Metrics,
    Rows,
    Study,
    flat,
    lines,
    main,
    plot_means,
    rows_with,
)
from lstm_jax.lab import sweep
from lstm_jax.lab.generation.config import (
    GenerationConfig,
    GenerationModelConfig,
    SampleConfig,
    TextConfig,
)
from lstm_jax.lab.inspection.figures import log_axis
from lstm_jax.training.config import TrainConfig

STEPS, RATES, SEEDS = (1, 2, 5, 10, 20), (3e-4, 1e-3, 3e-3), 2
LENGTHS, BATCHES = (10, 20, 40, 80), (32, 64, 128, 256)
LONG_STEPS, LONG_RATES, LONG_SEEDS, LONGER = (1, 5, 20), (1e-3, 3e-3), 3, 8
"""Settings of the grid "converged": steps, learning rates, number of seeds, and number
of epochs at the smallest step.

At this step, the runs of the grid "steps" have one epoch. The last number is therefore
also the ratio of the numbers of updates of the two grids."""
BASE = GenerationConfig(
    TextConfig(data=(runs.ARTICLES,), unseen="error"),
    GenerationModelConfig(units=64),
    TrainConfig(batch_size=128),
    SampleConfig(sample_chars=0),
)
Part = Literal["steps", "lengths", "converged"]


@dataclass(frozen=True)
class Config:
    """Config of one training run, which belongs to one of three grids of configs.

    The grids "steps" and "converged" vary the learning rate and the step, which is the
    number of characters from the start of one window of text to the start of the next.
    The grid "lengths" varies the window length and the batch size.
    """

    part: Part = "steps"
    task: GenerationConfig = field(default_factory=GenerationConfig)


STEP, RATE, LENGTH, BATCH = (
    "task.data.step",
    "task.train.learning_rate",
    "task.data.length",
    "task.train.batch_size",
)


def configs(
    part: Part,
    base: GenerationConfig,
    seeds: int,
    axes: Mapping[str, Sequence[Any]],
    longer: int = 1,
) -> list[Config]:
    """Return the configs of a grid.

    The number of epochs is proportional to the values of the first axis. At the
    smallest value it is `longer`.
    """
    field, values = next(iter(axes.items()))
    found = []
    for value in values:
        config = sweep.override(
            Config(part, base), {"task.train.epochs": longer * value // min(values)}
        )
        found += sweep.grid(
            config, **{**axes, field: (value,), "task.train.seed": range(seeds)}
        )
    return found


def run(config: Config) -> Metrics:
    """Train the model of a config, and return its metrics, such as the bits per
    character of the held-out text at each epoch.
    """
    return runs.generation(config.task)


LINES = (
    (
        "steps",
        (STEP, RATE),
        "step {}, rate {:g}: {last_bits.mean:.3f} bits at equal updates, "
        "{first.mean:.3f} after one pass",
    ),
    (
        "lengths",
        (LENGTH, BATCH),
        "length {}, batch {}: {last_bits.mean:.3f} bits at equal updates",
    ),
    (
        "converged",
        (STEP, RATE),
        "long, step {}, rate {:g}: {bits.mean:.3f} bits at the best epoch",
    ),
)
"""Grids, each with its two varied settings and a line of the conclusion."""
INKS = {
    str(value): {"color": ink}
    for values in (RATES, LENGTHS)
    for value, ink in zip(values, SHADES, strict=False)
}


def with_first(rows: Rows) -> Rows:
    """Return the rows with the bits per character after the first epoch as another
    metric.
    """
    return [
        flat(row["config"], row["result"] | {"first": row["by_epoch"][0]})
        for row in rows
    ]


def verdict(rows: Rows) -> list[str]:
    """Return the conclusion of the study."""
    return [
        line
        for part, names, text in LINES
        for line in lines(rows_with(with_first(rows), "part", part), names, text)
    ]


def draw(rows: Rows, figure) -> None:
    """Draw the bits per character of the held-out text in four panels. A panel without
    results is hidden.
    """
    updates, characters, lengths, converged = figure.subplots(2, 2).ravel()
    for axes, part, x, hue, metric, xlabel, title in (
        (
            updates,
            "steps",
            STEP,
            RATE,
            "last_bits",
            "characters from window to window",
            "equal updates",
        ),
        (
            characters,
            "steps",
            STEP,
            RATE,
            "first",
            "characters from window to window",
            "one pass over the text",
        ),
        (
            converged,
            "converged",
            STEP,
            RATE,
            "bits",
            "characters from window to window",
            f"{LONGER} times the updates, best epoch",
        ),
        (
            lengths,
            "lengths",
            BATCH,
            LENGTH,
            "last_bits",
            "examples in a batch",
            "equal updates, by length",
        ),
    ):
        selected = rows_with(with_first(rows), "part", part)
        plot_means(axes, selected, metric, x, hue, INKS)
        log_axis(axes, "x", sorted({row[x] for row in selected}))
        axes.set(
            xlabel=xlabel,
            ylabel="held-out bits a character",
            title=title,
            visible=bool(selected),
        )
    figure.legend(
        *characters.get_legend_handles_labels(),
        title="learning rate",
        loc="outside upper center",
        ncols=3,
    )
    lengths.legend(title="characters in a window")


SMALL = replace(runs.SMALL_GENERATION, train=TrainConfig(batch_size=8))
TOY = [
    *configs("steps", SMALL, 1, {STEP: (900, 1800)}),
    *configs("lengths", SMALL, 1, {BATCH: (8, 16), LENGTH: (10,)}),
    *configs("converged", SMALL, 1, {STEP: (900,)}, 2),
]
SHORT = configs("steps", BASE, SEEDS, {STEP: STEPS, RATE: RATES}) + configs(
    "lengths", BASE, SEEDS, {BATCH: BATCHES, LENGTH: LENGTHS}
)
FALLING = sweep.override(BASE, {"train.schedule": "cosine"})
LONG = configs(
    "converged", FALLING, LONG_SEEDS, {STEP: LONG_STEPS, RATE: LONG_RATES}, LONGER
)
STUDY = Study(
    "steps",
    run,
    {"toy": TOY, "converged": LONG, "full": SHORT + LONG},
    draw,
    (10.5, 8.0),
    verdict,
)

if __name__ == "__main__":
    sys.exit(main(STUDY))
