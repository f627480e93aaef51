"""Weights are converted to and from Keras layers; Keras' outputs equal those of a
float64 NumPy LSTM with the converted arrays.
"""

import numpy as np
import pytest
from made_weights import assert_same, normal, random_lstm, random_model
from numpy_lstm import assert_close, probabilities

from lstm_jax import convert

pytestmark = [
    # NumPy 2 asks for an argument `copy`
    pytest.mark.filterwarnings(
        "ignore:__array__ implementation:DeprecationWarning:keras"
    ),
    pytest.mark.usefixtures("only_peers"),
]


@pytest.mark.slow(keep=3)
@pytest.mark.parametrize(
    "kinds",
    [
        ("lstm",),
        ("bidirectional",),
        ("lstm", "bidirectional", "bidirectional", "lstm", "lstm"),
    ],
    ids="-".join,
)
@pytest.mark.parametrize("use_bias", [True, False])
def test_keras_model_list(kinds, use_bias):
    keras = pytest.importorskip("keras", reason="needs the peer Keras")
    # features = units, the case in which a bidirectional layer looks most like two
    # LSTMs
    layers, units = keras.layers, 3
    model = keras.Sequential(
        [keras.Input((6,), dtype="int32"), layers.Embedding(11, 3)]
    )
    for number, kind in enumerate(kinds):
        one = layers.LSTM(
            units, return_sequences=number + 1 < len(kinds), use_bias=use_bias
        )
        model.add(one if kind == "lstm" else layers.Bidirectional(one))
    model.add(layers.Dense(1, activation="sigmoid", use_bias=use_bias))
    ours = random_model(kinds, units=units)
    weights = convert.sentiment_to_keras(ours)
    model.set_weights([array for array in weights if use_bias or array.ndim == 2])
    converted = convert.sentiment_from_keras(model.get_weights())
    assert_same(
        converted,
        ours
        if use_bias
        else {
            path: np.zeros_like(a) if path.endswith("bias") else a
            for path, a in ours.items()
        },
    )
    ids = np.random.default_rng(0).integers(0, 11, (4, 6))
    assert_close(model(ids), probabilities(converted, ids))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_keras_round_trips(dtype):
    ours, table = (
        random_lstm(2, 3, dtype=dtype),
        {"embedding": normal(1, 3, 2, dtype=dtype)},
    )
    dense = {"kernel": normal(2, 2, 3, dtype=dtype), "bias": normal(3, 3, dtype=dtype)}
    assert_same(convert.lstm_from_keras(convert.lstm_to_keras(ours)), ours)
    assert_same(convert.embedding_from_keras(convert.embedding_to_keras(table)), table)
    assert_same(convert.dense_from_keras(convert.dense_to_keras(dense)), dense)
    assert_same(convert.dense_from_keras([dense["kernel"]])["bias"], np.zeros(3, dtype))
