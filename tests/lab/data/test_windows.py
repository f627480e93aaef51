"""Windows, chunks and streams of a text equal those of plain loops; windows and chunks
are read-only views of the ids.
"""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_array_equal
from refused import refused

from lstm_jax.lab.generation.data import (
    chunks,
    one_hot,
    stream_chunks,
    window_count,
    windows,
)


def made_ids(n):
    return np.random.default_rng(n).integers(0, 33, n).astype(np.uint8)


def check_views(ids, *views):
    assert ids.flags.writeable
    for view in views:
        assert not view.flags.writeable
        assert np.shares_memory(view, ids)


def source_windows(text, length, step):
    """Return the windows and the character after each window, as the loop of the
    lstm_text_generation example cuts them.
    """
    sentences, following = [], []
    for start in range(0, len(text) - length, step):
        sentences.append(text[start : start + length])
        following.append(text[start + length])
    return sentences, following


@given(st.integers(0, 200), st.integers(1, 50), st.integers(1, 60))
def test_windows(n, length, step):
    ids = made_ids(n)
    sentences, following = source_windows(ids.tolist(), length, step)
    assert window_count(n, length, step) == len(sentences)
    if not sentences:
        refused(
            f"text: {n} characters; a window and its next character need "
            f"{length + 1}: give more text",
            windows,
            ids,
            length,
            step,
        )
        return
    X, Y = windows(ids, length, step)
    assert X.dtype == np.uint8
    assert X.tolist() == sentences
    assert Y.tolist() == following
    check_views(ids, X, Y)


@given(st.integers(2, 60), st.integers(1, 9), st.integers(1, 9))
def test_one_hot(n, length, step):
    ids = made_ids(n) % 7
    sentences, following = source_windows(ids.tolist(), length, step)
    if not sentences:
        return
    for made, wanted in zip(
        one_hot(*windows(ids, length, step), 7), (sentences, following), strict=True
    ):
        assert_array_equal(made, np.eye(7, dtype=bool)[wanted], strict=True)


def test_one_hot_bounds():
    X, Y = np.asarray([[0, 3]]), np.asarray([1])
    refused("size: 3; give the number of distinct characters", one_hot, X, Y, 3)
    refused("size: 4", one_hot, X, -Y, 4)
    assert [part.shape for part in one_hot(X[:0], Y[:0], 4)] == [(0, 2, 4), (0, 4)]


@given(st.integers(0, 200), st.integers(1, 20))
def test_chunks(n, length):
    ids = made_ids(n)
    text = ids.tolist()
    pairs = [
        (text[at : at + length], text[at + 1 : at + 1 + length])
        for at in range(0, n - length, length)
    ]
    if not pairs:
        refused(
            f"text: {n} characters; a window and its next character need {length + 1}",
            chunks,
            ids,
            length,
        )
        return
    X, Y = chunks(ids, length)
    assert list(zip(X.tolist(), Y.tolist(), strict=True)) == pairs
    check_views(ids, X, Y)


@given(st.integers(0, 300), st.integers(1, 9), st.integers(1, 9))
def test_streams(n, length, batch):
    ids = made_ids(n)
    steps = (n - 1) // (batch * length)
    if steps < 1:
        refused(
            f"{batch} streams of {length} characters need {batch * length + 1}",
            stream_chunks,
            n,
            length,
            batch,
        )
        return
    rows = stream_chunks(n, length, batch)
    assert (rows.shape, rows.dtype) == ((steps, batch), np.int64)
    X, Y = chunks(ids, length)
    for stream in range(batch):
        begin, end = stream * steps * length, (stream + 1) * steps * length
        assert_array_equal(np.concatenate(X[rows[:, stream]]), ids[begin:end])
        assert_array_equal(np.concatenate(Y[rows[:, stream]]), ids[begin + 1 : end + 1])


def test_bad_arguments():
    found, ids = r"^(length|step|batch): 0; give 1 or more", made_ids(100)
    for length, step in ((0, 1), (1, 0)):
        refused(found, windows, ids, length, step)
        refused(found, stream_chunks, 100, length, step)
    refused(found, chunks, ids, 0)
