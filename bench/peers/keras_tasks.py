"""Training and sampling of the two Keras examples with Keras 3 on JAX.

`bench accuracy` and `bench sampling` call these functions in fresh processes. Training
takes the flags `--seed`, `--epochs`, `--warm-up` (compile before the first epoch is
timed), `--no-evaluation` (leave the test reviews out) and `--validation` (share of the
text that is held out).
"""

import argparse
import os
from collections.abc import Iterator
from pathlib import Path
from time import perf_counter

os.environ.setdefault("KERAS_BACKEND", "jax")

import keras
import numpy as np

from bench import add_flags, make_parser
from bench.peers.keras_lstm import make_model
from bench.peers.task_data import articles, imdb_rows
from bench.schema import Row
from bench.workloads import CHARACTERS, LENGTH, RATE, STEP, WORKLOADS, workload
from lstm_jax import convert
from lstm_jax.base import sharding
from lstm_jax.lab.generation import data
from lstm_jax.lab.generation import task as generation
from lstm_jax.lab.generation.config import GenerationConfig, TextConfig
from lstm_jax.lab.generation.scores import Scorer
from lstm_jax.training.parts import functional

BATCH = 32
COMMON = {"peer": "keras_jax", "version": keras.__version__}


def _epochs(
    model: keras.Model, x: np.ndarray, y: np.ndarray, options: argparse.Namespace
) -> Iterator[Row]:
    if options.warm_up:
        short = BATCH + len(x) % BATCH
        model.fit(x[:short], y[:short], batch_size=BATCH, verbose="0")
    for epoch in range(1, options.epochs + 1):
        began = perf_counter()
        history = model.fit(
            x, y, batch_size=BATCH, epochs=epoch, initial_epoch=epoch - 1, verbose="0"
        ).history
        row = {"seed": options.seed, "epoch": epoch, "seconds": perf_counter() - began}
        yield (
            COMMON
            | row
            | {f"train_{name}": values[0] for name, values in history.items()}
        )


def _read(flags: list[str]) -> argparse.Namespace:
    parser = make_parser(None)
    add_flags(parser, int, seed="", epochs="")
    add_flags(parser, bool, warm_up="", no_evaluation="")
    add_flags(parser, float, validation="")
    parser.set_defaults(seed=0, epochs=10, validation=0.0)
    return parser.parse_args(flags)


def sentiment_rows(flags: list[str]) -> Iterator[Row]:
    """Train the model of imdb_lstm, and yield a result row for each epoch. The rows
    have test metrics unless `--no-evaluation` is given.
    """
    options = _read(flags)
    x, y, x_test, y_test = imdb_rows()
    keras.utils.set_random_seed(options.seed)
    model = make_model(WORKLOADS["A"], RATE, RATE)
    for row in _epochs(model, x, y, options):
        if not options.no_evaluation:
            began = perf_counter()
            loss, accuracy = model.evaluate(
                x_test, y_test, batch_size=BATCH, verbose="0"
            )
            row |= {
                "test_loss": loss,
                "test_accuracy": accuracy,
                "test_seconds": perf_counter() - began,
            }
        yield row


def generation_rows(flags: list[str]) -> Iterator[Row]:
    """Train the model of the Keras example lstm_text_generation, and yield a result row
    for each epoch.

    With `--validation`, one more row has the bits per character of the held-out text,
    each character predicted from the window of 40 characters before it, and with the
    state carried through the text.
    """
    options = _read(flags)
    corpus = generation.load_corpus(
        GenerationConfig(articles(TextConfig(validation=options.validation)))
    )
    characters = corpus.characters.size
    x, y = data.one_hot(*data.windows(corpus.train[:], LENGTH, STEP), characters)
    keras.utils.set_random_seed(options.seed)
    model = make_model(workload(f"B:V={characters}"))
    for row in _epochs(model, x, y, options):
        yield row | {"validation": options.validation}
    if options.validation:
        yield (
            COMMON
            | {"seed": options.seed, "validation": options.validation, "epoch": "last"}
            | _held_out_bits(model, corpus)
        )


def _held_out_bits(model: keras.Model, corpus: data.Corpus) -> dict[str, float]:
    _, rebuild = functional(
        generation.make_model(GenerationConfig(), corpus.characters.size)
    )
    params = convert.generation_from_keras(
        [np.asarray(array) for array in model.get_weights()]
    )
    mesh = sharding.make_mesh()
    return {
        f"bits_{mode}": Scorer(rebuild, mesh, mode)
        .text(params, corpus.validation)
        .metrics()["bits"]
        for mode in ("window", "carried")
    }


def draw(
    model: keras.Model, ids: np.ndarray, chars: int, rng: np.random.Generator
) -> list[int]:
    """Draw characters that continue a text, and return their ids."""
    drawn = []
    for _ in range(chars):
        window = np.zeros((1, LENGTH, CHARACTERS))
        window[0, np.arange(LENGTH), ids] = 1
        p = np.log(model.predict(window, verbose="0")[0].astype("float64"))
        p = np.exp(p) / np.exp(p).sum()
        drawn.append(int(rng.multinomial(1, p).argmax()))
        ids = np.append(ids[1:], drawn[-1])
    return drawn


def sampling_rows(weights: str, units: int, chars: int) -> Iterator[Row]:
    """Draw characters, and yield a result row with the duration in seconds.

    The weights are loaded from a file. If it does not exist, the initial weights are
    used and written to it.
    """
    keras.utils.set_random_seed(0)
    model = make_model(workload(f"B:H={units}"))
    if Path(weights).exists():
        model.load_weights(weights)
    else:
        model.save_weights(weights)
    rng = np.random.default_rng(0)
    ids = rng.integers(0, CHARACTERS, LENGTH)
    draw(model, ids, 3, rng)
    began = perf_counter()
    draw(model, ids, chars, rng)
    yield COMMON | {"method": "predict loop", "seconds": perf_counter() - began}
