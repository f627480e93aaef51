"""Tests of the real IMDb reviews: ids, order and labels are those of Keras' data set,
as the hash of each split shows.
"""

import hashlib

import numpy as np
import pytest

from lstm_jax.lab.sentiment.data import prepare

TRAIN = "79fab1839f451a3f076ab3f1e9f47cf60bef48e2849bb542c0e398b3e5d620fc"
TEST = "2be01e9a5e7d343542f734e9609c8a6fce5138ea4cc01fb22c89a4a21e3c1d5d"


def keras_check_hash(split):
    """Return the SHA-256 of the ids of each review, as little-endian int32 followed by
    b"|", and then of the labels.
    """
    whole = hashlib.sha256()
    for number in range(len(split)):
        whole.update(split.row(number).astype("<i4").tobytes() + b"|")
    whole.update(split.labels.astype("<i4").tobytes())
    return whole.hexdigest()


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return str(tmp_path_factory.mktemp("cache"))


@pytest.fixture
def reviews(imdb, cache):
    return prepare(data=str(imdb), num_words=None, cache_dir=cache)


@pytest.mark.slow
def test_hashes_and_lengths(reviews):
    assert (len(reviews.train), len(reviews.test)) == (25_000, 25_000)
    assert keras_check_hash(reviews.train) == TRAIN
    assert keras_check_hash(reviews.test) == TEST
    lengths = np.concatenate([reviews.train.lengths, reviews.test.lengths])
    assert round(float(lengths.mean()), 2) == 234.76
    assert round(float(lengths.std()), 2) == 172.91
    assert reviews.train.labels.sum() == reviews.test.labels.sum() == 12_500
    assert reviews.vocabulary.decode(reviews.train.row(0)).startswith(
        "this film was just brilliant casting location scenery story"
    )
    assert reviews.vocabulary.size == 88_588
    assert reviews.train.groups.min() == 0
    # the data set is known to hold at least 96 copies
    assert 25_000 - len(np.unique(reviews.train.hashes())) >= 96
