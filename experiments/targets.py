"""Can a network predict a character's number, and does it matter which number a character has?

    python -m experiments.targets --preset toy        # seconds
    LSTM_JAX_DATA=... python -m experiments.targets --workers 2       # 11 minutes on two cores at 200 GFLOP/s

The source says that "the integer representation of characters are random not ordinal". Put to the test on the articles, windows of 40 every
5, LSTM(64), the last tenth held out, three seeds: the next character as a category (softmax) or as the number of its place in the bag
(squared error, rounded to the nearest), with the bag in its usual order or in a random one; and the characters read as one-hot rows or as
that number alone, scaled to [0, 1].

Expected: as categories the order makes no difference; as a number far fewer characters are right, near to always saying the mean, and
what is left depends on the order.
"""

import sys
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from bench.peers.task_data import articles
from experiments import runs, study
from experiments.training import fit
from lstm_jax import data, unroll
from lstm_jax.cells import CELLS
from lstm_jax.config import GenerationConfig, TextConfig
from lstm_jax.initializers import glorot_uniform
from lstm_jax.inspection.figures import write_figure
from lstm_jax.tasks import generation


@dataclass(frozen=True)
class Config:
    """read: what the network sees of a character; predict: what it is to say of the next; order: of the bag."""

    read: Literal["one-hot", "number"] = "one-hot"
    predict: Literal["category", "number"] = "category"
    order: Literal["usual", "random"] = "usual"
    text: str = runs.ARTICLES
    length: int = 40
    step: int = 5
    units: int = 64
    updates: int = 6000
    batch: int = 128
    learning_rate: float = 2e-3
    seed: int = 0


class Params(NamedTuple):
    """The cell's, and those of the dense layer on h."""

    cell: Any
    kernel: jax.Array
    bias: jax.Array


def run(config: Config) -> dict[str, Any]:
    """Share of held-out characters that are right, and of categories the bits a character."""
    text = TextConfig(step=config.step, length=config.length)
    corpus = generation.load_corpus(GenerationConfig(articles(text) if config.text == runs.ARTICLES else text))
    size = corpus.characters.size
    place = np.arange(size) if config.order == "usual" else np.random.default_rng(config.seed).permutation(size)
    parts = [data.windows(place[part].astype(np.int32), config.length, config.step) for part in (corpus.train, corpus.validation)]
    (x, y), (x_held, y_held) = ((jnp.asarray(X), jnp.asarray(Y)) for X, Y in parts)
    features, outputs = (size if config.read == "one-hot" else 1), (size if config.predict == "category" else 1)
    of_cell, of_head, of_rows = jax.random.split(jax.random.key(config.seed), 3)
    cell = CELLS["lstm"]
    head = glorot_uniform(of_head, (config.units, outputs))
    params = Params(cell.init(of_cell, features, config.units), head, jnp.zeros((outputs,)))

    def given(params: Params, ids: jax.Array) -> jax.Array:
        inputs = ids if config.read == "one-hot" else (ids / (size - 1))[..., None].astype(jnp.float32)
        h, _ = unroll(cell, params.cell, inputs, return_sequences=False)
        return h @ params.kernel + jnp.broadcast_to(params.bias, (len(h), outputs))

    def loss(params: Params, batch: Any) -> jax.Array:
        ids, target = batch
        out = given(params, ids)
        if config.predict == "category":
            return optax.softmax_cross_entropy_with_integer_labels(out, target).mean()
        return ((out[:, 0] - target / (size - 1)) ** 2).mean()

    def batch(number: Any) -> tuple[jax.Array, jax.Array]:
        rows = jax.random.randint(jax.random.fold_in(of_rows, number), (config.batch,), 0, len(y))
        return x[rows], y[rows]

    params, losses = fit(loss, params, batch, config.updates, config.learning_rate)
    held = jax.jit(given)(params, x_held)
    said = held.argmax(-1) if config.predict == "category" else jnp.clip(jnp.round(held[:, 0] * (size - 1)), 0, size - 1).astype(jnp.int32)
    figures: dict[str, Any] = {"accuracy": float((said == y_held).mean()), "losses": losses, "kinds_said": len(np.unique(said))}
    figures["most_frequent"] = max(Counter(np.asarray(y_held).tolist()).values()) / len(y_held)
    if config.predict == "category":
        figures["bits"] = float(optax.softmax_cross_entropy_with_integer_labels(held, y_held).mean() / np.log(2))
    return figures


KEY = ("predict", "read", "order")


def verdict(rows: study.Rows) -> str:
    """A line a way."""
    lines = []
    for key, values in study.grouped(rows, KEY, "accuracy").items():
        mean, low, high = study.interval(values)
        kinds = np.mean([row["kinds_said"] for row in rows if tuple(row[name] for name in KEY) == key])
        share = f"{100 * mean:.1f} % right ({100 * low:.1f} to {100 * high:.1f}), {kinds:.0f} kinds said"
        lines.append(f"{key[0]} from {key[1]}, {key[2]} order: {share}")
    return "\n".join([*lines, f"always the most frequent character: {100 * rows[0]['most_frequent']:.1f} %"])


def draw(rows: study.Rows, path: Path) -> object:
    """Bars of the share that is right."""

    def fill(figure: Any) -> None:
        axes = figure.subplots()
        groups = study.grouped(rows, KEY, "accuracy")
        for place, (key, values) in enumerate(groups.items()):
            mean, low, high = study.interval(values)
            axes.barh(place, 100 * mean, color="#0072B2" if key[0] == "category" else "#D55E00")
            axes.plot([100 * low, 100 * high], [place, place], color="#222222")
        axes.axvline(100 * rows[0]["most_frequent"], color="#222222", linestyle=":", label="always the most frequent one")
        axes.set_yticks(range(len(groups)), [f"{predict} from {read}, {order} order" for predict, read, order in groups])
        axes.invert_yaxis()
        axes.set_xlabel("held-out characters that are right, %")
        axes.legend(fontsize=9)

    return write_figure(path, (8.0, 4.2), fill)


WAYS = [
    Config(read, predict, order) for predict in ("category", "number") for read in ("one-hot", "number") for order in ("usual", "random")
]
TOY = [replace(way, text="", length=4, step=500, units=4, updates=20, batch=8) for way in WAYS]
STUDY = study.Study("targets", run, {"toy": TOY, "full": [replace(way, seed=seed) for way in WAYS for seed in range(3)]}, draw, verdict)

if __name__ == "__main__":
    sys.exit(study.main(STUDY))
