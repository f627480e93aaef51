"""Tests of `prepare_corpus`: the validation part, errors, and the memory that a large
file takes.

For the text of the Keras example lstm_text_generation, known numbers of characters,
distinct characters and windows are expected.
"""

import json
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from refused import refused

from lstm_jax.lab.generation.data import corpus, prepare_corpus, window_count


@pytest.fixture
def articles(data_dir):
    path = data_dir / "articles" / "wp_articles.json"
    if not path.is_file():
        pytest.skip(f"no {path}: set LSTM_JAX_DATA")
    return path


def write(path, texts):
    path.write_text(json.dumps(texts))
    return path


@pytest.mark.parametrize(
    ("recipe", "characters", "distinct", "count"),
    [("none", 891_910, 121, 178_374), ("source", 873_153, 33, 174_623)],
)
def test_counts_of_the_source(articles, recipe, characters, distinct, count):
    made = prepare_corpus(articles, recipe=recipe, validation=0.0)
    assert (made.articles, made.copies, len(made.validation)) == (136, 0, 0)
    assert (len(made.train), made.characters.size, made.train.dtype) == (
        characters,
        distinct,
        np.uint8,
    )
    assert window_count(characters, 40, 5) == count


def test_embedded_is_the_default():
    made = prepare_corpus()
    assert made.characters.size <= 33
    assert made.articles > 60
    assert prepare_corpus([]).fingerprint == made.fingerprint
    assert prepare_corpus(unit="byte").characters.decode(
        prepare_corpus(unit="byte").train
    ) == made.characters.decode(made.train)


def naive_parts(articles, share):
    """Return the training text, the validation text, and how many copies the validation
    text leaves out, by a plain loop over the articles.

    The joined text is cut at one point. The training text is what lies before the cut,
    and the validation text is what lies after it. An article that begins after the cut
    is left out if it equals an article that begins before the cut.
    """
    text = " ".join(articles)
    cut = len(text) - round(share * len(text))
    pieces, copies, start = [], 0, 0
    for article in articles:
        if start + len(article) > cut:
            begun = [
                one
                for at, one in enumerate(articles)
                if sum(map(len, articles[:at])) + at < cut
            ]
            if start >= cut and article in begun:
                copies += 1
            else:
                pieces.append(article[max(cut - start, 0) :])
        start += len(article) + 1
    return text[:cut], " ".join(pieces), copies


@given(
    st.lists(st.text("ab", min_size=1, max_size=6), min_size=1, max_size=8),
    st.floats(0.01, 0.99),
)
def test_hold_out(texts, share):
    cut, held, copies = corpus._hold_out(texts, share)
    assert (" ".join(texts)[:cut], " ".join(held), copies) == naive_parts(texts, share)
    assert corpus._hold_out([text.encode() for text in texts], share) == (
        cut,
        [text.encode() for text in held],
        copies,
    )
    assert corpus._hold_out(texts, 0.0) == (len(" ".join(texts)), [], 0)


def test_articles_that_are_empty_after_cleaning(tmp_path):
    path = write(tmp_path / "a.json", ["Ab c", "1984", "", "d - e"])
    made = prepare_corpus(path, validation=0.0, length=3)
    assert (made.characters.decode(made.train), made.articles) == ("ab c d e", 2)
    made = prepare_corpus(path, validation=0.0, length=3, recipe="none")
    assert (made.characters.decode(made.train), made.articles) == ("Ab c 1984 d - e", 3)
    refused(
        "training part: 0 characters",
        prepare_corpus,
        write(tmp_path / "b.json", ["1984", "--"]),
    )


def test_bytes_read_any_encoding(tmp_path):
    path = tmp_path / "latin.txt"
    path.write_bytes("Müller straße ".encode("latin-1") * 20)
    refused("byte 0xfc at offset 1", prepare_corpus, path, recipe="none")
    made = prepare_corpus(path, recipe="none", unit="byte", length=8)
    assert made.train.tobytes() + made.validation.tobytes() == path.read_bytes()
    table = write(tmp_path / "b.json", [{"one": "abcabc", "two": "xyzxyz"}])
    for unit in ("byte", "character"):
        made = prepare_corpus(table, "two", unit=unit, validation=0.0, length=3)
        assert made.characters.decode(made.train) == "xyzxyz"


@pytest.mark.parametrize(
    ("text", "options", "found"),
    [
        ("a" * 500, {"unit": "byte"}, r"training part: only 'a'"),
        (
            "ab" * 20,
            {"validation": 0.0},
            "training part: 40 characters; a window and its next character need 41",
        ),
        (
            "ab" * 100 + "xyz1]-^q" * 5,
            {"recipe": "none", "validation": 0.17, "unseen": "error"},
            r"characters .*'1', '\]' and 3 more",
        ),
        ("ab", {"unseen": "keep"}, "unseen: keep"),
        ("ab", {"unit": "token"}, "unit: token"),
        ("ab", {"validation": 1.0}, "validation: 1.0; give a share from 0 to below 1"),
        ("ab", {"validation": float("nan")}, "validation: nan"),
        ("ab", {"length": 0}, "length: 0"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_refused(tmp_path, text, options, found):
    (tmp_path / "a.txt").write_text(text)
    refused(f"^{found}", prepare_corpus, tmp_path / "a.txt", **options)


def test_fingerprint(tmp_path):
    paths = [
        write(tmp_path / f"{n}.json", texts)
        for n, texts in enumerate(
            (["abc", "cab"], ["abc cab"], ["abc", "cba"], ["xyz", "zxy"])
        )
    ]
    prints = [
        prepare_corpus(path, validation=0.0, length=3).fingerprint for path in paths
    ]
    assert prints[0] == prints[1]
    assert len(set(prints)) == 3
    assert prepare_corpus(paths[0], validation=0.5, length=2).fingerprint not in prints


def test_line_ends_are_those_of_unix(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"one line\r\ntwo lines\rthree\r\n" * 20)
    for recipe, begin, notes in (
        ("none", "one line\ntwo lines\nthree\none", 1),
        ("exact", "one line\r\ntwo lines\rthree\r\n", 0),
    ):
        made = prepare_corpus(tmp_path / "a.txt", recipe=recipe, length=8)
        assert made.characters.decode(made.train).startswith(begin)
        assert [note[:12] for note in made.notes] == ["60 line ends"] * notes


def test_characters_of_the_tail(tmp_path):
    (tmp_path / "a.txt").write_text("ab" * 100 + "xayb" * 5)
    for unseen, characters, tail, note in (
        ("include", "abxy", "xayb" * 5, "2 characters "),
        ("drop", "ab", "ab" * 5, "10 characters "),
    ):
        made = prepare_corpus(
            tmp_path / "a.txt", recipe="none", length=8, validation=0.09, unseen=unseen
        )
        assert (
            "".join(made.characters.characters),
            made.characters.decode(made.validation),
        ) == (characters, tail)
        assert [
            text.startswith(note) and "'x', 'y'" in text for text in made.notes
        ] == [True]


def test_large_file(tmp_path):
    path = tmp_path / "a.txt"
    line = (
        "It was the best of times, it was the worst of times — it was the age of "
        "wisdom ...\n"
    )
    content = line.encode() * (5 * 1024 * 1024 // len(line.encode()))
    path.write_bytes(content)
    tracemalloc.start()
    prepare_corpus(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # the bytes of the file, its text and the joined text (two bytes a character), and
    # 100 MiB to clean a block of 2**20 characters
    assert peak < 8 * len(content) + 100 * 2**20


def test_articles_begin_where_they_are_said_to(tmp_path):
    """`train_starts` and `validation_starts` are the positions in the two parts of the
    text at which articles begin.

    If the cut between the parts divides an article, its rest counts as an article of
    the validation part. If characters are dropped from the validation part, the
    positions are those in the text without them.
    """
    articles = [
        "one red blue old fish",
        "two fish é",
        "red fish",
        "blué fish",
        "old fish",
    ]
    for n, article in enumerate(articles):
        (tmp_path / f"{n}.txt").write_text(article)
    for unseen, wanted in (
        ("include", ["é", "red ", "blué", "old "]),
        ("drop", [" ", "red ", "blu ", "old "]),
    ):
        made = prepare_corpus(
            tmp_path, recipe="none", validation=29 / 60, unseen=unseen, length=2
        )
        train, held = (
            made.characters.decode(made.train),
            made.characters.decode(made.validation),
        )
        assert train == "one red blue old fish two fish "
        assert made.train_starts.tolist() == [0, 22]
        assert [
            held[at : at + len(text)]
            for at, text in zip(made.validation_starts, wanted, strict=True)
        ] == wanted
