"""Keras 3 on JAX: 400 characters as its lstm_text_generation example draws them, one `predict` of a one-hot window a character.

    python -m bench.peers.keras_drawing --weights model.weights.h5

prints a JSON line. The file is written if it is not there, with the model's initial weights.
"""

import argparse
import json
import os
import time
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "jax")

import keras
import numpy as np

from bench.generation_data import CHARACTERS, CHARS, LENGTH
from bench.peers.keras_generation import make_model


def draw(model: keras.Model, ids: np.ndarray, chars: int, rng: np.random.Generator) -> list[int]:
    """Go on from a window of ids (40,)."""
    drawn = []
    for _ in range(chars):
        window = np.zeros((1, LENGTH, CHARACTERS))
        window[0, np.arange(LENGTH), ids] = 1
        p = np.log(model.predict(window, verbose="0")[0].astype("float64"))
        p = np.exp(p) / np.exp(p).sum()
        drawn.append(int(rng.multinomial(1, p).argmax()))
        ids = np.append(ids[1:], drawn[-1])
    return drawn


def main() -> None:
    """Time one drawing."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--units", type=int, default=128)
    parser.add_argument("--chars", type=int, default=CHARS)
    options = parser.parse_args()
    keras.utils.set_random_seed(0)
    model = make_model(CHARACTERS, LENGTH, options.units)
    if options.weights.exists():
        model.load_weights(options.weights)
    else:
        model.save_weights(options.weights)
    rng = np.random.default_rng(0)
    ids = rng.integers(0, CHARACTERS, LENGTH)
    draw(model, ids, 3, rng)  # compiles
    began = time.perf_counter()
    draw(model, ids, options.chars, rng)
    row = {"peer": "keras-jax", "version": keras.__version__, "way": "predict loop", "seconds": time.perf_counter() - began}
    print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
