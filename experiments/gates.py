"""Which part of the LSTM does the work? The ablations of Greff et al. 2017 on sentiment and on characters, with equal parameters.

    python -m experiments.gates --preset toy        # seconds
    LSTM_JAX_DATA=... python -m experiments.gates   # two hours on two cores by an estimate, not yet run

Each variant has as many parameters in its recurrent layer as the LSTM of 64 units (`experiments.equal`), and three seeds. Sentiment: IMDB,
80 words, embedding of 64, dropout and recurrent dropout 0.2, two epochs, 15 % of the training reviews held out, no movie in both parts.
Characters: the articles, windows of 40 every 5, batch 128, three epochs, the last tenth held out.

Expected, from the paper: without forget gate or output activation it gets worse, the others hardly change; a gate less saves its share of
time.
"""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from experiments import runs, study
from experiments.equal import equal_units
from lstm_jax import plots
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
UNITS, SEEDS, CHARACTERS = 64, 3, 33
SENTIMENT = SentimentConfig(
    DataConfig(validation=0.15), SentimentModelConfig(embed=64, units=UNITS, backend="reference"), TrainConfig(epochs=2)
)
GENERATION = GenerationConfig(
    TextConfig(data=(runs.ARTICLES,)),
    GenerationModelConfig(units=UNITS, backend="reference"),
    TrainConfig(epochs=3, batch_size=128),
    SampleConfig(sample_chars=0),
)


def variant(config: Any, cell: str, seed: int) -> Any:
    """The config with that cell, of as many parameters; all in pure JAX, so that times compare cells and not backends."""
    features = config.model.embed or CHARACTERS
    model = replace(config.model, cell=cell, units=equal_units(cell, features, config.model.units))
    return replace(config, model=model, train=replace(config.train, seed=seed))


def run(config: SentimentConfig | GenerationConfig) -> dict[str, Any]:
    """Of either task."""
    if isinstance(config, SentimentConfig):
        return {"task": "sentiment", **runs.sentiment(config)}
    return {"task": "characters", **runs.generation(config)}


FIGURES = {"sentiment": "accuracy", "characters": "bits"}


def differences(rows: study.Rows, task: str, figure: str) -> dict[str, tuple[float, float, float]]:
    """Variant -> its figure less the LSTM's of the same seed: mean and 95 % interval."""
    by = {(row["model.cell"], row["train.seed"]): row[figure] for row in rows if row["task"] == task}
    found = {}
    for cell in VARIANTS:
        gaps = [value - by["lstm", seed] for (name, seed), value in by.items() if name == cell and ("lstm", seed) in by]
        if gaps and cell != "lstm":
            found[cell] = study.interval(gaps)
    return found


def verdict(rows: study.Rows) -> str:
    """A line a variant: figures, differences and time against the LSTM's."""
    lines = []
    for task, figure in FIGURES.items():
        those = [row for row in rows if row["task"] == task]
        times = study.grouped(those, ["model.cell"], "epoch_seconds")
        for cell, values in study.grouped(those, ["model.cell"], figure).items():
            gap = differences(rows, task, figure).get(cell[0])
            told = "" if gap is None else " ({:+.4f}, {:+.4f} to {:+.4f}, against the LSTM)".format(*gap)
            cost = np.median(times[cell]) / np.median(times.get(("lstm",), times[cell]))
            lines.append(f"{task}, {cell[0]}: {figure} {np.mean(values):.4f}{told}, {cost:.2f} of its time")
    return "\n".join(lines)


def draw(rows: study.Rows, path: Path) -> object:
    """Each variant's difference to the LSTM, a panel a task; better is to the right."""

    def fill(figure: Any) -> None:
        for axes, (task, name) in zip(figure.subplots(1, 2, sharey=True), FIGURES.items(), strict=True):
            gaps = differences(rows, task, name)
            sign = 1 if task == "sentiment" else -1
            for place, cell in enumerate(VARIANTS[1:]):
                if cell in gaps:
                    mean, low, high = (sign * value for value in gaps[cell])
                    ink = "#0072B2" if min(low, high) > 0 else "#D55E00" if max(low, high) < 0 else "#777777"
                    axes.plot([low, high], [place, place], color=ink)
                    axes.plot([mean], [place], "o", color=ink)
            axes.axvline(0, color="#222222", linewidth=0.8)
            axes.set_title("test accuracy gained" if task == "sentiment" else "bits a character saved")
            axes.set_yticks(range(len(VARIANTS) - 1), [cell.removeprefix("lstm_").replace("_", " ") for cell in VARIANTS[1:]])
        figure.suptitle("Against the LSTM of as many parameters", x=0.01, ha="left")

    return plots.write_figure(path, (10.0, 5.2), fill)


FULL = [variant(config, cell, seed) for config in (SENTIMENT, GENERATION) for cell in VARIANTS for seed in range(SEEDS)]
SMALL = (
    SentimentConfig(DataConfig("synthetic", maxlen=8), SentimentModelConfig(embed=4, units=4), TrainConfig(epochs=1)),
    GenerationConfig(TextConfig(length=4, step=900), GenerationModelConfig(units=4), TrainConfig(epochs=1), SampleConfig(sample_chars=0)),
)
TOY = [variant(config, cell, 0) for config in SMALL for cell in ("lstm", "lstm_coupled", "gru")]
STUDY = study.Study("gates", run, {"toy": TOY, "full": FULL}, draw, verdict)

if __name__ == "__main__":
    sys.exit(study.main(STUDY))
