"""Weights are converted to and from Keras layers; Keras' outputs equal those of a float64 NumPy LSTM with the converted arrays."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_weights import SIZES, assert_same, normal, random_lstm, random_model
from numpy_lstm import assert_close, probabilities

from lstm_jax import convert
from lstm_jax.errors import InputError

pytestmark = [
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning:keras"),  # NumPy 2 asks for an argument `copy`
    pytest.mark.usefixtures("only_peers", "quick_compiles"),
]

MANY = settings(max_examples=30, deadline=None, derandomize=True)


@pytest.mark.parametrize("kinds", [("lstm",), ("bidirectional",), ("lstm", "bidirectional", "bidirectional", "lstm", "lstm")], ids="-".join)
@pytest.mark.parametrize("use_bias", [True, False])
def test_keras_model_list(kinds, use_bias):
    keras = pytest.importorskip("keras", reason="needs the peer Keras")
    layers, units = keras.layers, 3  # features = units, the case in which a bidirectional layer looks most like two LSTMs
    model = keras.Sequential([keras.Input((6,), dtype="int32"), layers.Embedding(11, 3)])
    for number, kind in enumerate(kinds):
        one = layers.LSTM(units, return_sequences=number + 1 < len(kinds), use_bias=use_bias)
        model.add(one if kind == "lstm" else layers.Bidirectional(one))
    model.add(layers.Dense(1, activation="sigmoid", use_bias=use_bias))
    ours = random_model(kinds, units=units)
    weights = convert.sentiment_to_keras(ours)
    model.set_weights([array for array in weights if use_bias or array.ndim == 2])
    converted = convert.sentiment_from_keras(model.get_weights())
    assert_same(converted, ours if use_bias else {path: np.zeros_like(a) if path.endswith("bias") else a for path, a in ours.items()})
    ids = np.random.default_rng(0).integers(0, 11, (4, 6))
    assert_close(model(ids), probabilities(converted, ids))


@MANY
@given(SIZES, SIZES, st.sampled_from([np.float16, np.float32, np.float64]))
def test_keras_round_trips(e, h, dtype):
    ours = random_lstm(e, h, dtype=dtype)
    assert_same(convert.lstm_from_keras(convert.lstm_to_keras(ours)), ours)
    table, dense = {"embedding": normal(1, h, e, dtype=dtype)}, {"kernel": normal(2, e, h, dtype=dtype), "bias": normal(3, h, dtype=dtype)}
    assert_same(convert.embedding_from_keras(convert.embedding_to_keras(table)), table)
    assert_same(convert.dense_from_keras(convert.dense_to_keras(dense)), dense)
    assert_same(convert.dense_from_keras([dense["kernel"]])["bias"], np.zeros(h, dtype))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kernel": np.zeros((3, 21))}, r"kernel: shape \(3, 21\); expected \(E, 20\)"),
        ({"kernel": np.zeros((0, 20))}, r"kernel: shape \(0, 20\); expected \(E, 20\)"),
        ({"recurrent_kernel": np.zeros((5, 15))}, r"recurrent_kernel: shape \(5, 15\); expected \(H, 4H\)"),
        ({"bias": np.zeros((2, 20))}, r"bias: shape \(2, 20\); expected \(20,\)"),
        ({"bias": [[1.0], [2.0, 3.0]]}, "bias: .*; give an array of floats"),
        ({"gain": np.zeros(20)}, "LSTM: keys bias, gain, kernel, recurrent_kernel; expected exactly kernel, recurrent_kernel, bias"),
    ],
)
def test_refuses_a_wrong_lstm(change, message):
    with pytest.raises(InputError, match=message):
        convert.lstm_to_keras(random_lstm(3, 5) | change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"head/bias": None}, "head/bias: missing"),
        ({"head/gain": np.zeros(1)}, "key of a sentiment model: head/gain"),
        ({"recurrent/2/kernel": np.zeros((4, 16))}, r"recurrent/ layers: \[0, 2\]; number them"),
        ({"recurrent/0/kernel": None}, "recurrent/0/LSTM: keys bias, recurrent_kernel"),
        ({"recurrent/0/forward/kernel": np.zeros((3, 16))}, "recurrent/0/bidirectional layer: keys"),
        ({"embedding/embedding": np.zeros((11, 9))}, "recurrent/0/: takes 3 features; the embedding gives 9"),
        ({"head/kernel": np.zeros((8, 1))}, r"head/kernel: shape \(8, 1\); expected \(4, 1\)"),
        ({"head/kernel": np.zeros((4, 2))}, r"head/kernel: shape \(4, 2\); expected \(4, 1\)"),
    ],
)
def test_refuses_a_wrong_model(change, message):
    model = random_model() | change
    with pytest.raises(InputError, match=message):
        convert.sentiment_to_keras({path: array for path, array in model.items() if array is not None})


def test_refuses_wrong_lists():
    one, other = (convert.lstm_to_keras(random_lstm(features, 2)) for features in (2, 3))
    for read, weights, message in [
        (convert.lstm_from_keras, [np.zeros((2, 4))] * 4, "LSTM weights: 4 arrays"),
        (convert.bidirectional_from_keras, [np.zeros((2, 4))] * 5, "Bidirectional weights: 5 arrays"),
        (convert.bidirectional_from_keras, [*one, *other], r"backward/kernel: shape \(3, 8\); expected \(2, 8\)"),
    ]:
        with pytest.raises(InputError, match=message):
            read(weights)
    good = convert.sentiment_to_keras(random_model(("lstm", "lstm")))
    for weights, message in [
        (good[:3], "model weights: 3 arrays"),
        (good[:2] + good[3:], r"LSTM 0 from weights\[1\].*expected those of Embedding"),
        ([*good[:4], np.zeros((4, 12)), np.zeros((4, 12)), np.zeros(12), *good[7:]], r"LSTM 1 from weights\[4\]: recurrent_kernel: shape"),
        ([*good[:7], np.zeros((5, 1)), np.zeros(1)], r"head/kernel: shape \(5, 1\); expected \(4, 1\)"),
    ]:
        with pytest.raises(InputError, match=message):
            convert.sentiment_from_keras(weights)
