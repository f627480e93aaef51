"""Word index of Keras' IMDB reviews (`imdb_word_index.json`), which maps each word to its rank. The most frequent word has the rank 1."""

import contextlib
import json
import os
from pathlib import Path

from lstm_jax.data.download import download, file_digest
from lstm_jax.data.reviews.vocabulary import FIRST_WORD, Vocabulary
from lstm_jax.errors import require
from lstm_jax.files.reading import parsing, read_input
from lstm_jax.files.writing import default_cache_dir, user_path

WORD_INDEX_NAME = "imdb_word_index.json"
WORD_INDEX_MD5 = "bfafd718b763782e994055a2d397834f"
WORD_INDEX_URL = "https://storage.googleapis.com/tensorflow/tf-keras-datasets/imdb_word_index.json"
REMEDY = f"put Keras' {WORD_INDEX_NAME} beside the data, or use --vocabulary frequency"


def _verify(path: Path) -> None:
    digest = file_digest(path, "md5")
    require(digest == WORD_INDEX_MD5, f"md5 of word index {path}", f"{digest} instead of {WORD_INDEX_MD5}", REMEDY)


def keras_vocabulary(word_index_path: Path, num_words: int | None = None, check: bool = True) -> Vocabulary:
    """Return the vocabulary of `keras.datasets.imdb`, which has 88,584 words.

    Args:
        word_index_path: path of Keras' `imdb_word_index.json`.
        num_words: number of ids, including the four reserved ids 0 to 3. Words that are too rare for an id of their own have the id 2. If
            None or 0, every word has an id of its own, which makes 88,588 ids.
        check: whether the MD5 of the file is compared with that of Keras' file.

    Raises:
        InputError: if the file cannot be read, its MD5 differs, the ranks of its words are not 1, 2, 3, ..., or `num_words` is below 4 and
            not 0.
    """
    if check:
        _verify(word_index_path)
    subject = f"word index {word_index_path}"
    content = read_input(word_index_path, subject, REMEDY)
    with parsing(subject, REMEDY):
        ranks = json.loads(content)
        words = sorted(ranks, key=ranks.__getitem__)
        if [ranks[word] for word in words] != list(range(1, len(words) + 1)) or not all(words):
            raise ValueError("the ranks are not 1, 2, 3, ... of words")
    return Vocabulary(tuple(words), FIRST_WORD + len(words), "keras").capped(num_words)


def find_word_index(near: Path, cache_dir: Path | None = None) -> Path:
    """Return the path of Keras' word index. If the file is not found on this machine, download it to the cache.

    The file is searched for in these folders, in this order:

    1. the folder of the data, which the argument `near` gives
    2. `$LSTM_JAX_DATA/imdb`, if the variable is set
    3. `~/.keras/datasets`
    4. the folder of the cache

    Args:
        near: path of the data. If it leads to a file, the folder that contains the file is searched. If it leads to a folder, this folder
            is searched first, and its parent folder next.
        cache_dir: folder of the cache. If None, it is the folder that `default_cache_dir` returns.

    Raises:
        InputError: if the file is not found and the download fails.
    """
    root, cached = os.environ.get("LSTM_JAX_DATA", ""), (cache_dir or default_cache_dir()) / WORD_INDEX_NAME
    folders = [near, near.parent] if near.is_dir() else [near.parent]
    folders += [user_path(root) / "imdb"] if root else []
    with contextlib.suppress(RuntimeError):  # a user may have no home
        folders.append(Path.home() / ".keras" / "datasets")
    folders.append(cached.parent)
    for folder in folders:
        if os.path.isfile(folder / WORD_INDEX_NAME):
            return folder / WORD_INDEX_NAME
    download(WORD_INDEX_URL, cached, _verify, REMEDY)
    return cached
