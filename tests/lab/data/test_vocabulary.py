"""`tokenize`, `Vocabulary` with its ids and files, and the search for Keras' word
index.
"""

import json
import urllib.request
from io import BytesIO

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from refused import refused

from lstm_jax.lab.sentiment.data import (
    Vocabulary,
    build_vocabulary,
    dataset,
    find_word_index,
    keras_vocabulary,
    tokenize,
)

KERAS = Vocabulary(("the", "film", "was", "good"), 7, "keras")
FREQUENCY = Vocabulary(("the", "film", "was"), 7, "frequency")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "The film: <br /><br />it's GOOD-ish!",
            [b"the", b"film", b"br", b"br", b"it's", b"good", b"ish"],
        ),
        ("", []),
        # ASCII letters only are lowered
        ("ÉCLAIR Été", ["Éclair".encode(), "Été".encode()]),
        (b"caf\xe9 \x00Nul\x00 a\rb\x0bc", [b"caf\xe9", b"\x00nul\x00", b"a\rb\x0bc"]),
        ('tab\tnew\nline!"#$%&()*+,-./:;<=>?@[\\]^_`{|}~', [b"tab", b"new", b"line"]),
    ],
)
def test_tokenize(text, words):
    assert tokenize(text) == words


def test_encode_decode():
    # "the", "film" and "was" have the ids 4, 5 and 6; "good" has 7, which is not below
    # num_words; "odd" has no id
    assert_array_equal(
        KERAS.encode("The film was odd, good"),
        np.asarray([1, 4, 5, 6, 2], np.int32),
        strict=True,
    )
    assert_array_equal(
        FREQUENCY.encode(b"The film was odd, good"),
        np.asarray([1, 4, 5, 6, 2, 2], np.int32),
        strict=True,
    )
    assert KERAS.encode("").tolist() == FREQUENCY.encode("").tolist() == [1]
    assert KERAS.decode([0, 0, 1, 4, 2, 6]) == "the [OOV] was"
    assert KERAS.index == {"the": 4, "film": 5, "was": 6, "good": 7}
    assert (KERAS.size, KERAS.word(3), KERAS.word(7)) == (7, "[UNUSED]", "good")
    values, offsets = KERAS.encode_all(["the", "", "good film"])
    assert values.tolist() == [1, 4, 1, 1, 2, 5]
    assert offsets.tolist() == [0, 2, 3, 6]
    for identity in (-1, 8):
        refused("ids are 0 to 7", KERAS.word, identity)
        refused("ids are 0 to 7", KERAS.decode, [4, identity])


def test_capping():
    assert KERAS.capped(5).encode("the film odd").tolist() == [1, 4, 2]
    assert KERAS.capped(5).capped(None) == Vocabulary(KERAS.words, 8, "keras")
    assert FREQUENCY.capped(5) == Vocabulary(("the",), 5, "frequency")
    assert FREQUENCY.capped(20_000).size == 20_000
    assert KERAS.capped(4).encode("the film odd").tolist() == [1, 2, 2]
    refused("num_words: 3", KERAS.capped, 3)


def test_build_vocabulary():
    texts = ["b a b", b"A c \xff", "b d"]
    whole = build_vocabulary(texts)
    # counts 3 and 2, then words with equal counts in the order of their bytes
    assert whole.words == ("b", "a", "c", "d", "\udcff")
    assert (whole.num_words, whole.kind) == (9, "frequency")
    assert whole.encode(b"\xff d z").tolist() == [1, 8, 7, 2]
    assert build_vocabulary(texts, 6) == Vocabulary(("b", "a"), 6, "frequency")
    assert build_vocabulary([]).words == ()


def test_save_and_load(tmp_path):
    for vocabulary in (KERAS, FREQUENCY, build_vocabulary([b"\xff caf\xc3\xa9 \x00"])):
        vocabulary.save(tmp_path / "new" / "vocabulary.json")
        assert Vocabulary.load(tmp_path / "new" / "vocabulary.json") == vocabulary
    refused("valid Unicode", KERAS.encode, "\ud800")


def test_damaged_vocabularies(tmp_path):
    path, good = tmp_path / "vocabulary.json", KERAS.to_json()
    changes = (
        {"format": 9},
        {"kind": "other"},
        {"num_words": 3},
        {"words": ["a", "a"]},
        {"words": 5},
    )
    damaged = [json.dumps(json.loads(good) | change).encode() for change in changes]
    for content in (*damaged, good[:-5], b"[]", b"\xff", b""):
        path.write_bytes(content)
        refused(r"^vocabulary .*vocabulary\.json: .*of a run", Vocabulary.load, path)
    path.unlink()
    refused("No such file", Vocabulary.load, path)


def test_keras_vocabulary(tmp_path):
    path = tmp_path / "imdb_word_index.json"
    path.write_text(json.dumps({"film": 2, "the": 1, "café": 3}))
    refused("md5 of word index", keras_vocabulary, path)
    made = keras_vocabulary(path, 6, check=False)
    assert made == Vocabulary(("the", "film", "café"), 6, "keras")
    assert made.encode("Film café THE").tolist() == [1, 5, 2, 4]
    for content in ('{"a": 1, "b": 3}', '{"a": "x"}', "[1]", "{", '{"a": 1, "b": 1}'):
        path.write_text(content)
        refused(
            r"word index .*--vocabulary frequency", keras_vocabulary, path, check=False
        )


def test_find_word_index(tmp_path, monkeypatch):
    near, cache = tmp_path / "near", tmp_path / "cache"
    near.mkdir()
    refused(
        r"no network in tests; put Keras' .*--vocabulary frequency",
        find_word_index,
        near,
        cache,
    )
    assert list(cache.iterdir()) == []

    monkeypatch.setattr(dataset, "WORD_INDEX_MD5", "900150983cd24fb0d6963f7d28e17f72")
    reply = BytesIO(b"abc")
    reply.headers = {}
    monkeypatch.setattr(urllib.request, "urlopen", lambda url, timeout: reply)
    assert find_word_index(near, cache).read_bytes() == b"abc"
    monkeypatch.setattr(urllib.request, "urlopen", None)
    assert find_word_index(near, cache) == cache / "imdb_word_index.json"

    monkeypatch.setenv("LSTM_JAX_DATA", str(tmp_path / "data"))
    places = [tmp_path / "data" / "imdb", tmp_path, near]
    for place in places:
        place.mkdir(parents=True, exist_ok=True)
        (place / "imdb_word_index.json").write_text("{}")
        assert find_word_index(near, cache) == place / "imdb_word_index.json"
