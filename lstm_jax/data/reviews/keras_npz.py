"""Reading of Keras' `imdb.npz`. This file holds the reviews as lists of word ranks, in object arrays, which NumPy stores as pickles."""

import hashlib
import io
import os
from pathlib import Path

import numpy as np

from lstm_jax.data.padding import ragged
from lstm_jax.data.reviews.form import Found, Ranks
from lstm_jax.errors import require
from lstm_jax.files.reading import read_input

NAME = "imdb.npz"
SHA256 = "69664113be75683a8fe16e3ed0ab59fda8886cb3cd7ada244f7d9544e4676b9f"
"""Checksum of the published file, which `keras.datasets.imdb.load_data` checks too. No other file is read, since a pickle can run code."""


def find_keras_npz(path: Path) -> Found | None:
    """Return the location of Keras' reviews at a path, or None if there is no .npz file at this path."""
    if not path.is_dir():
        return Found(path, {"npz": path}) if path.suffix == ".npz" else None
    inside = path / NAME
    return Found(inside, {"npz": inside}) if os.path.isfile(inside) else None


def read_keras_npz(path: Path) -> dict[str, Ranks]:
    """Return the reviews in Keras' imdb.npz, as a dict from the name of each split to its reviews."""
    content = read_input(path)
    digest = hashlib.sha256(content).hexdigest()
    remedy = "give the imdb.npz that keras.datasets.imdb.load_data() downloads, or a table of texts; no other pickle is read"
    require(digest == SHA256, f"file {path}", f"not the published imdb.npz: its sha256 is {digest[:16]}...", remedy)
    with np.load(io.BytesIO(content), allow_pickle=True) as file:
        return {split: Ranks(*ragged(file[f"x_{split}"]), file[f"y_{split}"].astype(np.int32)) for split in ("train", "test")}
