"""Keras archives whose layers are no chain, or not Keras' own."""

import os

os.environ.setdefault("KERAS_BACKEND", "jax")

import pytest
from made_weights import assert_same

from lstm_jax import convert
from lstm_jax.errors import InputError

keras = pytest.importorskip("keras", reason="needs the peer Keras")
layers = keras.layers

# Keras' variables lack the `copy` argument that NumPy 2 asks for.
pytestmark = [
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning:keras"),
    pytest.mark.usefixtures("only_peers", "quick_compiles"),
]


def _two_calls(x):
    lstm = layers.LSTM(4, return_sequences=True)
    return layers.Dense(1)(layers.LSTM(4)(lstm(lstm(x))))


def _states(x):
    sequences, h, c = layers.LSTM(4, return_sequences=True, return_state=True)(x)
    return layers.Dense(1)(layers.LSTM(4)(sequences, initial_state=[h, c]))


def _two_outputs(x):
    x = layers.LSTM(4)(x)
    return [layers.Dense(1)(x), x]


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (_states, "layer lstm_1, called with initial_state; expected a chain"),
        (lambda x: layers.Dense(1)(layers.LSTM(4, return_state=True)(x)[2]), r"layer dense, which reads \[\['lstm', 0, 2\]\]"),
        (_two_calls, "layer lstm, called 2 times"),
        (_two_outputs, "inputs or outputs"),
        (lambda x: layers.Dense(1)(layers.LSTM(4)(layers.Dropout(0.5)(x, training=True))), "layer dropout, called with training"),
        (lambda x: layers.LSTM(1)(layers.Dense(4)(x)), "layers embedding, dense, lstm"),
    ],
)
def test_an_archive_shows_what_each_layer_reads(tmp_path, build, message):
    """Models that have the arrays of a supported model and predict something else are refused."""
    keras.utils.clear_session()
    ids = keras.Input((6,))
    keras.Model(ids, build(layers.Embedding(7, 4)(ids))).save(tmp_path / "x.keras")
    with pytest.raises(InputError, match=message):
        convert.sentiment_from_keras_file(tmp_path / "x.keras")


def test_a_class_of_the_user_s_own(tmp_path):
    class LSTM(layers.LSTM):
        pass

    for registered in (LSTM, keras.saving.register_keras_serializable("my")(LSTM)):
        keras.Sequential([keras.Input((6,)), layers.Embedding(7, 4), registered(5), layers.Dense(1)]).save(tmp_path / "x.keras")
        with pytest.raises(InputError, match="a LSTM that is not Keras' own"):
            convert.sentiment_from_keras_file(tmp_path / "x.keras")


@pytest.mark.parametrize("masked", [False, True])
def test_a_functional_model_with_a_mask_and_a_state(tmp_path, masked):
    ids = keras.Input((6,))
    x = layers.Dropout(0.5)(layers.Embedding(7, 4, mask_zero=masked)(ids))
    sequences, *_ = layers.LSTM(4, return_sequences=True, return_state=True)(x)
    model = keras.Model(ids, layers.Dense(1)(layers.Bidirectional(layers.LSTM(3))(sequences)))
    model.save(tmp_path / "x.keras")
    assert_same(convert.sentiment_from_keras_file(tmp_path / "x.keras"), convert.sentiment_from_keras(model.get_weights()))
