"""`prepare` turns reviews into ids and caches them. A cache that is damaged, or belongs
to other data, is rebuilt.
"""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from made_reviews import WORDS, made_rows
from numpy.testing import assert_array_equal
from refused import refused

from lstm_jax.lab.files.padding import pad_sequences
from lstm_jax.lab.sentiment.data import (
    TextSplit,
    dataset,
    encode_reviews,
    load_reviews,
    prepare,
)
from lstm_jax.lab.sentiment.data.dataset import save_cache


@pytest.fixture
def options(jsonl, tmp_path):
    return {
        "data": str(jsonl),
        "cache_dir": str(tmp_path / "cache"),
        "num_words": 9,
        "verify": False,
    }


def same(one, other):
    for name in ("train", "test"):
        for part in ("values", "offsets", "labels", "groups"):
            assert_array_equal(
                getattr(getattr(one, name), part),
                getattr(getattr(other, name), part),
                strict=True,
            )
    assert (one.vocabulary, one.fingerprint) == (other.vocabulary, other.fingerprint)


def test_keras_ids_and_order(options):
    reviews = prepare(**options)
    rng = np.random.RandomState(113)
    for name, split in (("train", reviews.train), ("test", reviews.test)):
        rows = sorted(
            made_rows(name),
            key=lambda row: (-row["label"], f"{row['id']}_{row['rating']}.txt"),
        )
        order = np.arange(len(rows))
        rng.shuffle(order)
        rows = [rows[row] for row in order]
        for number, row in enumerate(rows):
            words = (
                row["text"]
                .lower()
                .replace(".", " ")
                .replace(":", " ")
                .replace("!", " ")
                .split()
            )
            ids = [WORDS.index(word) + 4 for word in words if word in WORDS]
            assert split.row(number).tolist() == [
                1,
                *(2 if one >= 9 else one for one in ids),
            ]
        assert split.labels.tolist() == [row["label"] for row in rows]
        assert split.groups.tolist() == [int(row["movie"][2:]) for row in rows]
        assert (split.labels.dtype, split.values.dtype, split.offsets.dtype) == (
            np.int32,
            np.int32,
            np.int64,
        )
    assert reviews.vocabulary.words == tuple(WORDS)
    assert reviews.vocabulary.size == 9


def test_one_cache_serves_every_cap(options, tmp_path, monkeypatch):
    stages = []
    whole = prepare(
        **options | {"num_words": None},
        on_progress=lambda *stage: stages.append(stage[0]),
    )
    assert stages == [
        "hashing the source",
        "reading reviews",
        "encoding reviews",
        "writing the cache",
        "done",
    ]
    assert whole.vocabulary.size == 4 + len(WORDS)
    monkeypatch.setattr(dataset, "read_source", None)
    same(prepare(**options | {"num_words": None}), whole)
    capped = prepare(**options)
    assert len(list((tmp_path / "cache").iterdir())) == 1
    assert_array_equal(
        capped.train.values, np.where(whole.train.values >= 9, 2, whole.train.values)
    )
    assert whole.fingerprint != capped.fingerprint


def test_frequency_keeps_the_order(options):
    reviews = prepare(**options | {"vocabulary": "frequency"})
    rows = made_rows("train")
    assert reviews.train.labels.tolist() == [row["label"] for row in rows]
    # 27 times each
    assert (reviews.vocabulary.kind, reviews.vocabulary.words) == (
        "frequency",
        ("a", "film", "plot", "the", "was"),
    )
    assert (
        reviews.train.row(0).tolist()
        == reviews.vocabulary.encode(rows[0]["text"]).tolist()
    )


def test_padded_select_and_hashes(options):
    split = prepare(**options).train
    rows = [split.row(number).tolist() for number in range(len(split))]
    assert_array_equal(
        split.padded(5, "pre", "post"),
        pad_sequences(rows, 5, padding="pre", truncating="post"),
    )
    some = split.select(np.asarray([7, 0, 7]))
    assert [some.row(number).tolist() for number in range(3)] == [
        rows[7],
        rows[0],
        rows[7],
    ]
    assert some.labels.tolist() == split.labels[[7, 0, 7]].tolist()
    hashes = split.hashes()
    assert len(set(hashes.tolist())) == len({row["text"] for row in made_rows("train")})
    assert some.hashes().tolist() == hashes[[7, 0, 7]].tolist()


def test_reviews_of_rare_words_are_no_copies(tmp_path):
    """Reviews with different words have different hashes, even if a small vocabulary
    gives all reviews the same ids.
    """
    table = tmp_path / "a.csv"
    table.write_text(
        "text,label\n" + "".join(f"film{n % 9},{n % 2}\n" for n in range(18))
    )
    for num_words in (None, 4):
        split = prepare(
            data=str(table),
            cache_dir=str(tmp_path / "cache"),
            vocabulary="frequency",
            num_words=num_words,
        ).train
        assert len({tuple(split.row(number)) for number in range(18)}) == (
            9 if num_words is None else 1
        )
        hashes = split.hashes().tolist()
        assert hashes[:9] == hashes[9:]
        assert len(set(hashes)) == 9


def test_reviews_without_a_word_of_keras(jsonl, options):
    table = jsonl / "chinese.csv"
    table.write_text(
        "text,label\n" + "".join(f"\u7535\u5f71{n},{n % 2}\n" for n in range(4))
    )
    refused(
        r"^train reviews: no word is in Keras' word index; use --vocabulary frequency",
        prepare,
        **options | {"data": str(table)},
    )
    assert (
        prepare(
            **options
            | {"data": str(table), "vocabulary": "frequency", "num_words": None}
        ).vocabulary.size
        == 8
    )


def test_a_source_that_changes_meanwhile_is_not_cached(tmp_path):
    table, cache = tmp_path / "a.csv", tmp_path / "cache"
    old, new = "text,label\ngood,1\nbad,0\n", "text,label\ngood,0\nbad,1\n"

    def change(stage, *_):
        if stage == "reading reviews":
            table.write_text(new)

    table.write_text(old)
    refused(
        r"a\.csv: changed while it was read; read it when nothing writes to it",
        prepare,
        data=str(table),
        vocabulary="frequency",
        cache_dir=str(cache),
        on_progress=change,
    )
    table.write_text(old)
    assert prepare(
        data=str(table), vocabulary="frequency", cache_dir=str(cache)
    ).train.labels.tolist() == [1, 0]


def test_another_source_or_option_is_another_cache(options, jsonl, tmp_path):
    first = prepare(**options)
    with (jsonl / "train.jsonl").open("a") as file:
        file.write(json.dumps({"text": "good", "label": 1}) + "\n")
    second = prepare(**options)
    assert len(second.train) == len(first.train) + 1
    assert second.fingerprint != first.fingerprint
    (jsonl / "imdb_word_index.json").write_text(
        json.dumps({word: rank for rank, word in enumerate(reversed(WORDS), 1)})
    )
    assert prepare(**options).fingerprint != second.fingerprint
    assert len(list((tmp_path / "cache").iterdir())) == 3


def test_damaged_cache_is_rebuilt(options, tmp_path):
    first = prepare(**options)
    (path,) = (tmp_path / "cache").iterdir()
    whole, other = path.read_bytes(), tmp_path / "other.npz"
    damaged = [whole[:length] for length in range(0, len(whole), len(whole) // 12)]
    damaged += [
        whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :]
        for at in range(0, len(whole), len(whole) // 40)
    ]
    with np.load(path) as file:
        save_cache(
            other,
            "another key",
            {name: file[name] for name in file.files if name != "key"},
        )
    for content in (*damaged, other.read_bytes()):
        path.write_bytes(content)
        same(prepare(**options), first)
        assert path.stat().st_size == len(whole)


def test_default_cache_and_data(jsonl, tmp_path, monkeypatch):
    monkeypatch.setenv("LSTM_JAX_DATA", str(tmp_path))
    jsonl.rename(tmp_path / "imdb")
    reviews = prepare(verify=False)
    assert len(list((Path(os.environ["XDG_CACHE_HOME"]) / "lstm_jax").iterdir())) == 1
    monkeypatch.delenv("XDG_CACHE_HOME")
    same(prepare(verify=False), reviews)
    assert len(list((Path.home() / ".cache" / "lstm_jax").iterdir())) == 1


def test_encode_reviews(jsonl):
    splits = {"train": load_reviews(jsonl)["train"]}
    reviews = encode_reviews(splits, 100)
    assert (reviews.test, reviews.vocabulary.size) == (None, 100)
    assert (
        reviews.train.row(3).tolist()
        == reviews.vocabulary.encode(splits["train"].texts[3]).tolist()
    )
    assert (
        encode_reviews(splits, 100).fingerprint
        == reviews.fingerprint
        != encode_reviews(splits, 50).fingerprint
    )
    one_sided = TextSplit(
        splits["train"].texts[:1], splits["train"].labels[:1], splits["train"].names[:1]
    )
    refused("0 positive and 1 negative", encode_reviews, {"train": one_sided})
