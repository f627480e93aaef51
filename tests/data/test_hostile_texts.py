"""Invalid texts, tables and series raise `InputError`.

Two kinds of valid texts are tested, too: texts with line ends of Windows or old Macs, and texts with characters that only the validation
part has. For each of these, `prepare_corpus` returns a text and a note to the user.
"""

import gzip
import lzma
import pickle
from pathlib import Path

import pytest
from test_hostile_files import TEXT, _keras

from lstm_jax.data import load_reviews, prepare_corpus, read_articles, read_byte_articles, read_series
from lstm_jax.data.reviews.tables import read_texts
from lstm_jax.data.tables import table_rows
from lstm_jax.errors import InputError

# texts and tables


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (TEXT.encode("utf-16"), "byte 0xff at offset 0 is not UTF-8: the file is UTF-16; convert it from UTF-16"),
        (TEXT.encode("utf-32"), "the file is UTF-32"),
        ("plain words\n".encode("utf-16-le"), "bytes are NUL, as in UTF-16 or a binary file; convert the file to UTF-8"),
        (TEXT.encode("latin-1", "replace"), "byte 0xe9 at offset"),
        (_keras(), r"is a \.zip archive, not a text; unzip it and give its files"),
        (gzip.compress(b"abc"), "compressed by gzip, not a text; unpack it with gunzip"),
        (lzma.compress(b"abc"), "compressed by xz"),
        (pickle.dumps("a" * 99), "byte 0x80 at offset 0 is not UTF-8"),
    ],
    ids=range(8),
)
def test_texts_that_are_none(tmp_path: Path, content: bytes, found: str) -> None:
    path = tmp_path / "text"
    path.write_bytes(content)
    for read in (read_articles, read_texts):
        with pytest.raises(InputError, match=found):
            read(path)


def test_a_text_that_begins_as_a_name_of_bzip2(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("BZhang wrote this.")
    assert read_articles(tmp_path / "text") == ("BZhang wrote this.",)


def test_a_table_of_one_long_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A table that is read with `limited=False` may exceed `most_bytes`, but a single line of the table may not.

    If LSTM_JAX_MAX_BYTES is set, the whole table may not exceed it either.
    """
    (tmp_path / "a.csv").write_text("text\n" + "x\n" * 50 + "y" * 101)
    monkeypatch.setattr("lstm_jax.files.reading.most_bytes", lambda: 100)
    with pytest.raises(InputError, match=r"^line 52 of .*a\.csv: more than 100 bytes; set LSTM_JAX_MAX_BYTES to allow more$"):
        list(table_rows(tmp_path / "a.csv", limited=False))
    monkeypatch.setenv("LSTM_JAX_MAX_BYTES", "100")
    with pytest.raises(InputError, match=r"^file .*a\.csv: 206 bytes, more than 100; set"):
        list(table_rows(tmp_path / "a.csv", limited=False))


@pytest.mark.parametrize(
    ("name", "content", "found"),
    [
        ("a.txt", b"\xef\xbb\xbfgood\r\nbad\n\n\xe2\x80\xa8", ["good", "bad", "", "\u2028"]),
        ("a.txt", b"", []),
        ("a.csv", b"label,text\n1,good\n,\n", ["good", ""]),
        ("a.json", b'[{"text": "good"},\n {"text": "bad"}]', ["good", "bad"]),
        ("a.jsonl.xz", lzma.compress(b'{"text": "good"}\n'), ["good"]),
    ],
)
def test_texts_without_labels(tmp_path: Path, name: str, content: bytes, found: list[str]) -> None:
    (tmp_path / name).write_bytes(content)
    assert [text.decode() for text in read_texts(tmp_path / name)] == found


def test_archives_are_no_bytes_to_train_on_either(tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(_keras())
    for read in (read_byte_articles, load_reviews):
        with pytest.raises(InputError, match=r"a \.zip archive.*; unzip it"):
            read(tmp_path / "a.zip")


@pytest.mark.parametrize(
    ("name", "content", "found"),
    [
        ("a.csv", b"text,text,label\na,b,1\n", "columns of .*'text' twice; give each column a name of its own"),
        ("a.jsonl", b'{"text": "a", "text": "b", "label": 1}\n', "line 1 of .*the name 'text' is there twice"),
        ("a.jsonl", b'{"text": "a", "label": NaN}\n', "label 'label' in line 1 of .*nan"),
        ("a.jsonl", b'{"text": "a", "label": ' + b"9" * 5000 + b"}\n", "line 1 of .*digits"),
    ],
)
def test_tables_that_are_wrong(tmp_path: Path, name: str, content: bytes, found: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=found):
        load_reviews(tmp_path / name)


def test_line_ends_are_those_of_unix(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"one line\r\ntwo lines\rthree\r\n" * 20)
    made = prepare_corpus(tmp_path / "a.txt", recipe="none", length=8)
    assert made.characters.decode(made.train).startswith("one line\ntwo lines\nthree\none")
    assert made.notes == ("60 line ends of Windows or old Macs are read as those of Unix (clean 'exact' keeps them)",)
    kept = prepare_corpus(tmp_path / "a.txt", recipe="exact", length=8)
    assert kept.characters.decode(kept.train).startswith("one line\r\ntwo lines\rthree\r\n")
    assert kept.notes == ()


def test_characters_of_the_tail_have_ids(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("ab" * 100 + "xayb" * 5)
    made = prepare_corpus(tmp_path / "a.txt", recipe="none", length=8, validation=0.09)
    assert made.characters.characters == ("a", "b", "x", "y")
    assert made.characters.decode(made.validation) == "xayb" * 5
    assert set(made.characters.decode(made.train)) == {"a", "b"}
    assert made.notes == ("2 characters that only the held-out part has have ids too: 'x', 'y'",)


@pytest.mark.parametrize(
    ("lines", "found"),
    [
        (["inf,1", "1,2"], "'time' in line 2 of .*'inf'; give a finite number"),
        ([f"{'9' * 5000},1", "1,2"], "give a finite number"),
        (["0,1", "1e-300,2", "1e300,3", "2e300,4"], "gaps too wide"),
        (["10000-01-01,1", "10001-01-01,2"], "'10000-01-01'; give a number, or a date"),
    ],
)
def test_times_that_are_none(tmp_path: Path, lines: list[str], found: str) -> None:
    (tmp_path / "a.csv").write_text("\n".join(["time,value", *lines]))
    with pytest.raises(InputError, match=found):
        read_series(tmp_path / "a.csv")
