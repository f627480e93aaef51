"""Synthetic reviews: the words determine the label, and equal seeds give equal texts."""

import hashlib

import numpy as np
import pytest
from refused import refused

from lstm_jax.lab.sentiment.data import (
    build_vocabulary,
    judge,
    synthetic_reviews,
    synthetic_splits,
    tokenize,
)


@pytest.fixture(scope="module")
def splits():
    return synthetic_splits(5000, 2000, 0)


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ("the plot was not bad .", 1),
        ("the plot was not very good . it is a mess .", 0),
        ("the film starts well , then it ends badly .", 0),
        ("the film starts badly , then it ends well .", 1),
        ("despite its dull start , the cast was superb .", 1),
        ("the cast was dull despite its superb start .", 0),
        ("i expected a bore , yet it is a treat .", 1),
        ("the cast was good , but the script was awful .", 0),
        ("though the cast was not good , the script was lovely .", 1),
        (
            "the script was lovely , though the cast was not good . the plot "
            "was not fresh , but it is a gem .",
            1,
        ),
    ],
)
def test_judge(text, verdict):
    assert judge(text) == verdict


def test_judge_refuses_other_texts():
    for text in (
        "it lasts about two hours .",
        "the plot was good . the cast was bad .",
        "",
    ):
        refused("synthetic_reviews", judge, text)


def test_labels_follow_from_the_words(splits):
    for split in splits.values():
        # the tokens alone determine the label, since a model sees no punctuation
        assert [
            judge(b" ".join(tokenize(text)).decode()) for text in split.texts
        ] == split.labels.tolist()


def test_sizes(splits):
    assert (len(splits["train"]), len(splits["test"])) == (5000, 2000)
    texts = splits["train"].texts + splits["test"].texts
    assert len(set(texts)) == 7000
    assert splits["train"].labels.sum() == 2500
    assert splits["test"].labels.sum() == 1000
    lengths = [len(tokenize(text)) for text in texts]
    assert min(lengths) >= 8
    assert 20 <= max(lengths) <= 60
    assert 150 <= len(build_vocabulary(texts).words) <= 250


def test_seed(splits):
    """Equal seeds give the same texts in every version, so that runs can be repeated."""
    texts = b"\n".join(splits["train"].texts + splits["test"].texts)
    assert (
        hashlib.sha256(texts).hexdigest()
        == "859f50c015cb7fb1891e1badfa174dd1d70f4f0fbf5abffdd2ae9476e21c47a6"
    )
    assert synthetic_reviews(10, 1).texts != synthetic_reviews(10, 2).texts
    odd = synthetic_splits(7, 5, 0)
    assert [sorted(np.bincount(split.labels)) for split in odd.values()] == [
        [3, 4],
        [2, 3],
    ]
    for count in ((1, 5), (5, 0)):
        refused("synthetic reviews", synthetic_splits, *count, 0)
