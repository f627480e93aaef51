"""Keras 3 on JAX: its imdb_lstm example, the source's model, trained by `fit`.

    python -m bench.peers.keras_sentiment --seed 0 --epochs 3

prints a JSON line an epoch: seed, epoch, losses and accuracies, seconds of training and of evaluation.
"""

import argparse
import json
import os
import time

os.environ.setdefault("KERAS_BACKEND", "jax")

import keras

from bench.sentiment_data import imdb_rows


def make_model(seed: int) -> keras.Model:
    """Embedding(20000, 128) -> LSTM(128, dropout 0.2, recurrent dropout 0.2) -> Dense(1, sigmoid), Adam."""
    keras.utils.set_random_seed(seed)
    layers = [
        keras.Input((80,), dtype="int32"),
        keras.layers.Embedding(20000, 128),
        keras.layers.LSTM(128, dropout=0.2, recurrent_dropout=0.2),
        keras.layers.Dense(1, activation="sigmoid"),
    ]
    model = keras.Sequential(layers)
    model.compile(loss="binary_crossentropy", optimizer="adam", metrics=["accuracy"])
    return model


def main() -> None:
    """Train and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--no-evaluation", action="store_true")
    parser.add_argument("--warm-up", action="store_true", help="compile before the first epoch is timed")
    options = parser.parse_args()
    x, y, x_test, y_test = imdb_rows()
    model = make_model(options.seed)
    if options.warm_up:
        model.fit(x[:40], y[:40], batch_size=32, verbose="0")  # a full batch and one of 8, as at an epoch's end
    for epoch in range(1, options.epochs + 1):
        began = time.perf_counter()
        history = model.fit(x, y, batch_size=32, epochs=epoch, initial_epoch=epoch - 1, verbose="0").history
        trained = time.perf_counter() - began
        row = {"peer": "keras-jax", "version": keras.__version__, "seed": options.seed, "epoch": epoch, "seconds": trained}
        row |= {"train_loss": history["loss"][0], "train_accuracy": history["accuracy"][0]}
        if not options.no_evaluation:
            began = time.perf_counter()
            loss, accuracy = model.evaluate(x_test, y_test, batch_size=32, verbose="0")
            row |= {"test_loss": loss, "test_accuracy": accuracy, "test_seconds": time.perf_counter() - began}
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
