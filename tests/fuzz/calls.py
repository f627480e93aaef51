"""Commands that read one file each, for the fuzzer of input files.

Each of them calls a reading function that no lstm-jax command of this fuzzer calls. A command returns 0 if the file is read. If the file is
refused, the command prints one line of error and returns 2.
"""

import sys
from collections.abc import Callable
from pathlib import Path

from lstm_jax import convert
from lstm_jax.data.reviews.word_index import keras_vocabulary
from lstm_jax.errors import InputError


def _answer(read: Callable[[Path], object], path: str) -> int:
    try:
        read(Path(path))
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def word_index(path: str) -> int:
    """Read a file in the format of Keras' word index, and return the exit code."""
    return _answer(lambda path: keras_vocabulary(path, check=False), path)


def torch_file(path: str) -> int:
    """Read a file with weights of PyTorch, and return the exit code."""
    return _answer(lambda path: convert.generation_from_torch(convert.read_torch_file(path)), path)


def keras_file(path: str) -> int:
    """Read a file with weights of Keras, and return the exit code."""
    return _answer(convert.generation_from_keras_file, path)
