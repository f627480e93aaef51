"""Files of Keras' IMDB reviews: `imdb.npz`, and the word index `imdb_word_index.json`,
which maps each word to its rank.

`imdb.npz` holds the reviews as lists of word ranks, in object arrays, which NumPy
stores as pickles.
"""

import hashlib
import io
import json
import os
from pathlib import Path

import numpy as np
from numpy import ndarray

from lstm_jax.base.errors import require
from lstm_jax.base.reading import file_digest, parsing, read_input
from lstm_jax.base.writing import default_cache_dir, download, user_path
from lstm_jax.lab.files.padding import ragged
from lstm_jax.lab.sentiment.data.splits import EncodedSplit
from lstm_jax.lab.sentiment.data.vocabulary import FIRST_WORD, START, Vocabulary

SHA256 = "69664113be75683a8fe16e3ed0ab59fda8886cb3cd7ada244f7d9544e4676b9f"
"""Checksum of the published imdb.npz, which `keras.datasets.imdb.load_data` checks too.
No other file is read, since a pickle can run code."""
WORD_INDEX_NAME = "imdb_word_index.json"
WORD_INDEX_MD5 = "bfafd718b763782e994055a2d397834f"
WORD_INDEX_URL = (
    "https://storage.googleapis.com/tensorflow/tf-keras-datasets/imdb_word_index.json"
)
REMEDY = f"put Keras' {WORD_INDEX_NAME} beside the data, or use --vocabulary frequency"


def read_keras_npz(path: Path) -> dict[str, EncodedSplit]:
    """Return the reviews in Keras' imdb.npz, as a dict from the name of each split to
    its reviews, without a limit of the ids.
    """
    content = read_input(path)
    digest = hashlib.sha256(content).hexdigest()
    remedy = (
        "give the imdb.npz that keras.datasets.imdb.load_data() downloads, or a "
        "table of texts; no other pickle is read"
    )
    require(
        digest == SHA256,
        f"file {path}",
        f"not the published imdb.npz: its sha256 is {digest[:16]}...",
        remedy,
    )
    with np.load(io.BytesIO(content), allow_pickle=True) as file:
        return {
            split: _with_starts(file[f"x_{split}"], file[f"y_{split}"])
            for split in ("train", "test")
        }


def _with_starts(rows: ndarray, labels: ndarray) -> EncodedSplit:
    ranks, offsets = ragged(rows)
    ids = np.insert(ranks + FIRST_WORD - 1, offsets[:-1], START)
    return EncodedSplit(
        ids,
        offsets + np.arange(len(offsets)),
        labels.astype(np.int32),
        np.full(len(labels), -1, np.int32),
    )


def _verify(path: Path):
    digest = file_digest(path, "md5")
    require(
        digest == WORD_INDEX_MD5,
        f"md5 of word index {path}",
        f"{digest} instead of {WORD_INDEX_MD5}",
        REMEDY,
    )


def keras_vocabulary(
    word_index_path: Path, num_words: int | None = None, check: bool = True
) -> Vocabulary:
    """Return the vocabulary of `keras.datasets.imdb`, which has 88,584 words.

    Args:
        word_index_path: path of Keras' `imdb_word_index.json`.
        num_words: number of ids; see `Vocabulary.capped`. If None or 0, there are
            88,588 ids.
        check: whether the MD5 of the file is compared with that of Keras' file.

    Raises:
        InputError: if the file cannot be read, its MD5 differs, the ranks of its words
            are not 1, 2, 3, ..., or `num_words` is below 4 and not 0.
    """
    if check:
        _verify(word_index_path)
    subject = f"word index {word_index_path}"
    content = read_input(word_index_path, subject, REMEDY)
    with parsing(subject, REMEDY):
        ranks = json.loads(content)
        words = sorted(ranks, key=ranks.__getitem__)
        if [ranks[word] for word in words] != list(range(1, len(words) + 1)) or not all(
            words
        ):
            raise ValueError("the ranks are not 1, 2, 3, ... of words")
    # which sets the number of ids
    return Vocabulary(tuple(words), FIRST_WORD, "keras").capped(num_words)


def find_word_index(near: Path, cache_dir: Path | None = None) -> Path:
    """Return the path of Keras' word index. If the file is not found on this machine,
    download it to the cache.

    It is searched for in the folder of the data, in `$LSTM_JAX_DATA/imdb` if the
    variable is set, in `~/.keras/datasets` and in the folder of the cache, in this
    order.

    Args:
        near: path of the data: a folder, which is searched first, and its parent folder
            next, or a file, whose folder is searched.
        cache_dir: folder of the cache. If None, it is the folder that
            `default_cache_dir` returns.

    Raises:
        InputError: if the file is not found and the download fails.
    """
    root, cache = os.environ.get("LSTM_JAX_DATA", ""), cache_dir or default_cache_dir()
    own = [user_path(root) / "imdb"] if root else []
    # unlike Path.home(), raises nothing for a user without a home
    keras = Path(os.path.expanduser("~")) / ".keras" / "datasets"
    for folder in (near, near.parent, *own, keras, cache):
        if os.path.isfile(folder / WORD_INDEX_NAME):
            return folder / WORD_INDEX_NAME
    download(WORD_INDEX_URL, cache / WORD_INDEX_NAME, _verify, REMEDY)
    return cache / WORD_INDEX_NAME
