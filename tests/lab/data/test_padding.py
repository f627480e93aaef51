"""`pad_sequences` and `pad_ragged` return the arrays that the installed Keras returns."""

import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

os.environ.setdefault("KERAS_BACKEND", "jax")
from keras.utils import pad_sequences as keras_pad
from refused import refused

from lstm_jax.lab.files.padding import pad_ragged, pad_sequences, ragged

ROWS = st.lists(st.lists(st.integers(0, 1000), max_size=12), min_size=1, max_size=8)
SIDES = st.sampled_from(["pre", "post"])


@settings(max_examples=200, deadline=None)
@given(ROWS, st.none() | st.integers(1, 15), SIDES, SIDES, st.integers(-3, 9))
def test_integers_equal_keras(rows, maxlen, padding, truncating, value):
    options = {
        "maxlen": maxlen,
        "padding": padding,
        "truncating": truncating,
        "value": value,
    }
    ours = pad_sequences(rows, **options)
    assert_array_equal(ours, keras_pad(rows, **options), strict=True)


@settings(max_examples=200, deadline=None)
@given(ROWS, st.integers(1, 15), SIDES, SIDES)
def test_ragged_equals_keras(rows, maxlen, padding, truncating):
    ours = pad_ragged(*ragged(rows), maxlen, padding, truncating)
    assert_array_equal(
        ours,
        keras_pad(rows, maxlen, padding=padding, truncating=truncating),
        strict=True,
    )


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.lists(st.tuples(st.floats(-9, 9), st.floats(-9, 9)), max_size=5),
        min_size=1,
        max_size=5,
    ),
    SIDES,
    SIDES,
)
def test_vectors_equal_keras(rows, padding, truncating):
    options = {
        "maxlen": 3,
        "padding": padding,
        "truncating": truncating,
        "dtype": "float32",
        "value": 0.5,
    }
    assert_array_equal(
        pad_sequences(rows, **options), keras_pad(rows, **options), strict=True
    )


@pytest.mark.parametrize(
    ("dtype", "value"),
    [(object, "none"), ("<U5", "none"), ("<U5", 0.0), (object, 0.0), ("float64", -1.5)],
)
def test_strings_and_floats_equal_keras(dtype, value):
    rows = [["1"], ["2", "3"], [], ["4", "5", "6"]]
    for maxlen in (None, 2):
        ours, theirs = (
            pad(rows, maxlen=maxlen, dtype=dtype, value=value)
            for pad in (pad_sequences, keras_pad)
        )
        assert ours.dtype == theirs.dtype
        assert ours.tolist() == theirs.tolist()


def test_nothing_to_pad():
    assert pad_sequences([[], []]).shape == keras_pad([[], []]).shape == (2, 0)
    assert pad_sequences([], maxlen=4).shape == keras_pad([], maxlen=4).shape == (0, 4)
    assert pad_ragged(*ragged([]), 4).shape == (0, 4)


@pytest.mark.parametrize(
    ("rows", "options", "found"),
    [
        ([[1]], {"padding": "left"}, "padding: left"),
        ([[1]], {"truncating": "left"}, "truncating: left"),
        ([[1]], {"value": "x"}, "dtype=object"),
        ([[1], 2], {}, "sequence 1: 2"),
        (7, {}, "sequences: int"),
        (iter([[1]]), {}, "list of sequences"),
        ([], {}, "at least one sequence"),
        ([[[1, 2]], [[1, 2, 3]]], {}, "shape"),
    ],
)
def test_bad_arguments(rows, options, found):
    refused(found, pad_sequences, rows, **options)
    with pytest.raises(ValueError):  # Keras refuses them too
        keras_pad(rows, **options)


def test_no_steps_and_bad_arguments_of_ragged():
    for maxlen in (0, -1):
        refused(r"^maxlen: ", pad_sequences, [[1, 2]], maxlen=maxlen)
    for name, value in (("maxlen", 0), ("padding", "left"), ("truncating", "left")):
        refused(f"^{name}: ", pad_ragged, *ragged([[1]]), **{"maxlen": 3, name: value})
