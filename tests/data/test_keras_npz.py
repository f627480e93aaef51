"""Keras' imdb.npz: `prepare` gives the ids and labels of Keras' `load_data`, and no code in the file is run."""

import json
import os
import pickle
import zipfile

import numpy as np
import pytest

os.environ.setdefault("KERAS_BACKEND", "jax")
from keras.datasets import imdb as keras_imdb
from keras.src.datasets import imdb as keras_source

from lstm_jax.data import load_reviews, prepare
from lstm_jax.data.reviews.keras_npz import read_keras_npz
from lstm_jax.errors import InputError

RNG = np.random.default_rng(0)


def objects(rows):
    array = np.empty(len(rows), object)
    array[:] = rows
    return array


def made():
    arrays = {}
    for split, count in (("train", 30), ("test", 20)):
        arrays[f"x_{split}"] = objects([RNG.integers(1, 50, size=RNG.integers(0, 9)).tolist() for _ in range(count)])
        arrays[f"y_{split}"] = np.arange(count) % 2
    # Rank 50 occurs only here. Its id, 53, is the largest one, which Keras uses as `num_words` if none is given.
    arrays["x_test"][0] = [50]
    return arrays


@pytest.fixture
def npz(tmp_path):
    path = tmp_path / "imdb.npz"
    np.savez(path, **made())
    (tmp_path / "imdb_word_index.json").write_text(json.dumps({f"w{rank}": rank for rank in range(1, 51)}))
    return path


@pytest.mark.parametrize("num_words", [20, 53])
def test_equals_keras_load_data(npz, tmp_path, monkeypatch, num_words):
    monkeypatch.setattr(keras_source, "get_file", lambda **_: str(npz))
    theirs = keras_imdb.load_data(num_words=num_words)
    ours = prepare(data=str(npz), num_words=num_words, cache_dir=str(tmp_path / "cache"), verify=False)
    for split, (rows, labels) in zip((ours.train, ours.test), theirs, strict=True):
        assert [split.row(number).tolist() for number in range(len(split))] == list(rows)
        np.testing.assert_array_equal(split.labels, labels)
        assert (split.groups == -1).all()
    assert ours.vocabulary.word(4) == "w1"


def test_texts_and_frequency_are_refused(npz):
    with pytest.raises(InputError, match="word ranks, not texts"):
        load_reviews(npz)
    with pytest.raises(InputError, match="use --vocabulary keras"):
        prepare(data=str(npz), vocabulary="frequency")


def rewrite(path, name, content):
    with zipfile.ZipFile(path) as archive:
        members = {one: archive.read(one) for one in archive.namelist()} | {name: content}
    with zipfile.ZipFile(path, "w") as archive:
        for one, old in members.items():
            archive.writestr(one, old)


class Evil:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


def header_of(path, name):
    with zipfile.ZipFile(path) as archive:
        content = archive.read(name)
    return content[: 10 + int.from_bytes(content[8:10], "little")]


def test_malicious_pickle_is_refused(npz, tmp_path):
    victim = tmp_path / "owned"
    evil = header_of(npz, "x_train.npy") + pickle.dumps(objects([Evil(str(victim)), [1]]))
    rewrite(npz, "x_train.npy", evil)
    with pytest.raises(InputError, match=r"imdb.npz: the pickle asks for posix.mkdir"):
        read_keras_npz(npz)
    assert not victim.exists()
    with np.load(npz, allow_pickle=True) as file:
        file["x_train"]
    assert victim.exists()  # NumPy has run the pickle, so the file was dangerous


@pytest.mark.parametrize("payload", [pickle.dumps([1]), pickle.dumps(7), b"", b"\x80\x04garbage", b"cbuiltins\neval\n."])
def test_damaged_pickle_is_refused(npz, payload):
    rewrite(npz, "x_train.npy", header_of(npz, "x_train.npy") + payload)
    with pytest.raises(InputError, match=r"give Keras' own imdb.npz"):
        read_keras_npz(npz)


@pytest.mark.parametrize(
    "change",
    [
        {"y_train": np.arange(29) % 2},
        {"y_train": np.arange(30) % 3},
        {"y_train": np.zeros(30, int)},
        {"x_train": objects([["a"]] * 30)},
        {"x_train": objects([[0.5]] * 30)},
        {"x_train": objects([[0]] * 30)},
        {"x_train": objects([7] * 30)},
        {"x_train": objects([[2**40]] * 30)},
    ],
)
def test_other_arrays_are_refused(npz, change):
    np.savez(npz, **(made() | change))
    with pytest.raises(InputError, match=r"give Keras' own imdb.npz"):
        read_keras_npz(npz)


def test_rank_beyond_the_index_is_refused(npz, tmp_path):
    np.savez(npz, **(made() | {"x_train": objects([[51]] * 30)}))
    with pytest.raises(InputError, match="rank 51"):
        prepare(data=str(npz), cache_dir=str(tmp_path / "cache"), verify=False)


def test_truncated_or_foreign_file_is_refused(npz):
    whole = npz.read_bytes()
    for length in range(0, len(whole), len(whole) // 30):
        npz.write_bytes(whole[:length])
        with pytest.raises(InputError, match=r"give Keras' own imdb.npz"):
            read_keras_npz(npz)
    np.savez(npz, other=np.zeros(3))
    with pytest.raises(InputError, match="x_train"):
        read_keras_npz(npz)
