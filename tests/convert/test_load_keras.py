"""`convert.load` takes Keras layers: our layers then give Keras' outputs, and Keras
layers with other options are refused.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from made_weights import assert_refused, normal

from lstm_jax import (
    GRU,
    LSTM,
    Bidirectional,
    Recurrent,
    RecurrentStack,
    SimpleRNN,
    convert,
)
from lstm_jax.cells.activations import ACTIVATIONS

keras = pytest.importorskip("keras", reason="needs the peer Keras")
layers = keras.layers

pytestmark = [
    pytest.mark.filterwarnings(
        "ignore:__array__ implementation:DeprecationWarning:keras"
    ),
]
E, H = 3, 4


@pytest.fixture
def built(peer_rules) -> Callable[..., Any]:
    """Return a function that builds a Keras layer, sets random weights and biases, and
    returns the layer.
    """

    def build(layer: Any, features: int = E) -> Any:
        with peer_rules():
            layer.build((None, None, features))
            layer.set_weights(
                [
                    normal(number, *array.shape)
                    for number, array in enumerate(layer.get_weights())
                ]
            )
        return layer

    return build


def ours(kind: type, features: int = E, **options: Any) -> Any:
    return kind(
        features,
        H,
        rngs=nnx.Rngs(0),
        **({"return_sequences": True, "backend": "reference"} | options),
    )


def check(peer_rules, theirs: Any, layer: Any, given: Any = None) -> None:
    x = normal(9, 2, 5, E)
    convert.load(layer, theirs if given is None else given)
    with peer_rules():
        want = np.asarray(
            functools.reduce(lambda x, part: part(x), theirs, x)
            if isinstance(theirs, list)
            else theirs(x)
        )
    np.testing.assert_allclose(
        np.asarray(layer(jnp.asarray(x))), want, rtol=0, atol=1e-5
    )


ONE = {
    "lstm": (layers.LSTM, {}),
    "gru": (layers.GRU, {}),
    "gru_reset_before": (layers.GRU, {"reset_after": False}),
    "simple_rnn": (layers.SimpleRNN, {}),
}
OPTIONS = [
    {},
    {"use_bias": False},
    {"activation": "softsign"},
    {"activation": None, "go_backwards": True},
]


@pytest.mark.slow(keep=5)
@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("cell", ONE)
def test_layers(peer_rules, built, cell, options):
    kind, own = ONE[cell]
    check(
        peer_rules,
        built(kind(H, return_sequences=True, **own, **options)),
        ours(Recurrent, cell=cell, **options),
    )


@pytest.mark.slow(keep=3)
@pytest.mark.parametrize("merge", ["concat", "sum"])
@pytest.mark.parametrize("cell", ONE)
def test_bidirectional(peer_rules, built, cell, merge):
    """Our `Bidirectional` gives Keras' outputs after loading a Keras layer or the
    layer's arrays, and converts back to the same arrays.
    """
    kind, own = ONE[cell]
    theirs = built(
        layers.Bidirectional(kind(H, return_sequences=True, **own), merge_mode=merge)
    )
    layer = ours(Bidirectional, cell=cell, merge_mode=merge)
    check(peer_rules, theirs, layer)
    arrays = theirs.get_weights()
    check(
        peer_rules,
        theirs,
        ours(Bidirectional, cell=cell, merge_mode=merge),
        convert.bidirectional_from_keras(arrays, cell=cell),
    )
    for got, want in zip(
        convert.bidirectional_to_keras(layer, cell=cell), arrays, strict=True
    ):
        np.testing.assert_array_equal(got, want)


def test_stack(peer_rules, built):
    lower, upper = (
        built(layers.Bidirectional(layers.GRU(H, return_sequences=True))),
        built(layers.LSTM(H), 2 * H),
    )
    stack = RecurrentStack(
        [ours(Bidirectional, cell="gru"), ours(LSTM, 2 * H, return_sequences=False)]
    )
    check(peer_rules, [lower, upper], stack)


def test_every_activation_is_recognised(built):
    for name in ACTIVATIONS:
        layer = ours(
            SimpleRNN,
            activation=name,
            kernel_initializer="zeros",
            recurrent_initializer="zeros",
        )
        convert.load(layer, built(layers.SimpleRNN(H, activation=name)))
        assert np.asarray(layer.kernel[...]).any(), name


def both(units: int, **options: Any) -> Any:
    return layers.Bidirectional(layers.LSTM(units), **options)


BACKWARD = layers.LSTM(H, activation="relu", go_backwards=True)
REFUSALS = [
    (layers.LSTM, {}, GRU, {}, "cell"),
    (layers.LSTM, {"activation": "relu"}, LSTM, {}, "cell"),
    (layers.LSTM, {}, LSTM, {"go_backwards": True}, "go_backwards"),
    (
        layers.LSTM,
        {"go_backwards": True},
        LSTM,
        {"go_backwards": True, "keep_order": True},
        "keep_order",
    ),
    (both, {"merge_mode": "sum"}, Bidirectional, {}, "merge_mode"),
    (both, {"backward_layer": BACKWARD}, Bidirectional, {}, "cell, backward"),
    (layers.LSTM, {}, Bidirectional, {}, "directions"),
    (layers.LSTM, {}, LSTM, {"use_bias": False}, "use_bias"),
    (layers.LSTM, {"activation": lambda x: x + x}, LSTM, {}, "activation of weights"),
    # slopes of 0.01 and 0.2
    (
        layers.SimpleRNN,
        {"activation": "leaky_relu"},
        SimpleRNN,
        {"activation": jax.nn.leaky_relu},
        "cell",
    ),
    (
        layers.SimpleRNN,
        {"activation": keras.ops.gelu},
        SimpleRNN,
        {"activation": "gelu"},
        "activation of weights",
    ),
    (layers.Dense, {}, LSTM, {}, "weights"),
]


@pytest.mark.parametrize(("theirs", "options", "kind", "own", "subject"), REFUSALS)
def test_refusals(built, theirs, options, kind, own, subject):
    assert_refused(ours(kind, **own), built(theirs(H, **options)), subject)


def test_a_layer_that_is_not_built():
    assert_refused(ours(LSTM), layers.LSTM(H), "weights")
