"""Texts and reviews in files have the ids, labels and vocabulary that they have in
memory; damaged files and bad input raise errors.
"""

import json
import random
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal
from refused import refused

from lstm_jax.lab.files.mapped import verify_shards
from lstm_jax.lab.generation.data import (
    clean,
    prepare_corpus,
    read_shards,
    sharded_corpus,
    write_shards,
)
from lstm_jax.lab.generation.data import shards as text_shards
from lstm_jax.lab.sentiment.data import dataset as reviews_module
from lstm_jax.lab.sentiment.data import (
    encode_reviews,
    read_review_shards,
    synthetic_splits,
    write_review_shards,
)

PIECES = ("the ", "Cat\r\n", "\n", "  ", "Äß ", "dog.", "1 ", "\t", "日本", "x")
RECIPES = ("source", "source-cased", "lower", "none", "exact")


def write_files(folder, seed=1, count=3):
    draw = random.Random(seed)
    texts = ["".join(draw.choice(PIECES) for _ in range(300)) for _ in range(count)] + [
        "  \n "
    ]
    paths = [folder / f"{number}.txt" for number in range(len(texts))]
    for path, text in zip(paths, texts, strict=True):
        path.write_bytes(text.encode())
    return [str(path) for path in paths]


@pytest.mark.slow(keep=4)
@pytest.mark.parametrize("unit", ["character", "byte"])
@pytest.mark.parametrize("recipe", RECIPES)
def test_a_text_is_that_in_memory(recipe, unit, tmp_path, monkeypatch):
    """Some pieces of 13 characters begin within words and lines."""
    files = write_files(tmp_path)
    want = prepare_corpus(files, "", recipe, unit, 0.0)
    for size in (13, 1 << 20):
        monkeypatch.setattr(text_shards, "PIECE", size)
        calls = [(0, 0)]
        folder = tmp_path / f"s{size}"
        got = write_shards(
            files, folder, recipe, unit, lambda *now, calls=calls: calls.append(now)
        )
        assert got.characters == want.characters
        assert got.articles == want.articles
        assert_array_equal(got.ids[:], want.train, strict=True)
        assert calls == sorted(calls)
        assert calls[-1][0] == calls[-1][1]
    assert verify_shards(tmp_path / "s13") == 1


@pytest.mark.parametrize(
    ("text", "recipe"),
    [
        ("日本語" * 10_000, "none"),
        ("acgt" * 10_000, "source"),
        ("a1" + "9" * 30_000 + "b", "source"),
        ("\ufeffa\ufeff\r\r\n" * 3000, "none"),
    ],
)
def test_a_text_in_long_lines(text, recipe, tmp_path, monkeypatch):
    monkeypatch.setattr(text_shards, "PIECE", 1000)
    (tmp_path / "a.txt").write_bytes(text.encode())
    got = write_shards(str(tmp_path / "a.txt"), tmp_path / "s", recipe)
    want = clean(text.removeprefix("\ufeff").replace("\r\n", "\n"), recipe)
    assert got.characters.decode(got.ids[:]) == want.replace("\r", "\n")


@pytest.mark.parametrize("unit", ["character", "byte"])
def test_a_text_larger_than_the_memory(unit, tmp_path, monkeypatch):
    monkeypatch.setattr(text_shards, "PIECE", 1 << 12)
    (tmp_path / "a.txt").write_text("It was the best of times.\n" * 50_000)
    tracemalloc.start()
    write_shards(str(tmp_path / "a.txt"), tmp_path / "s", "source", unit)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10**6 < (tmp_path / "a.txt").stat().st_size


def test_a_text_that_changes_meanwhile_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(text_shards, "PIECE", 10)
    path = tmp_path / "a.txt"
    path.write_text("aaaa bbbb " * 20)
    refused(
        r"a\.txt: changed while it was read",
        write_shards,
        path,
        tmp_path / "s",
        "none",
        on_progress=lambda *_: path.write_text("CCC DDDDDD " * 18),
    )


def test_a_folder_with_other_files_stays(tmp_path):
    text, folder = write_files(tmp_path), tmp_path / "web"
    folder.mkdir()
    for name in ("unfinished.txt", "index.json", "text.npy", "notes"):
        (folder / name).write_text("mine")
        found = "exists" if name == "unfinished.txt" else "holds other files"
        refused(rf"web.*: {found}", write_shards, text, folder)
        assert (folder / name).read_text() == "mine"
        (folder / name).unlink()
    write_shards(text, folder)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert set(before) == {"text.npy", "index.json"}
    refused("holds other files", write_shards, text, folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_an_interrupt(tmp_path, monkeypatch):
    files, folder = write_files(tmp_path), tmp_path / "s"
    with monkeypatch.context() as patch:
        patch.setattr("lstm_jax.lab.files.mapped.summed_json", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            write_shards(files, folder)
    assert {path.name for path in folder.iterdir()} == {"text.npy", "unfinished.txt"}
    refused("no index.json", read_shards, folder)
    got = write_shards(files[:2], folder)
    assert_array_equal(got.ids[:], prepare_corpus(files[:2], validation=0.0).train)


@pytest.fixture(scope="module")
def sharded(tmp_path_factory):
    folder = tmp_path_factory.mktemp("text")
    return write_shards(write_files(folder), folder / "s").ids


@settings(deadline=None, max_examples=30)
@given(
    places=st.lists(st.integers(-5, 3000), min_size=1, max_size=30),
    begin=st.integers(0, 200),
    end=st.integers(300, 600),
)
def test_takes_as_an_array_does(sharded, places, begin, end):
    text, whole, at = sharded.part(begin, end), sharded[begin:end], np.asarray([places])
    assert_array_equal(text.take(at), whole.take(at, mode="clip"), strict=True)
    assert_array_equal(text[3:50:7], whole[3:50:7], strict=True)
    assert (len(text), text.nbytes) == (end - begin, 0)


def test_a_sharded_corpus(tmp_path):
    files = write_files(tmp_path)
    text = write_shards(files, tmp_path / "s")
    size = len(text.ids)
    corpus = sharded_corpus(tmp_path / "s", validation=0.25)
    cut = size - round(size * 0.25)
    assert_array_equal(corpus.train[:], text.ids[:cut])
    assert_array_equal(corpus.validation, text.ids[cut:])
    assert corpus.fingerprint == text.fingerprint
    # the last file has white space only
    assert corpus.articles == prepare_corpus(files).articles == 3
    for options, subject in (
        ({"recipe": "none"}, r"clean: none; the shards in .* have source"),
        ({"unit": "byte"}, "unit: byte"),
        ({"length": 10**6}, "training part: "),
        ({"length": size // 3}, "validation part: "),
        ({"validation": 1.0}, "validation: 1"),
    ):
        refused(f"^{subject}", sharded_corpus, tmp_path / "s", **options)


@pytest.mark.slow
def test_the_command(ask, tmp_path):
    files = write_files(tmp_path)
    code, said, _ = ask("data", "shard", *files, "--out", tmp_path / "s")
    assert code == 0
    assert f"lstm-jax train generation --input stream --data {tmp_path / 's'}" in said
    size = len(read_shards(tmp_path / "s").ids)
    assert f"{size:,} characters" in said
    run = (
        "train generation --units 8 --epochs 1 --sample-chars 5 --no-figures "
        f"--run {tmp_path / 'run'} --data {tmp_path / 's'}"
    ).split()
    assert ask(*run)[0] == 2
    assert ask(*run, "--input", "stream")[0] == 0


@pytest.fixture(scope="module")
def splits():
    made = synthetic_splits(120, 40, seed=3)
    return {
        name: replace(
            split,
            groups=tuple(["", "b", "a"][n * n % 7 % 3] for n in range(len(split))),
        )
        for name, split in made.items()
    }


@pytest.fixture(scope="module")
def folders(splits, tmp_path_factory):
    """Return a folder for each split, with its reviews in two JSON-lines files."""
    root = tmp_path_factory.mktemp("tables")
    for name, split in splits.items():
        (root / name).mkdir()
        rows = [
            json.dumps({"text": text.decode(), "label": int(label), "movie": movie})
            + "\n"
            for text, label, movie in zip(
                split.texts, split.labels, split.groups, strict=True
            )
        ]
        (root / name / "0.jsonl").write_text("".join(rows[:30]))
        (root / name / "1.jsonl").write_text("".join(rows[30:]))
    return [str(root / name) for name in splits]


@pytest.fixture(scope="module")
def mapped(folders, tmp_path_factory):
    """Return a folder of reviews, written from tables that are larger than the bound
    for files that are read as a whole.
    """
    folder = tmp_path_factory.mktemp("mapped") / "s"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lstm_jax.base.reading.most_bytes", lambda: 4000)
        write_review_shards([folders[0]], folder, [folders[1]])
    return folder


@pytest.mark.parametrize("num_words", [None, 20])
def test_reviews_are_those_in_memory(splits, mapped, num_words, monkeypatch):
    monkeypatch.setattr(reviews_module, "BLOCK", 7)
    want = encode_reviews(splits, num_words)
    got = read_review_shards(mapped, num_words)
    assert got.vocabulary == want.vocabulary
    for own, other in ((got.train, want.train), (got.test, want.test)):
        assert_array_equal(own.labels, other.labels, strict=True)
        assert_array_equal(own.hashes(), other.hashes(), strict=True)
        assert sorted(
            {*zip(own.groups.tolist(), other.groups.tolist(), strict=True)}
        ) == [(-1, -1), (0, 1), (1, 0)]
        assert own.lengths.tolist() == other.lengths.tolist()
        assert_array_equal(own.row(-1), other.row(-1), strict=True)
        assert_array_equal(own.padded(9, "post"), other.padded(9, "post"))
        joined = list(own.blocks())
        assert len(joined) > 5
        assert_array_equal(
            np.concatenate([block.values for block in joined]), other.values
        )
    assert verify_shards(mapped) == 4


def _flip(path):
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))


DAMAGED = r"missing or damaged; write a new folder with lstm-jax data shard"


@pytest.mark.parametrize(
    ("name", "harm", "found"),
    [
        ("train.npy", Path.unlink, rf"train\.npy: {DAMAGED}-reviews"),
        ("train.npy", _flip, rf"train\.npy: {DAMAGED}-reviews"),
        ("train.npz", _flip, rf"train\.npz: {DAMAGED}-reviews"),
        ("index.json", _flip, r"index\.json: damaged"),
        ("index.json", lambda path: path.write_text("{}"), r"index\.json: damaged"),
        ("index.json", Path.unlink, r"no index\.json"),
        ("text.npy", _flip, rf"text\.npy: {DAMAGED}"),
        ("text.npy", lambda path: path.write_bytes(b"cut"), rf"text\.npy: {DAMAGED}"),
    ],
)
def test_a_damaged_folder(folders, name, harm, found, tmp_path):
    folder = tmp_path / "s"
    read = read_review_shards
    if name == "text.npy":
        write_shards(write_files(tmp_path), folder)
        read = read_shards
    else:
        write_review_shards([folders[0]], folder)
    harm(folder / name)
    refused(found, read, folder)
    refused(found, verify_shards, folder)


@pytest.mark.usefixtures("unchecked")
def test_what_is_no_text(tmp_path):
    for name, content, options, found in (
        ("a.csv", b"text\nx\n", {}, "text: .*give text files"),
        ("b.txt", b"ab\xff cd", {}, "file .*byte 0xff at offset 2 is not UTF-8"),
        ("b.txt", b"a" * 70_000 + b"\xff", {}, "file .* at offset 70000 is not"),
        ("c.txt", b"", {}, "text: empty"),
        ("d.txt", b"text", {"unit": "bytes"}, "unit: bytes"),
        ("d.txt", b"text", {"recipe": "clean"}, "clean: clean"),
        ("a.zip", b"PK\x03\x04", {"unit": "byte"}, "file .*archive"),
    ):
        (tmp_path / name).write_bytes(content)
        refused(
            f"^{found}",
            write_shards,
            str(tmp_path / name),
            tmp_path / "s",
            **options,
        )
    refused(r"^text: -", write_shards, "-", tmp_path / "s")
    assert not list((tmp_path / "s").glob("*.json"))


def test_what_is_no_table(folders, tmp_path):
    train, test = folders
    (tmp_path / "empty").mkdir()
    (tmp_path / "one.csv").write_text("text,label\ngood,1\nfine,1\n")
    (tmp_path / "none.csv").write_text("text,label\n")
    (tmp_path / "other.csv").write_text("words,label\ngood,1\n")
    (tmp_path / "text.txt").write_text("some words")
    write_shards(str(tmp_path / "text.txt"), tmp_path / "text")
    for paths, folder, subject in (
        ([], "new", "reviews: no table"),
        ([str(Path(test).parent)], "new", "reviews: .*; a table of both splits"),
        ([str(tmp_path / "empty")], "new", "reviews: .*empty"),
        ([str(tmp_path / "one.csv")], "one", "train split of "),
        ([str(tmp_path / "none.csv")], "none", "table .*none.csv: no reviews"),
        ([str(tmp_path / "other.csv")], "other", "column 'text'"),
    ):
        refused(f"^{subject}", write_review_shards, paths, tmp_path / folder, [test])
    refused("^shards: an empty name", write_review_shards, [train], Path(""))
    refused("^shards .*: no index.json", read_review_shards, tmp_path)
    refused("^index .*: of the format 'text 3'", read_review_shards, tmp_path / "text")
