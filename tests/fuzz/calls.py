"""Readers of files that no command calls, as commands: 0 if a file is read, 2 with one line of error if it is refused."""

import sys
from collections.abc import Callable
from pathlib import Path

from lstm_jax import convert
from lstm_jax.data.reviews.keras_npz import read_keras_npz
from lstm_jax.data.reviews.word_index import keras_vocabulary
from lstm_jax.errors import InputError


def _answer(read: Callable[[Path], object], path: str) -> int:
    try:
        read(Path(path))
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def keras_npz(path: str) -> int:
    """Keras' imdb.npz."""
    return _answer(read_keras_npz, path)


def word_index(path: str) -> int:
    """Keras' word index."""
    return _answer(lambda path: keras_vocabulary(path, check=False), path)


def torch_file(path: str) -> int:
    """Weights of PyTorch."""
    return _answer(lambda path: convert.generation_from_torch(convert.read_torch_file(path)), path)


def keras_file(path: str) -> int:
    """Weights of Keras."""
    return _answer(convert.generation_from_keras_file, path)
