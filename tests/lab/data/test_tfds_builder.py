"""The TFDS builder writes reviews that are read back unchanged, without TensorFlow."""

import subprocess
import sys

import pytest
from made_reviews import made_rows
from numpy.testing import assert_array_equal
from refused import refused

from lstm_jax.lab.sentiment.data import (
    build_tfds,
    load_reviews,
    prepare,
    reviews_from_tfds,
)


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))
    return tmp_path / "tfds"


def test_round_trip(jsonl, home, capfd):
    builder = build_tfds(jsonl)
    assert builder.name == "lstm_jax_imdb"
    assert builder.info.features["label"].names == ["neg", "pos"]
    assert list(home.glob("**/*.array_record*"))
    first = builder.as_data_source(split="test")[0]
    row = made_rows("test")[0]
    assert first == {
        "text": row["text"].encode(),
        "label": 0,
        "id": 0,
        "rating": 2,
        "movie": b"tt0000000",
    }

    expected, back = load_reviews(jsonl), reviews_from_tfds()
    assert list(back) == list(expected)
    for name, split in expected.items():
        assert (back[name].texts, back[name].names, back[name].groups) == (
            split.texts,
            split.names,
            split.groups,
        )
        assert_array_equal(back[name].labels, split.labels, strict=True)
    # a data set that exists is not built again
    assert build_tfds(home / "absent").is_prepared()
    assert "tensorflow" not in sys.modules
    assert capfd.readouterr() == ("", "")


def test_prepare_from_tfds(jsonl, home, tmp_path):
    build_tfds(jsonl)
    options = {
        "cache_dir": str(tmp_path / "cache"),
        "vocabulary": "frequency",
        "num_words": None,
    }
    here, there = prepare(data=str(jsonl), **options), prepare(data="tfds", **options)
    for name in ("train", "test"):
        for part in ("values", "offsets", "labels"):
            assert_array_equal(
                getattr(getattr(here, name), part), getattr(getattr(there, name), part)
            )
    refused("test_data", prepare, data="tfds", test_data="more.csv", **options)


def test_odd_bytes_and_unknown_ids(tmp_path, archive):
    files = {"train/pos/0_9.txt": b"\xff \x00 ok", "train/neg/0_1.txt": b""}
    build_tfds(archive(files=files), tmp_path / "a")
    back = reviews_from_tfds(tmp_path / "a")["train"]
    assert (back.texts, back.names, back.groups) == (
        (b"\xff \x00 ok", b""),
        ("pos/0_9.txt", "neg/0_1.txt"),
        None,
    )
    table = tmp_path / "a.csv"
    # the first id is too large for an int64
    table.write_text(f"text,label,id,rating\ngood,1,{10**20},9\nbad,0,{10**17},1\n")
    build_tfds(table, tmp_path / "c")
    assert reviews_from_tfds(tmp_path / "c")["train"].names == (
        "pos/000000000.txt",
        f"neg/{10**17}_1.txt",
    )


def test_not_built_no_network_no_package(home, monkeypatch):
    refused(
        "not built yet; build it with `lstm-jax data prepare --data PATH --tfds`",
        prepare,
        data="tfds",
    )
    refused("no network in tests; give --data the path of a local copy", build_tfds)
    refused("no such file", build_tfds, home / "absent")
    monkeypatch.setitem(sys.modules, "array_record", None)
    refused(r'pip install "\.\[tfds\]"', prepare, data="tfds")


def test_imports_stay_light():
    code = (
        "import sys, lstm_jax.lab.sentiment.data; print({'jax', 'flax', 'tensorflow_datasets', "
        "'tensorflow', 'keras'} & set(sys.modules))"
    )
    assert (
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout
        == "set()\n"
    )
