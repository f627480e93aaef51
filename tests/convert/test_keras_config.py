"""Keras models that lstm_jax cannot express are refused: by their layers, by the
options in an archive, and by what each layer reads.
"""

import numpy as np
import pytest
from made_weights import assert_same

from lstm_jax import convert
from lstm_jax.base.errors import InputError

keras = pytest.importorskip("keras", reason="needs the peer Keras")
layers = keras.layers

pytestmark = [
    # NumPy 2 asks for an argument `copy`
    pytest.mark.filterwarnings(
        "ignore:__array__ implementation:DeprecationWarning:keras"
    ),
    pytest.mark.usefixtures("only_peers"),
]


def dense(x):
    return layers.Dense(1)(x)


def lstm(**options):
    return lambda x: dense(layers.LSTM(5, **options)(x))


def both(**options):
    return lambda x: dense(layers.Bidirectional(layers.LSTM(5), **options)(x))


def _two_calls(x):
    layer = layers.LSTM(4, return_sequences=True)
    return dense(layers.LSTM(4)(layer(layer(x))))


def _states(x):
    sequences, h, c = layers.LSTM(4, return_sequences=True, return_state=True)(x)
    return dense(layers.LSTM(4)(sequences, initial_state=[h, c]))


def _two_outputs(x):
    x = layers.LSTM(4)(x)
    return [dense(x), x]


BY_LAYERS = {
    "layers .*gru": lambda x: dense(layers.GRU(5)(x)),
    "layers .*flatten": lambda x: dense(
        layers.Flatten()(layers.LSTM(5, return_sequences=True)(x))
    ),
    "layers dense, dense_1": lambda x: dense(layers.Dense(4)(layers.LSTM(5)(x))),
    "rnn/cell: recurrent_kernel|class GRUCell": lambda x: dense(
        layers.RNN(layers.GRUCell(5))(x)
    ),
    "gru_cell: recurrent_kernel|class GRUCell": lambda x: dense(
        layers.RNN([layers.LSTMCell(5), layers.GRUCell(5)])(x)
    ),
    "head/kernel|merge_mode=sum": both(merge_mode="sum"),
}
BY_CONFIG = {
    "LSTM with activation=relu": lstm(activation="relu"),
    "LSTM with recurrent_activation=hard_sigmoid": lstm(
        recurrent_activation="hard_sigmoid"
    ),
    "LSTM with go_backwards=True; expected False": lstm(go_backwards=True),
    "with go_backwards=True; expected False": lambda x: dense(
        layers.Bidirectional(
            layers.LSTM(5, go_backwards=True), backward_layer=layers.LSTM(5)
        )(x)
    ),
    "LSTMCell with activation=relu": lambda x: dense(
        layers.RNN(layers.LSTMCell(5, activation="relu"))(x)
    ),
    "returns sequences": lstm(return_sequences=True),
    "lstm_1, called with .*initial_state": _states,
    r"dense, called with .*'lstm', 0, 2": lambda x: dense(
        layers.LSTM(4, return_state=True)(x)[2]
    ),
    "lstm, called with .*embedding.*lstm": _two_calls,
    "output_layers": _two_outputs,
    "dropout, called with .*training": lambda x: dense(
        layers.LSTM(4)(layers.Dropout(0.5)(x, training=True))
    ),
    "layers embedding, dense, lstm": lambda x: layers.LSTM(1)(layers.Dense(4)(x)),
}


@pytest.mark.parametrize("message", BY_LAYERS | BY_CONFIG)
def test_refused(tmp_path, message):
    keras.utils.clear_session(free_memory=False)
    ids = keras.Input((6,))
    model = keras.Model(
        ids, (BY_LAYERS | BY_CONFIG)[message](layers.Embedding(7, 4)(ids))
    )
    model.save(tmp_path / "x.keras")
    model.save_weights(tmp_path / "x.weights.h5")
    for name in ("x.keras", "x.weights.h5") if message in BY_LAYERS else ("x.keras",):
        with pytest.raises(InputError, match=message):
            convert.sentiment_from_keras_file(tmp_path / name)


@pytest.mark.parametrize(
    ("middle", "activation", "message"),
    [
        (
            [layers.LSTM(6)],
            "sigmoid",
            "Dense with activation=sigmoid; expected linear or softmax",
        ),
        ([layers.Bidirectional(layers.LSTM(6))], "softmax", "two directions"),
        ([layers.Dense(7), layers.LSTM(6)], "softmax", "layers dense, dense_1"),
    ],
)
def test_character_models_refused(tmp_path, middle, activation, message):
    keras.Sequential(
        [keras.Input((9, 7)), *middle, layers.Dense(7, activation=activation)]
    ).save(tmp_path / "x.keras")
    with pytest.raises(InputError, match=message):
        convert.generation_from_keras_file(tmp_path / "x.keras")


def test_a_class_of_the_user_s_own(tmp_path):
    class LSTM(layers.LSTM):
        pass

    for registered in (LSTM, keras.saving.register_keras_serializable("my")(LSTM)):
        keras.Sequential(
            [keras.Input((6,)), layers.Embedding(7, 4), registered(5), layers.Dense(1)]
        ).save(tmp_path / "x.keras")
        with pytest.raises(InputError, match="a LSTM that is not Keras' own"):
            convert.sentiment_from_keras_file(tmp_path / "x.keras")


@pytest.mark.parametrize("masked", [False, True])
def test_a_functional_model_with_a_mask_and_a_state(tmp_path, masked):
    ids = keras.Input((6,))
    x = layers.Dropout(0.5)(layers.Embedding(7, 4, mask_zero=masked)(ids))
    sequences, *_ = layers.LSTM(4, return_sequences=True, return_state=True)(x)
    model = keras.Model(ids, dense(layers.Bidirectional(layers.LSTM(3))(sequences)))
    model.save(tmp_path / "x.keras")
    assert_same(
        convert.sentiment_from_keras_file(tmp_path / "x.keras"),
        convert.sentiment_from_keras(model.get_weights()),
    )


def test_a_mask_of_something_else(tmp_path):
    """A mask that is not that of the padding changes what the LSTM computes."""
    ids = keras.Input((6,))
    masked = layers.LSTM(4)(
        layers.Embedding(7, 4)(ids), mask=keras.ops.not_equal(ids, np.int32(1))
    )
    keras.Model(ids, dense(masked)).save(tmp_path / "x.keras")
    with pytest.raises(InputError, match=r"lstm.*, called with .*mask"):
        convert.sentiment_from_keras_file(tmp_path / "x.keras")
