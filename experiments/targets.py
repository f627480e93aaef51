"""Study of whether a network can predict the next character's id as a number, and
whether the order of the characters' ids matters.

    python -m experiments.targets --preset toy                      # seconds
    # 11 minutes on two cores at 200 GFLOP/s
    LSTM_JAX_DATA=... python -m experiments.targets --workers 2

The study tests the claim that "the integer representation of characters are random not
ordinal". An LSTM with 64 units is trained on newspaper articles, with three seeds. It
reads windows of 40 characters that start every 5 characters. The last tenth of the text
is held out. Three settings are varied in all combinations:

- Target: The next character is predicted as a category (softmax) or as a number. This
  number is the character's id, scaled to [0, 1]. The loss is then the squared error,
  and the prediction is the id that is nearest to the output.
- Order: The ids are assigned to the characters in the usual order (by code point) or in
  a random order.
- Input: The characters are read as one-hot vectors or as numbers, which are the ids
  scaled to [0, 1].

Expected: If categories are predicted, the order of the ids makes no difference. If
numbers are predicted, the accuracy is much lower: it hardly exceeds the accuracy of
always predicting the mean id. The accuracy then also depends on the order of the ids.
"""

import sys
from dataclasses import dataclass, replace
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import runs
from experiments.study import Metrics, Rows, Study, interval_bars, lines, main, means
from experiments.training import fit, initial, random_batches
from lstm_jax import unroll
from lstm_jax.cells import CELLS
from lstm_jax.lab import sweep
from lstm_jax.lab.generation import data
from lstm_jax.lab.inspection.figures import BLUE, INK, ORANGE


@dataclass(frozen=True)
class Config:
    """Config of one training run: the representation of the inputs and targets, and the
    training settings.
    """

    read: Literal["one-hot", "number"] = "one-hot"
    """Representation of the input characters."""
    predict: Literal["category", "number"] = "category"
    """Representation of the target character."""
    order: Literal["usual", "random"] = "usual"
    """Order in which ids are assigned to the characters."""
    text: str = runs.ARTICLES
    length: int = 40
    step: int = 5
    units: int = 64
    updates: int = 6000
    batch: int = 128
    learning_rate: float = 2e-3
    seed: int = 0


def run(config: Config) -> Metrics:
    """Train the model of a config, and return its metrics."""
    category = config.predict == "category"
    corpus = runs.corpus_of(config.text)
    size = corpus.characters.size
    ids_of = (
        np.arange(size)
        if config.order == "usual"
        else np.random.default_rng(config.seed).permutation(size)
    )
    parts = [
        data.windows(ids_of[part].astype(np.int32), config.length, config.step)
        for part in (corpus.train[:], corpus.validation)
    ]
    (x, y), (x_held, y_held) = ((jnp.asarray(X), jnp.asarray(Y)) for X, Y in parts)
    features, outputs = (
        (size if config.read == "one-hot" else 1),
        (size if category else 1),
    )
    *of_params, of_rows = jax.random.split(jax.random.key(config.seed), 3)

    def outputs_of(params, ids):
        inputs = (
            ids
            if config.read == "one-hot"
            else (ids / (size - 1))[..., None].astype(jnp.float32)
        )
        return params.dense(
            unroll(CELLS["lstm"], params.cell, inputs, return_sequences=False)[0]
        )

    def loss(params, batch):
        ids, target = batch
        out = outputs_of(params, ids)
        if category:
            return optax.softmax_cross_entropy_with_integer_labels(out, target).mean()
        return ((out[:, 0] - target / (size - 1)) ** 2).mean()

    batch = random_batches(of_rows, config.batch, x, y)
    params, losses = fit(
        loss,
        initial("lstm", of_params, features, config.units, outputs),
        batch,
        config.updates,
        config.learning_rate,
    )
    held = jax.jit(outputs_of)(params, x_held)
    predicted = (
        held.argmax(-1)
        if category
        else jnp.clip(jnp.round(held[:, 0] * (size - 1)), 0, size - 1).astype(jnp.int32)
    )
    metrics: Metrics = {
        "accuracy": float((predicted == y_held).mean()),
        "losses": losses,
        "kinds_said": len(np.unique(predicted)),
    }
    metrics["most_frequent"] = int(np.bincount(y_held).max()) / len(y_held)
    if category:
        metrics["bits"] = float(
            optax.softmax_cross_entropy_with_integer_labels(held, y_held).mean()
            / np.log(2)
        )
    return metrics


KEY = ("predict", "read", "order")


def verdict(rows: Rows) -> list[str]:
    """Return the conclusion of the study."""
    own = lines(
        rows,
        KEY,
        "{} from {}, {} order: {accuracy:.1%} right, {kinds_said.mean:.0f} "
        "characters predicted",
    )
    return [*own, f"always the most frequent character: {rows[0]['most_frequent']:.1%}"]


def draw(rows: Rows, figure) -> None:
    """Draw the accuracy of each combination of the three settings (target, input and
    order of the ids) as a horizontal bar.
    """
    axes = figure.subplots()
    inks = {"category": BLUE, "number": ORANGE}
    interval_bars(
        axes,
        [
            ("{} from {}, {} order".format(*key), found["accuracy"], inks[key[0]])
            for key, found in means(rows, KEY).items()
        ],
    )
    axes.axvline(
        rows[0]["most_frequent"],
        color=INK,
        linestyle=":",
        label="always the most frequent character",
    )
    axes.xaxis.set_major_formatter("{x:.0%}")
    axes.set_xlabel(
        "held-out characters that are right (lines: 95 % interval over seeds)"
    )
    axes.legend(fontsize=9)


SMALL = Config(text="", length=4, step=500, units=4, updates=20, batch=8)
TOY = [
    SMALL,
    replace(SMALL, read="number", order="random"),
    replace(SMALL, predict="number", order="random"),
]
FULL = sweep.grid(
    Config(),
    predict=("category", "number"),
    read=("one-hot", "number"),
    order=("usual", "random"),
    seed=range(3),
)
STUDY = Study("targets", run, {"toy": TOY, "full": FULL}, draw, (8.0, 4.2), verdict)

if __name__ == "__main__":
    sys.exit(main(STUDY))
