"""Reading of Keras' `imdb.npz`. This file holds the reviews as lists of word ranks, in object arrays, which NumPy stores as pickles."""

import os
from pathlib import Path

import numpy as np

from lstm_jax.data.padding import ragged
from lstm_jax.data.reviews.form import Found, Ranks
from lstm_jax.data.reviews.list_pickle import IDS, ROWS, read_lists
from lstm_jax.errors import require
from lstm_jax.files.npz import read_array, read_header, read_members
from lstm_jax.files.reading import parsing

NAME = "imdb.npz"
ARRAYS = ("x_train", "y_train", "x_test", "y_test")
GET_ANOTHER = "give Keras' own imdb.npz (x_train, y_train, x_test, y_test: lists of word ranks and labels)"


def find_keras_npz(path: Path) -> Found | None:
    """Return the location of Keras' reviews at a path, or None if there is no .npz file at this path.

    Args:
        path: path of a .npz file, or of a folder that contains imdb.npz.
    """
    if not path.is_dir():
        return Found(path, {"npz": path}) if path.suffix == ".npz" else None
    inside = path / NAME
    return Found(inside, {"npz": inside}) if os.path.isfile(inside) else None


def read_keras_npz(path: Path) -> dict[str, Ranks]:
    """Return the reviews in Keras' imdb.npz, as a dict from the name of each split to its reviews.

    The reviews are returned as the file stores them: the word ranks begin at 1, there is no start id, and the order is the stored order.
    `keras.datasets.imdb.load_data`, in contrast, adds a start id and shuffles the reviews. The pickles in the file are read by
    `list_pickle`, which builds nothing but lists of integers.

    Raises:
        InputError: if the file is damaged, if its reviews are not lists of word ranks, or if the labels of a split are not 0 and 1.
    """
    subject = f"file {path}"
    members = read_members(path, subject, GET_ANOTHER, ARRAYS)
    splits = {}
    for split in ("train", "test"):
        rows = _read_rows(members[f"x_{split}"], f"x_{split} in {subject}")
        labels = read_array(members[f"y_{split}"], f"y_{split} in {subject}", GET_ANOTHER)
        require(labels.shape == (len(rows),), f"{split} split of {path}", f"{len(rows)} rows, {labels.shape} labels", GET_ANOTHER)
        require(set(np.unique(labels).tolist()) == {0, 1}, f"{split} labels of {path}", np.unique(labels), GET_ANOTHER)
        ranks, offsets = ragged(rows)
        require(int(ranks.min(initial=1)) >= 1, f"{split} rows of {path}", f"rank {ranks.min(initial=1)}", GET_ANOTHER)
        splits[split] = Ranks(ranks, offsets, labels.astype(np.int32))
    return splits


def _read_rows(content: bytes, subject: str) -> list[np.ndarray]:
    """Return the rows of a .npy file, which holds a pickled array of lists or a plain two-dimensional array of integers.

    Each row is an int32 array.

    Args:
        content: the bytes of the .npy file.
        subject: name of the file in error messages.

    Raises:
        InputError: if the file holds anything else.
    """
    header = read_header(content, subject, GET_ANOTHER)
    if header.dtype.hasobject:
        require(header.dtype == np.dtype(object) and len(header.shape) == 1, subject, f"{header.dtype} {header.shape}", GET_ANOTHER)
        with parsing(subject, GET_ANOTHER):
            rows = read_lists(content[header.start :])
        require(len(rows) == header.shape[0], subject, f"{len(rows)} rows instead of {header.shape[0]}", GET_ANOTHER)
        return rows
    table = read_array(content, subject, GET_ANOTHER)
    fits = table.ndim == 2 and table.dtype.kind in "iu" and len(table) <= ROWS and table.size <= IDS
    require(fits, subject, f"{table.dtype} {table.shape}", GET_ANOTHER)
    good = table.size == 0 or (int(table.min()) >= 1 and int(table.max()) < 1 << 31)
    require(good, subject, "ranks out of range", GET_ANOTHER)
    return list(table.astype(np.int32))
