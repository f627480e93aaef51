"""Reviews in shards have the ids, labels and vocabulary that `encode_reviews` returns;
damaged shards and bad input raise errors.
"""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal
from refused import refused

from lstm_jax.lab.files import shard_folder
from lstm_jax.lab.files.shard_folder import verify_shards
from lstm_jax.lab.generation.data import write_shards
from lstm_jax.lab.sentiment.data import (
    PaddedReviews,
    encode_reviews,
    read_review_shards,
    synthetic_splits,
    write_review_shards,
)
from lstm_jax.lab.sentiment.data import splits as splits_module


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


@pytest.mark.parametrize("num_words", [None, 20])
def test_shards_are_the_reviews_in_memory(
    splits, folders, num_words, tmp_path, monkeypatch
):
    monkeypatch.setattr(splits_module, "BLOCK", 7)
    monkeypatch.setattr(shard_folder, "OPEN", 1)
    train, test = folders
    want = encode_reviews(splits, num_words)
    write_review_shards([train], tmp_path / "s", [test])
    got = read_review_shards(tmp_path / "s", num_words)
    assert got.vocabulary == want.vocabulary
    for own, other in ((got.train, want.train), (got.test, want.test)):
        assert_array_equal(own.labels, other.labels, strict=True)
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
    assert verify_shards(tmp_path / "s") == 4


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.integers(-5, 130), max_size=9),
    st.integers(1, 30),
    st.sampled_from(["pre", "post"]),
    st.sampled_from(["pre", "post"]),
)
def test_taken_rows_are_those_of_the_whole(mapped, rows, maxlen, padding, truncating):
    sharded, memory = mapped
    lazy = PaddedReviews(sharded.train, maxlen, padding, truncating)
    whole = memory.train.padded(maxlen, padding, truncating)
    assert lazy.shape == whole.shape
    assert_array_equal(
        lazy.take(np.asarray(rows, int)),
        whole.take(np.asarray(rows, int), axis=0, mode="clip"),
    )


@pytest.fixture(scope="module")
def mapped(splits, folders, tmp_path_factory):
    folder = tmp_path_factory.mktemp("mapped") / "s"
    return write_review_shards(
        [folders[0]], folder, [folders[1]], workers=2
    ), encode_reviews(splits)


@pytest.mark.parametrize("ending", ["ids", "npz"])
def test_a_second_call_mends(folders, ending, tmp_path):
    folder = tmp_path / "s"
    write_review_shards([folders[0]], folder)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    content = before[f"00001.{ending}"]
    (folder / f"00001.{ending}").write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    for read in (
        lambda folder: read_review_shards(folder).train.values[:],
        verify_shards,
    ):
        refused(
            rf"^shard .*00001\.{ending}: missing or .*; write them again with "
            r"lstm-jax data shard-reviews$",
            read,
            folder,
        )
    write_review_shards([folders[0]], folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_table_larger_than_the_memory(folders, tmp_path, monkeypatch):
    """`write_review_shards` accepts tables that are larger than `most_bytes`, the limit
    for files that are read as a whole.
    """
    monkeypatch.setattr("lstm_jax.base.reading.most_bytes", lambda: 4000)
    assert len(write_review_shards([folders[0]], tmp_path / "s").train) == 120


def test_bad_input(folders, tmp_path):
    train, test = folders
    (tmp_path / "empty").mkdir()
    (tmp_path / "one.csv").write_text("text,label\ngood,1\nfine,1\n")
    (tmp_path / "none.csv").write_text("text,label\n")
    (tmp_path / "text.txt").write_text("some words")
    write_shards(str(tmp_path / "text.txt"), tmp_path / "text")
    write_review_shards([train], tmp_path / "s")
    for paths, folder, subject in (
        ([], "new", "reviews: no table"),
        ([str(Path(test).parent)], "new", "reviews: .*; a table of both splits"),
        ([str(tmp_path / "empty")], "new", "reviews: .*empty"),
        ([str(tmp_path / "one.csv")], "one", "train split of "),
        ([str(tmp_path / "none.csv")], "none", "table .*none.csv: no reviews"),
    ):
        refused(f"^{subject}", write_review_shards, paths, tmp_path / folder, [test])
    refused(
        "^shards .*: are of another text",
        write_review_shards,
        [test],
        tmp_path / "s",
    )
    refused("^shards: an empty name", write_review_shards, [train], Path(""))
    refused("^shards .*: no index.json", read_review_shards, tmp_path)
    refused("^index .*: of the format 'text 2'", read_review_shards, tmp_path / "text")


def test_bad_tables_in_several_processes(tmp_path):
    """An error in a worker process is raised in the process that called
    `write_review_shards`.
    """
    for name in ("a.csv", "b.csv"):
        (tmp_path / name).write_text("words,label\ngood,1\n")
    refused(
        r"column 'text'",
        write_review_shards,
        [str(tmp_path / "a.csv"), str(tmp_path / "b.csv")],
        tmp_path / "shards",
        workers=2,
    )
