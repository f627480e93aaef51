"""Keras' imdb.npz: `prepare` gives the ids and labels of Keras' `load_data`, and no
other file is unpickled.
"""

import hashlib
import json
import os

import numpy as np
import pytest
from numpy.testing import assert_array_equal

os.environ.setdefault("KERAS_BACKEND", "jax")
from keras.datasets import imdb as keras_imdb
from keras.src.datasets import imdb as keras_source
from refused import refused

from lstm_jax.lab.sentiment.data import dataset as files
from lstm_jax.lab.sentiment.data import load_reviews, prepare
from lstm_jax.lab.sentiment.data.dataset import read_keras_npz

RNG = np.random.default_rng(0)


def objects(rows):
    array = np.empty(len(rows), object)
    array[:] = rows
    return array


def made():
    arrays = {}
    for split, count in (("train", 30), ("test", 20)):
        arrays[f"x_{split}"] = objects(
            [
                RNG.integers(1, 50, size=RNG.integers(0, 9)).tolist()
                for _ in range(count)
            ]
        )
        arrays[f"y_{split}"] = np.arange(count) % 2
    # Rank 50 occurs only here. Its id, 53, is the largest one, which Keras uses as
    # `num_words` if none is given.
    arrays["x_test"][0] = [50]
    return arrays


def publish(monkeypatch, path, **change):
    """Write a file, and make its checksum the one that `read_keras_npz` expects."""
    np.savez(path, **(made() | change))
    monkeypatch.setattr(files, "SHA256", hashlib.sha256(path.read_bytes()).hexdigest())


@pytest.fixture
def npz(tmp_path, monkeypatch):
    path = tmp_path / "imdb.npz"
    publish(monkeypatch, path)
    (tmp_path / "imdb_word_index.json").write_text(
        json.dumps({f"w{rank}": rank for rank in range(1, 51)})
    )
    return path


@pytest.mark.parametrize("num_words", [20, 53])
def test_equals_keras_load_data(npz, tmp_path, monkeypatch, num_words):
    monkeypatch.setattr(keras_source, "get_file", lambda **_: str(npz))
    theirs = keras_imdb.load_data(num_words=num_words)
    ours = prepare(
        data=str(npz),
        num_words=num_words,
        cache_dir=str(tmp_path / "cache"),
        verify=False,
    )
    for split, (rows, labels) in zip((ours.train, ours.test), theirs, strict=True):
        assert [split.row(number).tolist() for number in range(len(split))] == list(
            rows
        )
        assert_array_equal(split.labels, labels)
        assert (split.groups == -1).all()
    assert ours.vocabulary.word(4) == "w1"


def test_texts_and_frequency_are_refused(npz):
    refused("word ranks, not texts", load_reviews, npz)
    refused("use --vocabulary keras", prepare, data=str(npz), vocabulary="frequency")


def test_another_pickle_is_refused(npz):
    np.savez(npz, **made())
    refused(
        r"not the published imdb\.npz: its sha256 is [0-9a-f]{16}\.\.\.;",
        read_keras_npz,
        npz,
    )
