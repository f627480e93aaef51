"""Keras 3 on JAX: its lstm_text_generation example, the source's model, on boolean one-hot windows, trained by `fit`.

    python -m bench.peers.keras_generation --seed 0 --epochs 10

prints a JSON line an epoch: seed, epoch, loss, seconds; and with `--validation` a last one, bits a character of the held-out text under the
trained weights, read by this project's scorer in windows and with the state carried.
"""

import argparse
import json
import os
import time

os.environ.setdefault("KERAS_BACKEND", "jax")

import keras
import numpy as np

from bench.generation_data import article_windows
from lstm_jax import convert, data
from lstm_jax.config import GenerationConfig
from lstm_jax.models import functional
from lstm_jax.runtime import sharding
from lstm_jax.tasks import generation
from lstm_jax.training.scoring import Scorer


def make_model(characters: int, length: int = 40, units: int = 128) -> keras.Model:
    """LSTM(128) -> Dense(characters, softmax), Adam."""
    layers = [keras.Input((length, characters)), keras.layers.LSTM(units), keras.layers.Dense(characters, activation="softmax")]
    model = keras.Sequential(layers)
    model.compile(loss="categorical_crossentropy", optimizer="adam")
    return model


def held_out_bits(model: keras.Model, corpus: data.Corpus) -> dict[str, float]:
    """Bits a character of the validation part, in both modes."""
    _, rebuild = functional(generation.make_model(GenerationConfig(), corpus.characters.size))
    params = convert.generation_from_keras([np.asarray(array) for array in model.get_weights()])
    mesh = sharding.make_mesh()
    return {f"bits_{mode}": Scorer(rebuild, mesh, mode).text(params, corpus.validation).figures()["bits"] for mode in ("window", "carried")}


def main() -> None:
    """Train and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--validation", type=float, default=0.0)
    parser.add_argument("--warm-up", action="store_true", help="compile before the first epoch is timed")
    options = parser.parse_args()
    X, Y, corpus = article_windows(options.validation)
    x, y = data.one_hot(X, Y, corpus.characters.size)
    keras.utils.set_random_seed(options.seed)
    model = make_model(corpus.characters.size)
    short = len(x) % 32
    if options.warm_up:
        model.fit(x[: 32 + short], y[: 32 + short], batch_size=32, verbose="0")  # a full batch and one as short as an epoch's last
    common = {"peer": "keras-jax", "version": keras.__version__, "seed": options.seed, "validation": options.validation}
    for epoch in range(1, options.epochs + 1):
        began = time.perf_counter()
        history = model.fit(x, y, batch_size=32, epochs=epoch, initial_epoch=epoch - 1, verbose="0").history
        row = {"epoch": epoch, "seconds": time.perf_counter() - began, "train_loss": history["loss"][0]}
        print(json.dumps(common | row), flush=True)
    if options.validation:
        print(json.dumps(common | {"epoch": "last"} | held_out_bits(model, corpus)), flush=True)


if __name__ == "__main__":
    main()
