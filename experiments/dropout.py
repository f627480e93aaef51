"""Study of one question: how do input and recurrent dropout affect sentiment, and does it matter whether each gate has its own mask?

    python -m experiments.dropout --preset toy                    # seconds
    LSTM_JAX_DATA=... python -m experiments.dropout --workers 2   # 33 minutes on two cores

The runs train the sentiment task of the Keras example imdb_lstm (80 words, 128 units, Adam) for three epochs, with three seeds. 15 % of the
training reviews are held out as a validation split, and no movie is in both splits. Input and recurrent dropout each have the rates 0, 0.2,
0.4 and 0.6, in all pairs, with the masks of Keras (one mask for each gate if there is recurrent dropout). Equal rates are also run with the
masks of Gal & Ghahramani 2016, where all gates share one mask. The metrics are the accuracy on the test reviews and the calibration error
(ECE) on the validation split, both at the epoch with the lowest validation loss, and the time of an epoch.

Expected: input dropout raises the accuracy by half a point; recurrent dropout lowers it by half a point at 0.4 and by one and a half points
at 0.6; the calibration does not change; the time of an epoch grows by a tenth at most (see `LOG.md`).
"""

import sys
from pathlib import Path
from typing import Any

import numpy as np

from experiments import runs, study
from lstm_jax import sweep
from lstm_jax.config import DataConfig, SentimentConfig, SentimentModelConfig, TrainConfig
from lstm_jax.inspection.figures import write_figure
from lstm_jax.sweep import stats

RATES, SEEDS = (0.0, 0.2, 0.4, 0.6), 3
BASE = SentimentConfig(DataConfig(validation=0.15), SentimentModelConfig(), TrainConfig(epochs=3))


def configs(base: SentimentConfig, rates: tuple[float, ...], seeds: int) -> list[SentimentConfig]:
    """Return the configs of all runs: Keras' masks at all pairs of rates, and masks shared by all gates at equal rates above 0."""
    changes = [{"model.dropout": a, "model.recurrent_dropout": b} for a in rates for b in rates]
    changes += [{"model.dropout": a, "model.recurrent_dropout": a, "model.dropout_masks": "variational"} for a in rates if a]
    return [sweep.override(base, change | {"train.seed": seed}) for change in changes for seed in range(seeds)]


KEY = ("model.dropout_masks", "model.dropout", "model.recurrent_dropout")


def verdict(rows: study.Rows) -> str:
    """Return a line with the metrics of each kind of masks and pair of rates."""
    lines = []
    for key, accuracies in study.grouped(rows, KEY, "test_accuracy").items():
        selected = [row for row in rows if tuple(row[name] for name in KEY) == key]
        mean, low, high = stats.mean_interval(accuracies)
        ece, seconds = (np.mean([row[name] for row in selected]) for name in ("ece", "epoch_seconds"))
        lines.append(
            f"{key[0]}, input {key[1]}, recurrent {key[2]}: {mean:.4f} ({low:.4f} to {high:.4f}), ECE {ece:.3f}, {seconds:.1f} s an epoch"
        )
    return "\n".join(lines)


def draw(rows: study.Rows, path: Path) -> object:
    """Draw accuracy, calibration error and time of an epoch over both rates, and the accuracy of both kinds of masks at equal rates."""

    def fill(figure: Any) -> None:
        *panels, kinds = figure.subplots(1, 4)
        keras = [row for row in rows if row["model.dropout_masks"] == "keras"]
        rates = sorted({row["model.dropout"] for row in keras})
        titles = {"test_accuracy": "test accuracy", "ece": "calibration error", "epoch_seconds": "seconds an epoch"}
        for axes, (name, title) in zip(panels, titles.items(), strict=True):
            cells = study.grouped(keras, KEY[1:], name)
            values = np.array([[np.mean(cells.get((a, b), [np.nan])) for b in rates] for a in rates])
            # vmax is above all values, so that no cell is too dark for the black numbers
            axes.imshow(values, cmap="Blues", origin="lower", aspect="auto", vmax=2 * np.nanmax(values) - np.nanmin(values))
            for (row, column), value in np.ndenumerate(values):
                axes.text(column, row, f"{value:.3f}" if name != "epoch_seconds" else f"{value:.1f}", ha="center", va="center", fontsize=9)
            axes.set_xticks(range(len(rates)), [str(rate) for rate in rates])
            axes.set_yticks(range(len(rates)), [str(rate) for rate in rates])
            axes.set_xlabel("recurrent dropout")
            axes.set_title(title)
            axes.grid(visible=False)
        panels[0].set_ylabel("input dropout")
        for masks, ink, label in (("keras", "#0072B2", "one a gate"), ("variational", "#D55E00", "one for all gates")):
            cells = study.grouped([row for row in rows if row["model.dropout_masks"] == masks], KEY[1:], "test_accuracy")
            equal = {a: accuracies for (a, b), accuracies in cells.items() if a == b}
            for rate, accuracies in equal.items():
                kinds.plot([rate] * len(accuracies), accuracies, "o", color=ink, alpha=0.4, ms=4)
            kinds.plot(list(equal), [np.mean(accuracies) for accuracies in equal.values()], "-", color=ink, label=label)
        kinds.set_title("test accuracy, equal rates")
        kinds.set_xlabel("both rates")
        kinds.legend(fontsize=8)

    return write_figure(path, (14.0, 3.8), fill)


TOY_BASE = SentimentConfig(DataConfig("synthetic", maxlen=8), SentimentModelConfig(embed=4, units=4), TrainConfig(epochs=1))
STUDY = study.Study(
    "dropout",
    runs.sentiment,
    {"toy": configs(TOY_BASE, (0.4,), 1), "full": configs(BASE, RATES, SEEDS)},
    draw,
    verdict,
)

if __name__ == "__main__":
    sys.exit(study.main(STUDY))
