"""Sentiment runs that stream reviews from shards, compared with runs that hold the same
reviews in memory.

The commands that write shards and train on them are tested, too.
"""

import json

import jax
import numpy as np
import pytest
from made_reviews import write_csvs

from lstm_jax.base import sharding
from lstm_jax.base.errors import InputError
from lstm_jax.lab.files.shuffled import shuffled
from lstm_jax.lab.sentiment import data
from lstm_jax.lab.sentiment import task as sentiment
from lstm_jax.lab.sweep import override
from lstm_jax.training.examples import FromHost, make_source


@pytest.fixture(scope="module")
def configs(small, tmp_path_factory):
    """Return a config that streams reviews from shards, and a config that reads the
    same reviews into memory.
    """
    reviews, shards = small.data.data, tmp_path_factory.mktemp("streamed") / "s"
    data.write_review_shards([f"{reviews}/train.csv"], shards, [f"{reviews}/test.csv"])
    memory = override(small, {"train.epochs": 3})
    return override(memory, {"data.data": str(shards), "data.input": "stream"}), memory


def test_a_run(configs, tmp_path):
    """A streamed run learns, and records the time that it waits for its input.

    Its vocabulary, word statistics and evaluations are those of the same reviews in
    memory.
    """
    streamed, memory = configs
    result = sentiment.train(streamed, tmp_path / "run", figures=False)
    rows = result.rows
    assert rows[-1]["train_loss"] < rows[0]["train_loss"] < 0.75
    assert all(row["input_seconds"] > 0 for row in rows)
    trained = sentiment.load(tmp_path / "run")
    assert sentiment.evaluate(trained).accuracy == rows[-1]["test_accuracy"]
    reviews = sentiment.encoded_reviews(memory)
    assert trained.vocabulary == reviews.vocabulary
    for split in ("train", "test"):
        assert sentiment.evaluate(trained, split=split) == sentiment.evaluate(
            trained, reviews, split
        )
    assert np.isfinite(trained.probabilities(["the film was good", ""])).all()
    with (tmp_path / "words.npz").open("wb") as file:
        sentiment.write_words(reviews, file)
    kept = np.load(tmp_path / "words.npz")
    for name, stored in zip(("share", "count"), trained.words.statistics, strict=True):
        np.testing.assert_array_equal(stored, kept[name])


def test_batches_are_those_of_the_order(configs):
    """A run that streams reviews has the same validation split as a run that holds them
    in memory.

    The batches of the streaming run have the rows that `shuffled` names.
    """
    streamed, memory = (
        override(config, {"data.validation": 0.25}) for config in configs
    )
    mapped, whole = (
        sentiment.padded_rows(sentiment.encoded_reviews(config), config)
        for config in (streamed, memory)
    )
    for split in (mapped.validation, whole.validation, whole.train):
        assert isinstance(split, sentiment.Rows)
    np.testing.assert_array_equal(mapped.validation.ids, whole.validation.ids)
    examples, key = mapped.train.examples(), jax.random.key(1)
    source = make_source(examples, sharding.make_mesh(2), 16)
    assert isinstance(source, FromHost)
    _, (ids, labels), order = next(source.groups(key, 0))
    rows = shuffled(key, examples.count, 16)(0, len(np.asarray(order.rows))).rows
    assert len(rows) == -(-examples.count // 16)  # all batches of the epoch
    np.testing.assert_array_equal(ids, np.asarray(whole.train.ids)[rows])
    np.testing.assert_array_equal(labels, whole.train.labels[rows])


def test_memory_of_the_data(configs):
    """Only the validation and test splits count as data in memory, and their size is
    computed without reading them.
    """
    streamed, _ = configs
    reviews = sentiment.encoded_reviews(streamed)
    for share, count in ((0.0, 80), (0.25, 60 + 80)):
        config = override(streamed, {"data.validation": share})
        task = sentiment.Sentiment(config, reviews, sharding.make_mesh(1))
        assert task.data_bytes() == 4 * 20 * count
        assert "splits" not in vars(task)


def test_the_commands(ask, configs, tmp_path):
    write_csvs(tmp_path / "reviews", 60, 20)
    folder, shards = tmp_path / "reviews", tmp_path / "s"
    code, said, _ = ask(
        "data",
        "shard-reviews",
        folder / "train.csv",
        "--test",
        folder / "test.csv",
        "--out",
        shards,
    )
    assert code == 0
    assert "60 training and 20 test reviews" in said
    command = said.splitlines()[-1].split()
    assert (
        command
        == (
            f"next: lstm-jax train sentiment --input stream --data {shards} "
            "--vocabulary frequency"
        ).split()
    )
    rest = (
        "--units",
        8,
        "--embed",
        8,
        "--epochs",
        1,
        "--run",
        tmp_path / "run",
        "--no-figures",
    )
    assert ask(*command[2:], *rest)[0] == 0
    assert (
        json.loads((tmp_path / "run" / "metrics.jsonl").read_text())["test_accuracy"]
        >= 0
    )


@pytest.mark.parametrize(
    ("field", "value"),
    [("packed", 20), ("test_data", "x.csv"), ("data", ""), ("vocabulary", "keras")],
)
def test_what_a_stream_cannot_have(configs, field, value):
    with pytest.raises(InputError, match="for input stream, give"):
        override(configs[0].data, {field: value})
