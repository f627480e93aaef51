"""What do input and recurrent dropout do, and does it matter whether each gate has its own mask?

    python -m experiments.dropout --preset toy                    # seconds
    LSTM_JAX_DATA=... python -m experiments.dropout --workers 2   # 33 minutes on two cores

Sentiment of IMDB as the source trains it (80 words, 128 units, Adam), three epochs, 15 % of the training reviews held out, no movie in
both parts: rates 0, 0.2, 0.4, 0.6 of input and of recurrent dropout with Keras' masks (one a gate with recurrent dropout), and, at equal
rates, the one mask for all gates of Gal & Ghahramani 2016. Three seeds; of the epoch with the least loss on what is held out the accuracy
on the test reviews and the calibration (ECE) on what is held out; and cost.

Expected: input dropout gains half a point, recurrent dropout loses as much at 0.4 and one and a half at 0.6, calibration as it was, the
cost a tenth at most (`LOG.md`).
"""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from experiments import runs, study
from lstm_jax import sweep
from lstm_jax.config import DataConfig, SentimentConfig, SentimentModelConfig, TrainConfig
from lstm_jax.inspection.figures import write_figure

RATES, SEEDS = (0.0, 0.2, 0.4, 0.6), 3
BASE = SentimentConfig(DataConfig(validation=0.15), SentimentModelConfig(), TrainConfig(epochs=3))


def configs(base: SentimentConfig, rates: tuple[float, ...], seeds: int) -> list[SentimentConfig]:
    """Keras' masks at all pairs of rates, one shared mask at equal ones."""
    both = [{"model.dropout": a, "model.recurrent_dropout": b} for a in rates for b in rates]
    both += [{"model.dropout": a, "model.recurrent_dropout": a, "model.dropout_masks": "variational"} for a in rates if a]
    return [sweep.override(base, changes | {"train.seed": seed}) for changes in both for seed in range(seeds)]


KEY = ("model.dropout_masks", "model.dropout", "model.recurrent_dropout")


def verdict(rows: study.Rows) -> str:
    """A line a pair of rates."""
    lines = []
    for key, accuracies in study.grouped(rows, KEY, "test_accuracy").items():
        of_key = [row for row in rows if tuple(row[name] for name in KEY) == key]
        mean, low, high = study.interval(accuracies)
        ece, seconds = (np.mean([row[name] for row in of_key]) for name in ("ece", "epoch_seconds"))
        lines.append(
            f"{key[0]}, input {key[1]}, recurrent {key[2]}: {mean:.4f} ({low:.4f} to {high:.4f}), ECE {ece:.3f}, {seconds:.1f} s an epoch"
        )
    return "\n".join(lines)


def draw(rows: study.Rows, path: Path) -> object:
    """Accuracy, calibration and time over both rates, and the accuracy of both kinds of masks at equal rates."""

    def fill(figure: Any) -> None:
        *panels, kinds = figure.subplots(1, 4)
        keras = [row for row in rows if row["model.dropout_masks"] == "keras"]
        rates = sorted({row["model.dropout"] for row in keras})
        for axes, (name, said) in zip(
            panels, {"test_accuracy": "test accuracy", "ece": "calibration error", "epoch_seconds": "seconds an epoch"}.items(), strict=True
        ):
            cells = study.grouped(keras, KEY[1:], name)
            values = np.array([[np.mean(cells.get((a, b), [np.nan])) for b in rates] for a in rates])
            # the darkest still lets dark letters be read
            axes.imshow(values, cmap="Blues", origin="lower", aspect="auto", vmax=2 * np.nanmax(values) - np.nanmin(values))
            for (row, column), value in np.ndenumerate(values):
                axes.text(column, row, f"{value:.3f}" if name != "epoch_seconds" else f"{value:.1f}", ha="center", va="center", fontsize=9)
            axes.set_xticks(range(len(rates)), [str(rate) for rate in rates])
            axes.set_yticks(range(len(rates)), [str(rate) for rate in rates])
            axes.set_xlabel("recurrent dropout")
            axes.set_title(said)
            axes.grid(visible=False)
        panels[0].set_ylabel("input dropout")
        for masks, ink, said in (("keras", "#0072B2", "one a gate"), ("variational", "#D55E00", "one for all gates")):
            cells = study.grouped([row for row in rows if row["model.dropout_masks"] == masks], KEY[1:], "test_accuracy")
            equal = {a: accuracies for (a, b), accuracies in cells.items() if a == b}
            for rate, accuracies in equal.items():
                kinds.plot([rate] * len(accuracies), accuracies, "o", color=ink, alpha=0.4, ms=4)
            kinds.plot(list(equal), [np.mean(accuracies) for accuracies in equal.values()], "-", color=ink, label=said)
        kinds.set_title("test accuracy, equal rates")
        kinds.set_xlabel("both rates")
        kinds.legend(fontsize=8)

    return write_figure(path, (14.0, 3.8), fill)


TOY_BASE = SentimentConfig(DataConfig("synthetic", maxlen=8), SentimentModelConfig(embed=4, units=4), TrainConfig(epochs=1))
STUDY = study.Study(
    "dropout",
    runs.sentiment,
    {"toy": configs(replace(TOY_BASE), (0.0, 0.4), 1), "full": configs(BASE, RATES, SEEDS)},
    draw,
    verdict,
)

if __name__ == "__main__":
    sys.exit(study.main(STUDY))
