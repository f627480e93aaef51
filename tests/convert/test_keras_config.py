"""Keras archives are refused if their layers are not connected in a supported chain, or if a layer is not of a class of Keras."""

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
    """A model that has the arrays of a supported model but computes something else is refused."""
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


SUPPORTED = (
    "expected Embedding -> LSTM, Bidirectional(LSTM) or RNN(LSTMCell) layers -> one Dense; convert another model layer by layer: "
    "convert.load(layer, keras_layer), or lstm_from_keras, cell_from_keras, dense_from_keras"
)


def _sequential(middle, dense=1):
    model = keras.Sequential([keras.Input((6,)), layers.Embedding(7, 4), *middle])
    for _ in range(dense):
        model.add(layers.Dense(1))
    return model


@pytest.mark.parametrize("suffix", [".keras", ".weights.h5"])
def test_another_architecture_is_converted_layer_by_layer(tmp_path, suffix):
    """An unsupported Keras model is refused, both as a file and as a list of arrays.

    The error names the supported models and the functions that convert single layers.
    """
    keras.utils.clear_session()
    models = {"both": _sequential([layers.Bidirectional(layers.GRU(6))]), "gru": _sequential([layers.GRU(6)])}
    models["dense"] = _sequential([layers.LSTM(6)], dense=2)
    subjects = {
        "both.keras": f"Keras model {tmp_path}/both.keras: a layer of class GRU; ",
        "both.weights.h5": "layers/bidirectional/forward_layer/cell: recurrent_kernel: shape (6, 18); expected (H, 4H): is this the ",
        "dense": f"Keras model {tmp_path}/dense{suffix}: layers dense, dense_1, embedding, lstm; expected one dense layer; ",
        "gru": f"Keras model {tmp_path}/gru{suffix}: layer gru; ",
    }
    for name, model in models.items():
        path = tmp_path / f"{name}{suffix}"
        model.save(path) if suffix == ".keras" else model.save_weights(path)
        with pytest.raises(InputError) as refused:
            convert.sentiment_from_keras_file(path)
        shown = " ".join(str(refused.value).split())
        subject = subjects.get(name + suffix, subjects.get(name, ""))
        assert shown.startswith(subject)
        assert shown.endswith(SUPPORTED)
        with pytest.raises(
            InputError, match=r"layers -> Dense\(1\); convert another model layer by layer: convert.load\(layer, keras_layer\)"
        ):
            convert.sentiment_from_keras(model.get_weights())
