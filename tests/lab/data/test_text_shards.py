"""Shards of a text hold the ids that `prepare_corpus` returns; a second call writes
missing shards; damaged shards raise errors.
"""

import os
import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal
from refused import refused

from lstm_jax.base.errors import InputError
from lstm_jax.base.writing import locked
from lstm_jax.lab.files.shard_folder import LOCK, verify_shards
from lstm_jax.lab.generation.data import (
    clean,
    prepare_corpus,
    read_shards,
    sharded_corpus,
    write_shards,
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
def test_shards_are_the_text_in_memory(recipe, unit, tmp_path):
    """Shards of 97 bytes, of 300 bytes and of whole files hold the ids that
    `prepare_corpus` returns.

    Some multiples of 97 bytes lie within words, lines and UTF-8 characters of the
    files.
    """
    files = write_files(tmp_path)
    want = prepare_corpus(files, "", recipe, unit, 0.0)
    for size in (97, 300, 10**6):
        got = write_shards(files, tmp_path / f"s{size}", recipe, unit, shard_bytes=size)
        assert got.characters == want.characters
        assert got.dtype == want.train.dtype
        assert_array_equal(got[:], want.train)
    assert len(list((tmp_path / "s97").glob("*.ids"))) > 9
    verify_shards(tmp_path / "s97")


@pytest.mark.parametrize(
    ("text", "recipe"),
    [
        ("日本語" * 100_000, "none"),
        ("acgt" * 100_000, "source"),
        ("a1" + "9" * 300_000 + "b", "source"),
    ],
)
def test_a_text_without_white_space(text, recipe, tmp_path):
    """A text without white space is divided between two UTF-8 characters, and its
    shards decode to the whole cleaned text.
    """
    (tmp_path / "a.txt").write_text(text)
    got = write_shards(
        str(tmp_path / "a.txt"), tmp_path / "s", recipe, shard_bytes=100_000
    )
    assert len(list((tmp_path / "s").glob("*.ids"))) > 2
    assert got.characters.decode(got[:]) == clean(text, recipe)


@pytest.mark.slow(keep=3)
@pytest.mark.parametrize("size", [1, 3, 8, 10, 11, 20])
@pytest.mark.parametrize(
    "text", ["aaaaaaaaa é", "the last wordword", "one two\n  ", " \n\t", "word"]
)
def test_the_last_word_is_whole(text, size, tmp_path):
    first, last = tmp_path / "first.txt", tmp_path / "last.txt"
    first.write_text("first text")
    last.write_text(text)
    paths = [first, last, last, first, last]  # a file may be given twice
    for recipe in RECIPES:
        got = write_shards(paths, tmp_path / recipe, recipe, shard_bytes=size)
        want = prepare_corpus(paths, "", recipe, validation=0.0, length=2)
        assert got.characters.decode(got[:]) == want.characters.decode(want.train)
        assert got.index.articles == want.articles


def test_a_text_that_changes_meanwhile_is_an_error(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("aaaa bbbb " * 20)
    refused(
        r"a\.txt: changed while it was read",
        write_shards,
        path,
        tmp_path / "s",
        "none",
        shard_bytes=100,
        on_progress=lambda *_: path.write_text("CCC DDDDDD " * 18),
    )


def test_files_of_others_stay(tmp_path):
    text, folder = write_files(tmp_path), tmp_path / "web"
    folder.mkdir()
    for name in ("unfinished.txt", "index.json", "00000.json", "00001.ids"):
        (folder / name).write_text("mine")
        refused(
            f"{name}: exists"
            if name == "unfinished.txt"
            else f"web: holds other files: {name}",
            write_shards,
            text,
            folder,
        )
        assert (folder / name).read_text() == "mine"
        (folder / name).unlink()
    (folder / "notes.ids").write_text("mine")
    write_shards(text, folder)
    assert {path.name for path in folder.iterdir()} >= {
        "notes.ids",
        "index.json",
        "00000.ids",
    }
    assert not (folder / "unfinished.txt").exists()


def test_an_interrupt_before_the_first_record(tmp_path, monkeypatch):
    files, folder = write_files(tmp_path), tmp_path / "s"
    with monkeypatch.context() as patch:
        patch.setattr("lstm_jax.lab.files.shard_folder.summed_json", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            write_shards(files, folder, shard_bytes=300)
    assert {path.name for path in folder.iterdir()} == {"00000.ids", "unfinished.txt"}
    got = write_shards(files, folder, shard_bytes=300)
    assert_array_equal(got[:], prepare_corpus(files, validation=0.0).train)


def _killed(*_: Any):
    os.kill(os.getpid(), signal.SIGKILL)
    return 0


def test_a_killed_worker_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("lstm_jax.lab.generation.data.shards._write_shard", _killed)
    refused(
        "process that writes shards: was killed; give fewer workers",
        write_shards,
        write_files(tmp_path),
        tmp_path / "s",
        workers=2,
    )


@pytest.fixture(scope="module")
def sharded(tmp_path_factory):
    folder = tmp_path_factory.mktemp("text")
    return write_shards(write_files(folder), folder / "s", "source", shard_bytes=100)


@settings(deadline=None, max_examples=30)
@given(
    places=st.lists(st.integers(-5, 3000), min_size=1, max_size=30),
    begin=st.integers(0, 200),
    end=st.integers(300, 600),
)
def test_takes_as_an_array_does(sharded, places, begin, end):
    text, whole, at = sharded.part(begin, end), sharded[begin:end], np.asarray([places])
    assert_array_equal(text.take(at), whole.take(at, mode="clip"))


def test_is_read_as_an_array_is(sharded):
    text, whole = sharded.part(3, 120), sharded[3:120]
    assert list(text) == whole.tolist()
    assert (len(text), text.nbytes) == (117, 0)
    for places in (
        whole == whole[0],
        slice(3, 50, 7),
        slice(None, None, -1),
        np.array([-1, 0, 116, -117], np.int8),
    ):
        assert_array_equal(text[places], whole[places])
    for wrong in (np.array([117]), np.array([0, -118]), np.ones(116, bool)):
        with pytest.raises(IndexError):
            text[wrong]


def test_a_second_call_writes_what_is_missing(tmp_path):
    files, folder = write_files(tmp_path), tmp_path / "s"
    want = write_shards(files, folder, shard_bytes=300)[:]
    kept, gone = folder / "00000.ids", folder / "00002.ids"
    stamp = kept.stat().st_mtime_ns
    gone.unlink()
    (folder / "00004.json").write_text("half")
    calls = []
    again = write_shards(
        files,
        folder,
        shard_bytes=300,
        on_progress=lambda done, total: calls.append((done, total)),
    )
    total = len(list(folder.glob("*.ids")))
    assert calls == [(total - 1, total), (total, total)]
    assert kept.stat().st_mtime_ns == stamp
    assert_array_equal(again[:], want)


def test_a_folder_of_another_text(tmp_path):
    """Writing shards to a folder that has the shards of another text raises an error,
    and changes no file.

    The same holds if the text has fewer files or a changed file, or if it is cleaned by
    another recipe.
    """
    files, folder = write_files(tmp_path), tmp_path / "s"
    write_shards(files, folder, shard_bytes=300)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    for paths, recipe in (
        (files, "none"),
        (files[::-1], "source"),
        (files[:1], "source"),
    ):
        refused(
            "another text or another cleaning; name a new folder",
            write_shards,
            paths,
            folder,
            recipe,
            shard_bytes=300,
        )
    Path(files[0]).write_text("the cat")
    refused("another text", write_shards, files, folder, shard_bytes=300)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def _change(folder, name, content=None):
    """Replace the last byte of a file or, with `content`, its content."""
    (folder / name).write_bytes(
        (folder / name).read_bytes()[:-1] + b"\xff" if content is None else content
    )


def _swap(folder):
    for ending in ("ids", "json"):
        _change(folder, f"00001.{ending}", (folder / f"00002.{ending}").read_bytes())


@pytest.mark.parametrize(
    ("harm", "subject"),
    [
        (lambda folder: (folder / "00001.ids").unlink(), r"00001\.ids: missing"),
        (lambda folder: (folder / "00001.json").unlink(), r"00001\.json: missing"),
        (lambda folder: (folder / "index.json").unlink(), r"no index\.json"),
        (lambda folder: _change(folder, "index.json", b"{}"), r"index\.json: damaged"),
        (lambda folder: _change(folder, "00001.ids", b"cut"), r"00001\.ids: missing"),
        (
            lambda folder: _change(folder, "00001.ids"),
            r"00001\.ids: missing or damaged; write them again with lstm-jax "
            r"data shard",
        ),
        (_swap, r"00001\.json: missing, damaged or of other data"),
    ],
)
def test_a_harmed_folder(harm, subject, tmp_path):
    write_shards(write_files(tmp_path), tmp_path / "s", shard_bytes=300)
    harm(tmp_path / "s")
    for read in (lambda folder: read_shards(folder)[:], verify_shards):
        refused(subject, read, tmp_path / "s")


@pytest.mark.usefixtures("unchecked")
def test_what_is_no_text(tmp_path):
    for name, content, options, found in (
        ("a.csv", b"text\nx\n", {}, "text: .*give text files"),
        ("b.txt", b"ab\xff cd", {}, "file .*is not UTF-8"),
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


def test_a_sharded_corpus(tmp_path):
    files = write_files(tmp_path)
    text = write_shards(files, tmp_path / "s", shard_bytes=300)
    corpus = sharded_corpus(tmp_path / "s", validation=0.25)
    cut = len(text) - round(len(text) * 0.25)
    assert_array_equal(corpus.train[:], text[:cut])
    assert_array_equal(corpus.validation, text[cut:])
    assert corpus.fingerprint == text.index.fingerprint
    # the last file has white space only
    assert corpus.articles == prepare_corpus(files).articles == 3
    for options, subject in (
        ({"recipe": "none"}, r"clean: none; the shards in .* have source"),
        ({"unit": "byte"}, "unit: byte"),
        ({"length": 10**6}, "training part: "),
        ({"length": len(text) // 3}, "validation part: "),
        ({"validation": 1.0}, "validation: 1"),
    ):
        refused(f"^{subject}", sharded_corpus, tmp_path / "s", **options)


@pytest.mark.slow
def test_the_command(ask, tmp_path):
    files = write_files(tmp_path)
    code, said, _ = ask(
        "data", "shard", *files, "--out", tmp_path / "s", "--workers", 1
    )
    assert code == 0
    assert f"lstm-jax train generation --input stream --data {tmp_path / 's'}" in said
    size = len(read_shards(tmp_path / "s"))
    assert f"{size:,} characters" in said
    run = (
        "train generation --units 8 --epochs 1 --sample-chars 5 --no-figures "
        f"--run {tmp_path / 'run'} --data {tmp_path / 's'}"
    ).split()
    assert ask(*run)[0] == 2
    assert ask(*run, "--input", "stream")[0] == 0


def test_one_process_writes_at_a_time(tmp_path):
    """If the folder is locked, `write_shards` raises an error and writes nothing.
    Otherwise two processes could mix their shards.
    """
    files, folder = write_files(tmp_path), tmp_path / "shards"
    folder.mkdir()
    with (
        locked(folder / LOCK, "shards"),
        pytest.raises(
            InputError, match=rf"^shards {folder}: in use by process {os.getpid()}"
        ),
    ):
        write_shards(files, folder)
    assert not list(folder.iterdir())


WORKER = """
import os, time
from functools import partial
from lstm_jax.lab.files.shard_folder import _results

def write(number):
    print(os.getpid(), flush=True)
    time.sleep(90)

if __name__ == "__main__":
    list(_results([partial(write, 0), partial(write, 1)], 2))
"""


def test_workers_end_with_a_killed_parent(tmp_path):
    """Worker processes that write shards end if their parent process is killed.

    A worker that kept running would keep the standard output of the killed process
    open.
    """
    script = tmp_path / "worker.py"
    script.write_text(WORKER)
    with subprocess.Popen(
        [sys.executable, str(script)], stdout=subprocess.PIPE, text=True
    ) as parent:
        assert int(parent.stdout.readline()) != parent.pid
        parent.kill()
        # the output ends with the last process that has it
        parent.communicate(timeout=30)
