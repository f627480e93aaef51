"""Reviews are read from JSON-lines and CSV tables; sources of unknown form and bad tables are refused."""

import json
import lzma

import numpy as np
import pytest
from made_reviews import made_rows, write_csv

from lstm_jax.data import find_imdb, load_reviews
from lstm_jax.errors import InputError


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
    assert (split.groups, split.names) == (None, ("neg/000000000.txt", "pos/000000001.txt"))
    table.with_suffix(".jsonl").write_text('{"text": "a", "label": 1, "movie": "\\ud800"}\n')
    with pytest.raises(InputError, match=r"movie in line 1 of .*a\.jsonl: .*surrogates not.*; save the text as UTF-8"):
        load_reviews(table.with_suffix(".jsonl"))


def test_xz_and_single_files(jsonl, tmp_path):
    packed = tmp_path / "some.jsonl.xz"
    packed.write_bytes(lzma.compress((jsonl / "train.jsonl").read_bytes()))
    assert list(load_reviews(packed)) == ["train"]
    splits = load_reviews(packed, str(jsonl / "test.jsonl"))
    check(splits["train"], "train")
    check(splits["test"], "test")
    for length in range(0, packed.stat().st_size, 40):
        cut = tmp_path / "cut.jsonl.xz"
        cut.write_bytes(packed.read_bytes()[:length])
        with pytest.raises(InputError, match=r"cut.jsonl.xz"):
            load_reviews(cut)


def test_csv(tmp_path):
    path = write_csv(tmp_path / "a.csv", made_rows("train"), ("text", "label", "movie", "id", "rating"))
    test = write_csv(tmp_path / "b.CSV", made_rows("test"))
    splits = load_reviews(path, str(test))
    check(splits["train"], "train")
    check(splits["test"], "test", movies=False)
    assert splits["test"].groups is None
    assert splits["test"].names[:2] == ("neg/000000000.txt", "pos/000000001.txt")


def test_csv_columns_marks_and_odd_texts(tmp_path):
    texts = ['said "no", twice\nand left', "café \x00 nul", "x" * 1_000_000, ""]
    rows = [{"review": text, "mood": mood} for text, mood in zip(texts, ("neg", "Positive", "1", " negative "), strict=True)]
    path = write_csv(tmp_path / "a.csv", rows, ("review", "mood"))
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    split = load_reviews(path, text_column="review", label_column="mood")["train"]
    assert split.texts == tuple(text.encode() for text in texts)
    assert split.labels.tolist() == [0, 1, 1, 0]


def test_labels_and_empty_trailing_columns(tmp_path):
    (tmp_path / "a.csv").write_text("text,label,,\na,true,,\nb,False,,,\nc,1.0\nd,0.0,\n")
    assert load_reviews(tmp_path / "a.csv")["train"].labels.tolist() == [1, 0, 1, 0]


@pytest.mark.parametrize("between", [b"", bytes(8)])
def test_an_xz_file_of_two_streams(tmp_path, between):
    first, second = lzma.compress(lines()), bytearray(lzma.compress(lines()))
    path = tmp_path / "a.jsonl.xz"
    path.write_bytes(first + between + second)
    assert len(load_reviews(path)["train"]) == 4
    second[3] ^= 1
    path.write_bytes(first + between + second)
    with pytest.raises(InputError, match=r"a\.jsonl\.xz: Input format not supported by decoder; give a complete file"):
        load_reviews(path)


GOOD = [{"text": "fine", "label": 1}, {"text": "foul", "label": 0}]


def lines(*rows):
    return b"".join(row if isinstance(row, bytes) else json.dumps(row).encode() + b"\n" for row in (*GOOD, *rows))


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (lines(b"{'text': 1}\n"), "line 3 of .*one JSON object"),
        (lines(b'\n{"text": "cut sho'), "line 4 of .*one JSON object"),
        (lines(b'{"text": "caf\xe9", "label": 1}\n'), "line 3 of .*utf-8.*save the file as UTF-8"),
        (lines(b'{"text": "\\ud800", "label": 1}\n'), "line 3 of .*surrogates"),
        (lines({"text": "x", "label": 2}), "label 'label' in line 3 of .*: 2; give 0 or 1"),
        (lines({"text": "x", "label": None}), "label .*line 3 of .*: None; give 0 or 1"),
        (lines({"text": 5, "label": 1}), "'text' in line 3 of .*: 5; give a string"),
        (lines({"review": "x", "label": 1}), r"column 'text' in line 3 of .*there are review, label; name one with --text-column"),
        (lines({"text": "x"}), r"column 'label' in line 3 of .*there are text; name one with --label-column"),
        (b"", "no reviews"),
        (json.dumps(GOOD[0]).encode(), "1 positive and 0 negative"),
    ],
)
def test_bad_json_lines(tmp_path, content, found):
    (tmp_path / "a.jsonl").write_bytes(content)
    with pytest.raises(InputError, match=found):
        load_reviews(tmp_path / "a.jsonl")


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"text,label\nfine,1\nfoul,0\ncaf\xe9,1\n", "line 4 of .*UTF-8"),
        (b"text,label\nfine,1\nfoul,0\na, b,1\n", "line 4 of .*1 fields too many"),
        (b"text,label\nfine,1\nfoul\n", "label 'label' in line 3 of .*None"),
        (b'text,label\nfine,1\n"foul,0\n', "line 3 of .*unexpected end"),
        (b"review,label\nfine,1\n", r"column 'text' in line 1 of .*: there are review, label; name one with --text-column"),
        (b"text,label\n", "no reviews"),
    ],
)
def test_bad_csv(tmp_path, content, found):
    (tmp_path / "a.csv").write_bytes(content)
    with pytest.raises(InputError, match=found):
        load_reviews(tmp_path / "a.csv")


def test_sources_that_are_none(tmp_path, jsonl, monkeypatch):
    with pytest.raises(InputError, match="no such file or folder"):
        load_reviews(tmp_path / "absent.csv")
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(InputError, match="known form"):
        load_reviews(tmp_path / "a.txt")
    with pytest.raises(InputError, match="known form"):
        load_reviews(tmp_path)
    with pytest.raises(InputError, match="has a test split of its own"):
        load_reviews(jsonl, str(jsonl / "test.jsonl"))
    with pytest.raises(InputError, match=r"test_data.*; give a file that ends in"):
        load_reviews(jsonl / "train.jsonl", str(jsonl / "absent.jsonl"))
    with pytest.raises(InputError, match=r"test_data.*; it has the training reviews: give another file"):
        load_reviews(jsonl / "train.jsonl", str(jsonl / "train.jsonl"))
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "train.csv").write_text("text,label\n")
    with pytest.raises(InputError, match=r"test_data.*; it has the training reviews: give another file"):
        load_reviews(tmp_path / "one", str(tmp_path / "one" / "train.csv"))
    (jsonl / "train.csv").write_text("text,label\n")
    with pytest.raises(InputError, match="keep one of them"):
        load_reviews(jsonl)


def test_find_imdb(tmp_path, monkeypatch):
    with pytest.raises(InputError, match="data: not given; give --data, or set LSTM_JAX_DATA"):
        find_imdb("")
    monkeypatch.setenv("LSTM_JAX_DATA", str(tmp_path))
    with pytest.raises(InputError, match="imdb: no such file or folder"):
        find_imdb("")
    (tmp_path / "imdb").mkdir()
    assert find_imdb("") == tmp_path / "imdb"
    assert find_imdb(str(tmp_path)) == tmp_path
