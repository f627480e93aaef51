"""Hostile files: each reader returns data or raises `InputError`. None runs forever or
expands a file without bound.

`tests.fuzz.files` damages files at random.
"""

import gzip
import io
import lzma
import pickle
import sys
from pathlib import Path

import pytest
from refused import refused

from lstm_jax.base import reading as input_files
from lstm_jax.lab.files.reading import most_expanded
from lstm_jax.lab.files.tables import table_rows
from lstm_jax.lab.generation.data import read_articles, read_byte_articles
from lstm_jax.lab.generation.data.sources import FORMS as TEXT_FORMS
from lstm_jax.lab.sentiment.data import load_reviews
from lstm_jax.lab.sentiment.data.reviews import read_texts
from lstm_jax.lab.sentiment.data.sources import FORMS


def test_the_documented_examples_are_read(tmp_path):
    for forms, read in ((FORMS, load_reviews), (TEXT_FORMS, read_articles)):
        for name, content in (form.example for form in forms if form.example):
            (tmp_path / name).write_text(content)
            read(tmp_path / name)


# files that expand to more bytes than allowed, and files that are too large


@pytest.fixture
def small(monkeypatch):
    """Limit files, and the data to which they expand, to 100,000 bytes."""
    monkeypatch.setenv(input_files.MAX_BYTES, "100000")


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(
    ("name", "content", "read", "found"),
    [
        (
            "a.jsonl.xz",
            lzma.compress(b" " * 200_000),
            load_reviews,
            "expands to more than 100,000 bytes; set LSTM_JAX_MAX_BYTES",
        ),
        (
            "a.tar.gz",
            gzip.compress(bytes(200_000), mtime=0),
            load_reviews,
            "expands to more than 100,000 bytes",
        ),
        (
            "a.txt",
            b"a" * 100_001,
            read_articles,
            "100,001 bytes, more than 100,000; set LSTM_JAX_MAX_BYTES",
        ),
    ],
    ids=range(3),
)
def test_bounds(tmp_path, name, content, read, found):
    (tmp_path / name).write_bytes(content)
    refused(found, read, tmp_path / name)


def test_what_the_bounds_are(monkeypatch):
    assert input_files.most_bytes() >= 1 << 30
    assert most_expanded(1700) == 16 << 20
    assert most_expanded(2 << 20) == 400 << 20
    assert most_expanded(1 << 40) == input_files.most_bytes()
    for wrong in ("0", "-1", "many", "9" * 5000, "\u0663"):
        monkeypatch.setenv(input_files.MAX_BYTES, wrong)
        refused("give a number of bytes", input_files.most_bytes)


def test_endless_standard_input_ends(monkeypatch, small):
    with Path("/dev/zero").open("rb") as endless:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(endless))
        refused("file -: more than 100,000 bytes", read_articles, "-")


def test_a_table_of_one_long_line(tmp_path, monkeypatch):
    """A table that is read with `limited=False` may exceed `most_bytes`, but a single
    line of the table may not.

    If LSTM_JAX_MAX_BYTES is set, the whole table may not exceed it either.
    """
    (tmp_path / "a.csv").write_text("text\n" + "x\n" * 50 + "y" * 101)
    monkeypatch.setattr("lstm_jax.base.reading.most_bytes", lambda: 100)
    refused(
        r"^line 52 of .*a\.csv: more than 100 bytes",
        list,
        table_rows(tmp_path / "a.csv", {}, limited=False),
    )
    monkeypatch.setenv("LSTM_JAX_MAX_BYTES", "100")
    refused(
        r"^file .*a\.csv: 206 bytes, more than 100",
        list,
        table_rows(tmp_path / "a.csv", {}, limited=False),
    )


# texts and tables

TEXT = "It was the best of times,\nit was the worst of times — é.\n" * 4


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (
            TEXT.encode("utf-16"),
            "byte 0xff at offset 0 is not UTF-8: the file is UTF-16; convert "
            "it from UTF-16",
        ),
        (TEXT.encode("utf-32"), "the file is UTF-32"),
        (
            "plain words\n".encode("utf-16-le"),
            "bytes are NUL, as in UTF-16 or a binary file",
        ),
        (b"ab\xe9cd", "byte 0xe9 at offset 2"),
        (b"PK\x05\x06", r"is an empty \.zip archive, not a text"),
        (b"PK\x03\x04", r"is a \.zip archive, not a text; unzip it"),
        (gzip.compress(b"abc", mtime=0), "compressed by gzip"),
        (lzma.compress(b"abc"), "compressed by xz"),
        (pickle.dumps("a" * 99), "byte 0x80 at offset 0 is not UTF-8"),
    ],
    ids=range(9),
)
def test_texts_that_are_none(tmp_path, content, found):
    (tmp_path / "text").write_bytes(content)
    for read in (
        read_articles,
        read_texts,
        *((read_byte_articles,) if "not a text" in found else ()),
    ):
        refused(found, read, tmp_path / "text")


def test_a_text_that_begins_as_a_name_of_bzip2(tmp_path):
    (tmp_path / "text").write_text("BZhang wrote this.")
    assert read_articles(tmp_path / "text") == ("BZhang wrote this.",)


@pytest.mark.parametrize(
    ("name", "content", "found"),
    [
        (
            "a.txt",
            b"\xef\xbb\xbfgood\r\nbad\n\n\xe2\x80\xa8",
            ["good", "bad", "", "\u2028"],
        ),
        ("a.csv", b"label,text\n1,good\n,\n", ["good", ""]),
        ("a.json", b'[{"text": "good"},\n {"text": "bad"}]', ["good", "bad"]),
        ("a.jsonl.xz", lzma.compress(b'{"text": "good"}\n'), ["good"]),
    ],
)
def test_texts_without_labels(tmp_path, name, content, found):
    (tmp_path / name).write_bytes(content)
    assert [text.decode() for text in read_texts(tmp_path / name)] == found


LINES = b'{"text": "fine", "label": 1}\n{"text": "foul", "label": 0}\n'


@pytest.mark.parametrize(
    ("name", "content", "found"),
    [
        ("a.jsonl", LINES + b'\n{"text": "cut sho', "line 4 of .*one JSON object"),
        (
            "a.jsonl",
            LINES + b'{"text": "caf\xe9", "label": 1}\n',
            "line 3 of .*utf-8.*save the file as UTF-8",
        ),
        (
            "a.jsonl",
            LINES + b'{"text": "\\ud800", "label": 1}\n',
            "'text' in line 3 of .*surrogates",
        ),
        (
            "a.jsonl",
            LINES + b'{"text": "x", "label": 2}',
            "label 'label' in line 3 of .*: 2;",
        ),
        (
            "a.jsonl",
            LINES + b'{"text": 5, "label": 1}',
            "'text' in line 3 of .*: 5; give a string",
        ),
        (
            "a.jsonl",
            LINES + b'{"review": "x", "label": 1}',
            "column 'text' in line 3 of .*there are review, label; .*--text-column",
        ),
        (
            "a.jsonl",
            LINES + b'{"text": "x"}',
            "column 'label' in line 3 of .*--label-column",
        ),
        ("a.jsonl", LINES[:29], "1 positive and 0 negative"),
        ("a.jsonl.xz", b"\xfd7zXZ", r"file .*a\.jsonl\.xz: .*; give a complete file"),
        (
            "a.csv.xz",
            lzma.compress(gzip.compress(b"text\na b\n", mtime=0)),
            r"file .*a\.csv\.xz: is compressed by gzip",
        ),
        (
            "a.csv",
            b"text,label\nfine,1\nfoul,0\na, b,1\n",
            "line 4 of .*1 fields too many",
        ),
        ("a.csv", b"text,label\nfine,1\nfoul\n", "label 'label' in line 3 of .*None"),
        ("a.csv", b'text,label\nfine,1\n"foul,0\n', "line 3 of .*unexpected end"),
        (
            "a.csv",
            b"review,label\nfine,1\n",
            "column 'text' in line 1 of .*: there are review, label",
        ),
        (
            "a.csv",
            b"text,text,label\na,b,1\n",
            "columns of .*: text, text, label; give each",
        ),
        ("a.zip", b"PK", r"data .*a \.zip archive"),
        ("a.txt", b"x", "data .*known form"),
    ],
)
def test_tables_that_are_wrong(tmp_path, name, content, found):
    (tmp_path / name).write_bytes(content)
    refused(f"^.*{found}", load_reviews, tmp_path / name)


@pytest.mark.parametrize(
    ("name", "content", "found"),
    [
        ("a.json", b'{"text": {"0": "\xe9"}}', "byte 0xe9 at offset 16"),
        ("a.json", b'["\\ud800"]', "'text' in record 1 of .*save the text as UTF-8"),
        ("a.json", b'{"text": "x"}\n{"text": "y"}', "JSON .*name it .jsonl"),
        ("a.json", b"[" * 200_000, "JSON .*recursion"),
        (
            "a.json",
            b'{"one": {"0": "x"}, "two": {"0": "y"}}',
            r"column of the texts of .*: one of \['one', 'two'\]",
        ),
        ("a.json", b'{"text": {"0": 5}}', "'text' in row 0 of .*: 5; give a string"),
        ("a.json", b"[]", "corpus .*: no text"),
        ("a.json", b'{"text": {"0": null, "1": ""}}', "corpus .*: no text"),
        (
            "a.csv",
            b"id\ttext\n1\ta b\n",
            "columns of .*: separated by tabs; give commas",
        ),
    ],
)
def test_texts_of_tables_that_are_wrong(tmp_path, name, content, found):
    (tmp_path / name).write_bytes(content)
    refused(f"^.*{found}", read_articles, tmp_path / name)
