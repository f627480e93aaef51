"""Study of how input and recurrent dropout affect sentiment classification, and whether
it matters that each gate has its own mask.

    python -m experiments.dropout --preset toy                    # seconds
    # 33 minutes on two cores
    LSTM_JAX_DATA=... python -m experiments.dropout --workers 2

The model of the Keras example imdb_lstm (80 words, 128 units, Adam) is trained for
three epochs with three seeds. A validation split of 15 % of the training reviews is
held out; no movie is in both splits. The rates of input and recurrent dropout are 0,
0.2, 0.4 and 0.6, in all combinations. In these runs the masks are those of Keras: with
recurrent dropout, each gate has its own mask; without it, all gates share one mask. At
equal rates of input and recurrent dropout, the model is also trained with the masks of
Gal & Ghahramani 2016, where all gates always share one mask.

The metrics are the accuracy on the test reviews, the calibration error (ECE) on the
validation split, and the time of an epoch. Accuracy and calibration error are those of
the epoch with the lowest validation loss.

Expected: Input dropout raises the accuracy by half a percentage point. Recurrent
dropout lowers it by half a point at rate 0.4 and by one and a half points at rate 0.6.
The calibration does not change, and an epoch takes at most a tenth longer (see
`LOG.md`).
"""

import sys

import numpy as np

from experiments import runs
from experiments.study import Rows, Study, lines, main, means, plot_means, rows_with
from lstm_jax.lab import sweep
from lstm_jax.lab.inspection.figures import BLUE, ORANGE
from lstm_jax.lab.sentiment.config import (
    DataConfig,
    SentimentConfig,
    SentimentModelConfig,
)
from lstm_jax.training.config import TrainConfig

RATES, SEEDS = (0.0, 0.2, 0.4, 0.6), 3
BASE = SentimentConfig(
    DataConfig(validation=0.15), SentimentModelConfig(), TrainConfig(epochs=3)
)


def configs(
    base: SentimentConfig, rates: tuple[float, ...], seeds: int
) -> list[SentimentConfig]:
    """Return the configs of all training runs of the study."""
    keras = sweep.grid(
        base,
        **{
            "model.dropout": rates,
            "model.recurrent_dropout": rates,
            "train.seed": range(seeds),
        },
    )
    equal = [
        config
        for config in keras
        if config.model.dropout == config.model.recurrent_dropout > 0
    ]
    return keras + [
        sweep.override(config, {"model.dropout_masks": "variational"})
        for config in equal
    ]


KEY = ("model.dropout_masks", "model.dropout", "model.recurrent_dropout")
MASKS = {
    "keras": {"color": BLUE, "marker": "", "label": "one mask a gate (points: seeds)"},
    "variational": {"color": ORANGE, "marker": "", "label": "one mask for all gates"},
}


def verdict(rows: Rows) -> list[str]:
    """Return the conclusion of the study."""
    text = (
        "{}, input {}, recurrent {}: {test_accuracy:.4f}, ECE {ece.mean:.3f}, "
        "{epoch_seconds.mean:.1f} s an epoch"
    )
    return lines(rows, KEY, text)


def draw(rows: Rows, figure) -> None:
    """Draw the accuracy, the calibration error and the time of an epoch as heat maps
    over the input and the recurrent dropout rate.
    """
    *panels, kinds = figure.subplots(2, 2).ravel()
    keras = means(rows_with(rows, KEY[0], "keras"), KEY[1:])
    rates = sorted({rate for rate, _ in keras})
    titles = {
        "test_accuracy": "test accuracy",
        "ece": "calibration error (ECE)",
        "epoch_seconds": "time of an epoch, seconds",
    }
    for axes, (name, title) in zip(panels, titles.items(), strict=True):
        cells = {key: found[name].mean for key, found in keras.items()}
        values = [[cells.get((a, b), np.nan) for b in rates] for a in rates]
        # light enough for black numbers
        image = axes.pcolormesh(rates, rates, values, cmap="Blues", alpha=0.45)
        figure.colorbar(image, ax=axes, label=title)
        for (a, b), value in cells.items():
            axes.text(b, a, f"{value:.3g}", ha="center", va="center")
        axes.set(
            xlabel="rate of recurrent dropout",
            ylabel="rate of input dropout",
            xticks=rates,
            yticks=rates,
        )
        axes.grid(visible=False)
    equal = [row for row in rows if row[KEY[1]] == row[KEY[2]]]
    plot_means(kinds, equal, "test_accuracy", KEY[1], KEY[0], MASKS)
    for row in equal:
        kinds.plot(
            row[KEY[1]],
            row["test_accuracy"],
            "o",
            color=MASKS[row[KEY[0]]]["color"],
            alpha=0.4,
            ms=4,
        )
    kinds.set(xlabel="rate of input and of recurrent dropout", ylabel="test accuracy")
    kinds.legend(loc="lower left", bbox_to_anchor=(0, 1))


STUDY = Study(
    "dropout",
    runs.sentiment,
    {
        "toy": configs(runs.SMALL_SENTIMENT, (0.4,), 1),
        "full": configs(BASE, RATES, SEEDS),
    },
    draw,
    (10.5, 7.6),
    verdict,
)

if __name__ == "__main__":
    sys.exit(main(STUDY))
