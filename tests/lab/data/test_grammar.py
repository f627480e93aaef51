"""Synthetic reviews: the words determine the label, and equal seeds give equal texts."""

import hashlib

import numpy as np
import pytest
from refused import refused

from lstm_jax.lab.sentiment.data import (
    build_vocabulary,
    grammar,
    synthetic_reviews,
    synthetic_splits,
    tokenize,
)


@pytest.fixture(scope="module")
def splits():
    return synthetic_splits(5000, 2000, 0)


def judge(words):
    """Return the verdict of a text: 1 if its words of praise or blame that a "not" does
    not invert, and that stand in no concession, are positive.
    """
    signs = dict.fromkeys((*grammar.PRAISE, *grammar.WELL, *grammar.HIT), 1)
    signs |= dict.fromkeys((*grammar.BLAME, *grammar.BADLY, *grammar.MISS), 0)
    verdicts = []
    negated = conceded = False
    for word in words:
        conceded |= word in ("despite", "though", "expected", "starts")
        negated |= word == "not"
        if word == "but" and verdicts:
            verdicts.pop()
        elif word in signs:
            if not conceded:
                verdicts.append(signs[word] ^ negated)
            negated = conceded = False
    (verdict,) = set(verdicts)
    return verdict


def test_labels_follow_from_the_words(splits):
    for split in splits.values():
        # the tokens alone determine the label, since a model sees no punctuation
        found = [
            judge(b" ".join(tokenize(text)).decode().split()) for text in split.texts
        ]
        assert found == split.labels.tolist()


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
