"""Reviews are read from JSON-lines and CSV tables; sources of unknown form and bad
tables are refused.
"""

import lzma

import numpy as np
import pytest
from made_reviews import made_rows, write_csv
from refused import refused

from lstm_jax.lab.sentiment.data import find_imdb, load_reviews


def check(split, name, movies=True):
    rows = made_rows(name)
    assert split.texts == tuple(row["text"].encode() for row in rows)
    assert split.labels.dtype == np.int32
    assert split.labels.tolist() == [row["label"] for row in rows]
    if movies:
        assert split.groups == tuple(row["movie"] for row in rows)
        assert split.names[:3] == ("neg/0_2.txt", "pos/0_9.txt", "neg/1_2.txt")


def test_folder_of_json_lines(jsonl):
    splits = load_reviews(jsonl)
    check(splits["train"], "train")
    check(splits["test"], "test")


def test_empty_cells_have_no_value(tmp_path):
    table = tmp_path / "a.csv"
    table.write_text("text,label,movie,group,id,rating\na,1,,g1,,\nb,0,m,g2,5,9\n")
    split = load_reviews(table)["train"]
    assert split.groups == ("g1", "m")
    assert split.names == ("pos/000000000.txt", "neg/5_9.txt")
    row = '{"text": "a", "label": %d, "movie": NaN, "id": NaN, "rating": NaN}\n'
    table.with_suffix(".jsonl").write_text(row % 0 + row % 1)
    split = load_reviews(table.with_suffix(".jsonl"))["train"]
    assert (split.groups, split.names) == (
        None,
        ("neg/000000000.txt", "pos/000000001.txt"),
    )


def test_single_files(jsonl, tmp_path):
    packed = tmp_path / "some.jsonl.xz"
    packed.write_bytes(lzma.compress((jsonl / "train.jsonl").read_bytes()))
    assert list(load_reviews(packed)) == ["train"]
    splits = load_reviews(packed, str(write_csv(tmp_path / "b.CSV", made_rows("test"))))
    check(splits["train"], "train")
    check(splits["test"], "test", movies=False)
    assert splits["test"].groups is None
    assert splits["test"].names[:2] == ("neg/000000000.txt", "pos/000000001.txt")
    packed.write_bytes(packed.read_bytes()[:-40])
    refused(r"some.jsonl.xz", load_reviews, packed)


def test_csv_columns_marks_and_odd_texts(tmp_path):
    texts = ['said "no", twice\nand left', "café \x00 nul", "x" * 1_000_000, ""]
    rows = [
        {"review": text, "mood": mood}
        for text, mood in zip(
            texts, ("neg", "Positive", "1", " negative "), strict=True
        )
    ]
    path = write_csv(tmp_path / "a.csv", rows, ("review", "mood"))
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    split = load_reviews(path, text_column="review", label_column="mood")["train"]
    assert split.texts == tuple(text.encode() for text in texts)
    assert split.labels.tolist() == [0, 1, 1, 0]


def test_labels_and_empty_trailing_columns(tmp_path):
    (tmp_path / "a.csv").write_text(
        "text,label,,\na,true,,\nb,False,,,\nc,1.0\nd,0.0,\n"
    )
    assert load_reviews(tmp_path / "a.csv")["train"].labels.tolist() == [1, 0, 1, 0]


@pytest.mark.parametrize("between", [b"", bytes(8)])
def test_an_xz_file_of_two_streams(tmp_path, between):
    packed, path = (
        lzma.compress(b'{"text": "fine", "label": 1}\n{"text": "foul", "label": 0}\n'),
        tmp_path / "a.jsonl.xz",
    )
    path.write_bytes(packed + between + packed)
    assert len(load_reviews(path)["train"]) == 4
    path.write_bytes(packed + between + packed[:3] + b"?" + packed[4:])
    refused(r"a\.jsonl\.xz: Input format not supported by decoder", load_reviews, path)


def test_sources_that_are_none(tmp_path, jsonl):
    train = jsonl / "train.jsonl"
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "train.csv").write_text("text,label\n")
    for paths, found in (
        ((tmp_path / "absent.csv",), "data .*no such file or folder"),
        ((tmp_path,), "data .*known form"),
        ((jsonl, str(train)), "test_data: .*has a test split of its own"),
        ((train, str(jsonl / "absent.jsonl")), "test_data .*give a file that ends in"),
        ((train, str(train)), "test_data: .*it has the training reviews"),
        (
            (tmp_path / "one", str(tmp_path / "one" / "train.csv")),
            "test_data: .*it has the training reviews",
        ),
    ):
        refused(f"^{found}", load_reviews, *paths)
    (jsonl / "train.csv").write_text("text,label\n")
    refused("keep one of them", load_reviews, jsonl)


def test_find_imdb(tmp_path, monkeypatch):
    refused("data: not given; give --data, or set LSTM_JAX_DATA", find_imdb, "")
    monkeypatch.setenv("LSTM_JAX_DATA", str(tmp_path))
    refused("imdb: no such file or folder", find_imdb, "")
    (tmp_path / "imdb").mkdir()
    assert find_imdb("") == tmp_path / "imdb"
    assert find_imdb(str(tmp_path)) == tmp_path
