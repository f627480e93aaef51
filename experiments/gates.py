"""Ablation study of the LSTM cell: variants with a gate or an activation removed or
changed (Greff et al. 2017), and other recurrent cells.

    python -m experiments.gates --preset toy                    # seconds
    # only the time measurement (see below); a minute on idle cores
    python -m experiments.gates --preset cost
    # only the long trainings on characters; an hour or two
    LSTM_JAX_DATA=... python -m experiments.gates --preset converged
    # everything; two hours or more
    LSTM_JAX_DATA=... python -m experiments.gates --workers 2

The recurrent layer of each variant has about as many parameters as an LSTM with 64
units, but not more (see `experiments.equal`). Each training is repeated with three
seeds, unless another number is given below. There are four measurements:

- Sentiment: Each variant is trained on 80 words of each IMDB review for two epochs. The
  embedding has 64 features, and the rates of input and recurrent dropout are 0.2. A
  validation split of 15 % of the training reviews is held out; no movie is in both
  splits.
- Characters: Each variant is trained on newspaper articles for three epochs. The
  windows have 40 characters and start every 5 characters. The batch size is 128. The
  last tenth of the text is held out. After three epochs the bits per character still
  fall fast.
- Converged: Each variant is trained on the same text for 30 epochs, with five seeds.
  The text is read as a stream in windows of 64 characters, and the learning rate falls
  from 0.005 to 0 on a cosine schedule. The metric is the bits per character of the
  held-out text at the best epoch.
- Time: The forward and backward pass of each variant is timed at the sizes of the
  sentiment task, with the backend `reference`. All variants take turns in one process,
  so changes in the speed of the machine do not affect the ratios of their times.

Expected: According to the paper, the accuracy falls if the forget gate or the output
activation is removed, and hardly changes for the other variants. If one of the gates i,
f and o is removed, a pass takes about a quarter less time. Only the expectation for the
forget gate was confirmed, see `LOG.md`.
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from timeit import timeit
from typing import Any

import jax
import numpy as np

from experiments import runs, scaling
from experiments.equal import equal_units
from experiments.study import (
    GREY,
    Mean,
    Metrics,
    Rows,
    Study,
    flat,
    main,
    means,
    rows_with,
)
from lstm_jax import unroll
from lstm_jax.cells import CELLS
from lstm_jax.lab.generation.config import (
    GenerationConfig,
    GenerationModelConfig,
    SampleConfig,
    TextConfig,
)
from lstm_jax.lab.inspection.figures import BLUE, INK, ORANGE
from lstm_jax.lab.sentiment.config import (
    DataConfig,
    SentimentConfig,
    SentimentModelConfig,
)
from lstm_jax.lab.sweep import stats
from lstm_jax.training.config import TrainConfig

VARIANTS = (
    "lstm",
    "lstm_no_input_gate",
    "lstm_no_forget_gate",
    "lstm_no_output_gate",
    "lstm_no_input_activation",
    "lstm_no_output_activation",
    "lstm_coupled",
    "lstm_peephole",
    "lstm_full_gate_recurrence",
    "lstm_layernorm",
    "gru",
    "simple_rnn",
)
UNITS, SEEDS, CONVERGED_SEEDS, CHARACTERS = 64, 3, 5, 33
SENTIMENT = SentimentConfig(
    DataConfig(validation=0.15),
    SentimentModelConfig(embed=64, units=UNITS),
    TrainConfig(epochs=2),
)
GENERATION = GenerationConfig(
    TextConfig(data=(runs.ARTICLES,), unseen="error"),
    GenerationModelConfig(units=UNITS),
    TrainConfig(epochs=3, batch_size=128),
    SampleConfig(sample_chars=0),
)
CONVERGED = scaling.CHARACTERS
"""Config of the long trainings: that of the character task in the study `scaling`, with
64 units."""


@dataclass(frozen=True)
class Cost:
    """Config of the run that measures the time of each recurrent cell."""

    batch: int = 32
    length: int = 80
    features: int = 64
    units: int = UNITS
    """Hidden size of the LSTM. Each other cell has the largest hidden size at which it
    has no more parameters than this LSTM."""
    passes: int = 10
    """Number of forward and backward passes in a block. The mean time of a pass in a
    block is one sample."""
    blocks: int = 30
    """Number of timed blocks of each cell."""
    cells: tuple[str, ...] = VARIANTS


def variant(config, cell: str, seed: int) -> Any:
    """Return a copy of a task config with another recurrent cell, another seed, and a
    hidden size that fits the new cell.
    """
    units = equal_units(cell, config.model.embed or CHARACTERS, config.model.units)
    return replace(
        config,
        model=replace(config.model, cell=cell, units=units),
        train=replace(config.train, seed=seed),
    )


def measured(config: Cost) -> Metrics:
    """Time the forward and backward pass of each recurrent cell."""
    x = jax.random.normal(
        jax.random.key(0), (config.batch, config.length, config.features)
    )
    calls = {}
    for name in config.cells:
        cell = CELLS[name]
        params = cell.init(
            jax.random.key(1),
            config.features,
            equal_units(name, config.features, config.units),
        )

        def loss(params, x, cell=cell):
            return (unroll(cell, params, x, backend="reference")[0] ** 2).mean()

        calls[name] = partial(jax.jit(jax.grad(loss, (0, 1))), params, x)
        jax.block_until_ready(calls[name]())
    samples = {name: [] for name in config.cells}
    for _ in range(config.blocks):
        for name, call in calls.items():
            seconds = timeit(
                lambda call=call: jax.block_until_ready(call()), number=config.passes
            )
            samples[name].append(1000 * seconds / config.passes)
    return {"task": "cost", "milliseconds": samples}


def run(config: SentimentConfig | GenerationConfig | Cost) -> Metrics:
    """Run one measurement of the study, and return its metrics."""
    if isinstance(config, Cost):
        return measured(config)
    if isinstance(config, SentimentConfig):
        return {"task": "sentiment", **runs.sentiment(config)}
    return {
        "task": "characters" if config.data.regime == "windows" else "converged",
        **runs.generation(config),
    }


METRICS = {"sentiment": "test_accuracy", "characters": "bits", "converged": "bits"}


def differences(rows: Rows, task: str) -> dict[str, Mean]:
    """Return the metric of each variant in a task, minus the metric of the LSTM with
    the same seed.
    """
    own, metric = rows_with(rows, "task", task), METRICS[task]
    base = {
        row["train.seed"]: row[metric] for row in rows_with(own, "model.cell", "lstm")
    }
    others = [
        row for row in own if row["model.cell"] != "lstm" and row["train.seed"] in base
    ]
    found = means(
        [
            flat(row["config"], {"gap": row[metric] - base[row["train.seed"]]})
            for row in others
        ],
        ["model.cell"],
    )
    return {cell: metrics["gap"] for (cell,), metrics in found.items()}


def costs(rows: Rows) -> dict[str, Mean]:
    """Return the time of each variant divided by the time of the LSTM."""
    times = next((row["milliseconds"] for row in rows if row["task"] == "cost"), {})
    return {
        cell: Mean(*stats.mean_interval(np.divide(own, times["lstm"]).tolist()))
        for cell, own in times.items()
        if cell != "lstm"
    }


def verdict(rows: Rows) -> Iterator[str]:
    """Return the conclusion of the study."""
    for task, metric in METRICS.items():
        gaps = differences(rows, task)
        for (cell,), found in means(
            rows_with(rows, "task", task), ["model.cell"]
        ).items():
            text = f" ({gaps[cell]:+.4f} against the LSTM)" if cell in gaps else ""
            yield f"{task}, {cell}: {metric} {found[metric].mean:.4f}{text}"
    for cell, ratio in costs(rows).items():
        yield f"time of {cell}: {ratio:.2f} of the LSTM's"


def draw(rows: Rows, figure) -> None:
    """Draw how each variant differs from the LSTM, in up to four panels. A panel
    without results is hidden.
    """
    panels = (
        # label, intervals, value of the LSTM, sign: 1 if a higher value is better, -1
        # if a lower one is
        ("test accuracy of reviews, difference", differences(rows, "sentiment"), 0, 1),
        (
            "bits a character after 3 epochs, difference",
            differences(rows, "characters"),
            0,
            -1,
        ),
        (
            "bits a character after 30 epochs, difference",
            differences(rows, "converged"),
            0,
            -1,
        ),
        ("time of a step, ratio", costs(rows), 1, -1),
    )
    for axes, (label, intervals, baseline, sign) in zip(
        figure.subplots(2, 2, sharey=True).ravel(), panels, strict=True
    ):
        axes.set_visible(bool(intervals))
        for cell, (mean, *ends) in intervals.items():
            gains = [sign * (end - baseline) for end in ends]
            ink = BLUE if min(gains) > 0 else ORANGE if max(gains) < 0 else GREY
            name = cell.removeprefix("lstm_").replace("_", " ")
            axes.plot(ends, [name, name], color=ink)
            axes.plot(mean, name, "o", color=ink)
        means = [baseline, *(mean for mean, _, _ in intervals.values())]
        margin = 0.25 * (max(means) - min(means)) or 1
        # cuts very wide intervals
        axes.set_xlim(min(means) - margin, max(means) + margin)
        axes.axvline(baseline, color=INK, linewidth=0.8)
        axes.set_xlabel(f"{label} to the LSTM")
    for ink, kind in (
        (BLUE, "better than the LSTM of as many parameters"),
        (ORANGE, "worse"),
        (GREY, "the 95 % interval holds both"),
    ):
        figure.axes[0].plot([], [], "o-", color=ink, label=kind)
    figure.legend(loc="outside upper left", ncols=3)


SHORT = [
    variant(config, cell, seed)
    for config in (SENTIMENT, GENERATION)
    for cell in VARIANTS
    for seed in range(SEEDS)
]
LONG = [
    variant(CONVERGED, cell, seed)
    for cell in VARIANTS
    for seed in range(CONVERGED_SEEDS)
]
FEW = ("lstm", "lstm_coupled")
TOY = [Cost(2, 3, 4, 4, 1, 2, FEW)] + [
    variant(config, cell, 0)
    for config in (runs.SMALL_SENTIMENT, runs.SMALL_GENERATION)
    for cell in FEW
]
STUDY = Study(
    "gates",
    run,
    {"toy": TOY, "cost": [Cost()], "converged": LONG, "full": [Cost(), *SHORT, *LONG]},
    draw,
    (11.0, 9.0),
    verdict,
)

if __name__ == "__main__":
    sys.exit(main(STUDY))
