"""Commands that read one file or folder each, for the fuzzers of input files and of
flipped bits.

Each of them calls a reading function that no lstm-jax command of these fuzzers calls. A
command returns 0 if the file is read. If the file is refused, the command prints one
line of error and returns 2.
"""

import hashlib
import sys
from collections.abc import Callable
from pathlib import Path

from lstm_jax import convert
from lstm_jax.base.errors import InputError
from lstm_jax.lab.generation.data import read_shards
from lstm_jax.lab.sentiment.data import keras_vocabulary, read_review_shards


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
    return _answer(
        lambda path: convert.generation_from_torch(convert.read_torch_file(path)), path
    )


def keras_file(path: str) -> int:
    """Read a file with weights of Keras, and return the exit code."""
    return _answer(convert.generation_from_keras_file, path)


def shards(path: str) -> int:
    """Print a hash of all ids and labels in a folder of shards, and return the exit
    code.
    """

    def read(folder: Path) -> None:
        if folder.name == "text-shards":
            arrays = [read_shards(folder).ids[:]]
        else:
            reviews = read_review_shards(folder).train
            arrays = [
                reviews.values[:],
                reviews.lengths,
                reviews.labels,
                reviews.groups,
                reviews.digests,
            ]
        print(hashlib.sha256(b"".join(array.tobytes() for array in arrays)).hexdigest())

    return _answer(read, path)
