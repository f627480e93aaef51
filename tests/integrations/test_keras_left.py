"""Tests of the layers and models that `accelerate` leaves to Keras: they are kept as they are, and a warning names each recurrent layer."""

import warnings
from collections.abc import Callable

import numpy as np
import pytest

keras = pytest.importorskip("keras", reason="Keras is not installed")

from lstm_jax.integrations.keras import LSTM, accelerate  # noqa: E402

pytestmark = [pytest.mark.usefixtures("quick_compiles", "only_peers"), pytest.mark.filterwarnings("ignore::DeprecationWarning")]
B, T, E, H = 3, 5, 4, 6
X = np.random.default_rng(0).standard_normal((B, T, E)).astype("float32")


class Own(keras.Model):
    """Model that a user has made as a subclass of `keras.Model`. Keras does not know its graph of layers."""

    def __init__(self, kind: type = keras.layers.LSTM) -> None:
        super().__init__(name="own")
        self.recurrent = kind(H, name="inside")

    def call(self, x):
        return self.recurrent(x)

    def compute_output_shape(self, shape):
        return self.recurrent.compute_output_shape(shape)


class Scaled(keras.Sequential):
    """Subclass of `keras.Sequential` with a call and a loss of its own."""

    def call(self, x, training=None, mask=None):
        return 100 * super().call(x, training=training, mask=mask)

    def compute_loss(self, *args, **kwargs):
        return 7 + 0 * super().compute_loss(*args, **kwargs)


def test_subclass_of_sequential_keeps_its_methods() -> None:
    model = Scaled([keras.Input((T, E)), keras.layers.LSTM(1, name="inside")], name="scaled")
    model.compile("sgd", "mse")
    note = r"^left to Keras: scaled: a subclass of Sequential; .* for inside$"
    with pytest.warns(UserWarning, match=note):
        assert accelerate(model) is model
    assert model.evaluate(X, X[:, 0, :1], verbose=0) == 7
    given = keras.Input((T, E))
    around = keras.Model(given, model(keras.layers.GRU(E, return_sequences=True)(given)))
    with pytest.warns(UserWarning, match=note):
        ours = accelerate(around)
    assert ours is not around
    assert ours.get_layer("scaled") is model
    np.testing.assert_allclose(ours(X), around(X), atol=1e-4)


class Holder(keras.layers.Layer):
    """User's layer that has a recurrent layer as an attribute."""

    def __init__(self, kind: type = keras.layers.LSTM) -> None:
        super().__init__(name="holder")
        self.recurrent = kind(H, name="inside")

    def build(self, shape) -> None:
        self.recurrent.build(shape)

    def compute_output_shape(self, shape):
        return self.recurrent.compute_output_shape(shape)

    def call(self, x):
        return self.recurrent(x)


class OwnRNN(keras.layers.RNN):
    """Subclass of `keras.layers.RNN`."""


class OwnCell(keras.layers.LSTMCell):
    """Subclass of a cell of Keras."""


class OwnBidirectional(keras.layers.Bidirectional):
    """Subclass of `keras.layers.Bidirectional`."""


def each_step_of_a_model() -> keras.layers.Layer:
    inner = keras.Sequential([keras.Input((E, 1)), keras.layers.LSTM(H, name="inside")])
    steps = keras.Sequential([keras.Input((E,)), keras.layers.Reshape((E, 1)), inner])
    return keras.layers.TimeDistributed(steps, name="steps")


def test_every_layer_inside_is_named() -> None:
    model = keras.Sequential([keras.Input((T, E)), OwnBidirectional(keras.layers.GRU(H, name="gru"), name="both")])
    with pytest.warns(UserWarning, match="^left to Keras: ") as found:
        assert accelerate(model) is model
    where = "inside the layer both, whose class OwnBidirectional is kept as it is"
    assert [str(one.message) for one in found] == [f"left to Keras: {name}: {where}" for name in ("forward_gru", "backward_gru")]


def test_layers_of_ours_inside_are_not_named() -> None:
    own = Own(LSTM)
    own(X)
    for layer in (Holder(LSTM), keras.layers.TimeDistributed(keras.layers.Dense(2)), own):
        model = keras.Sequential([keras.Input((T, E)), layer])
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert accelerate(model) is model


@pytest.mark.parametrize(
    ("layer", "note"),
    [
        (lambda: OwnRNN(keras.layers.LSTMCell(H), name="free"), r"free: its class is OwnRNN, not LSTM, GRU, SimpleRNN or RNN"),
        (lambda: keras.layers.RNN([keras.layers.LSTMCell(H), OwnCell(H)], name="stacked"), r"stacked: its cell is OwnCell"),
        (lambda: keras.layers.LSTM(H, dtype="mixed_float16", name="half"), r"half: its dtype policy is mixed_float16"),
        (
            lambda: keras.layers.RNN(keras.layers.GRUCell(H, dtype="mixed_bfloat16"), name="two"),
            r"two: its dtype policy is float32 and mixed_bfloat16",
        ),
        (
            lambda: keras.layers.LSTM(H, activation="relu", dtype="mixed_bfloat16", name="mixed"),
            r"mixed: its dtype policy is mixed_bfloat16, which the compiled code does not serve: ",
        ),
        (lambda: keras.layers.LSTM(H, use_cudnn=True, name="cudnn"), r"cudnn: it asks for cuDNN"),
        (lambda: keras.layers.GRU(H, activation="sparsemax", name="max"), r"max: its activation sparsemax is not supported"),
        (
            lambda: keras.layers.LSTM(H, activation=keras.layers.PReLU(), name="p"),
            r"p: its activation is a layer that has weights or is not built, PReLU",
        ),
        (Own, r"own: a subclass of Model; .* for inside"),
        (Holder, r"inside: inside the layer holder, whose class Holder is kept as it is$"),
        (each_step_of_a_model, r"inside: inside the layer steps, whose class TimeDistributed is kept as it is$"),
    ],
)
def test_what_is_left_is_named(layer: Callable, note: str) -> None:
    inner = layer()
    if isinstance(inner, Own):
        inner(X)
    model = keras.Sequential([keras.Input((T, E)), inner])
    with pytest.warns(UserWarning, match=f"^left to Keras: {note}"):
        assert accelerate(model) is model
