"""`convert.load` takes Keras layers: our layers then give Keras' outputs, and Keras layers with other options are refused."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from made_weights import assert_refused, normal

from lstm_jax import GRU, LSTM, Bidirectional, Recurrent, RecurrentStack, SimpleRNN, convert
from lstm_jax.cells.activations import ACTIVATIONS

keras = pytest.importorskip("keras", reason="needs the peer Keras")
layers = keras.layers

pytestmark = [
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning:keras"),
    pytest.mark.usefixtures("quick_compiles"),
]
E, H = 3, 4


@pytest.fixture
def built(peer_rules) -> Callable[..., Any]:
    """Return a function that builds a Keras layer, sets random weights and biases, and returns the layer."""

    def build(layer: Any, features: int = E) -> Any:
        with peer_rules():
            layer.build((None, None, features))
            layer.set_weights([normal(number, *array.shape) for number, array in enumerate(layer.get_weights())])
        return layer

    return build


def ours(kind: type, features: int = E, **options: Any) -> Any:
    return kind(features, H, rngs=nnx.Rngs(0), **({"return_sequences": True, "backend": "reference"} | options))


def check(peer_rules, theirs: Any, layer: Any, given: Any = None) -> None:
    x = normal(9, 2, 5, E)
    convert.load(layer, theirs if given is None else given)
    with peer_rules():
        want = np.asarray(functools.reduce(lambda x, part: part(x), theirs, x) if isinstance(theirs, list) else theirs(x))
    np.testing.assert_allclose(np.asarray(layer(jnp.asarray(x))), want, rtol=0, atol=1e-5)


ONE = {
    "lstm": (lambda **o: layers.LSTM(H, **o), LSTM, {}),
    "gru": (lambda **o: layers.GRU(H, **o), GRU, {}),
    "gru_reset_before": (lambda **o: layers.GRU(H, reset_after=False, **o), Recurrent, {"cell": "gru_reset_before"}),
    "simple_rnn": (lambda **o: layers.SimpleRNN(H, **o), SimpleRNN, {}),
}
OPTIONS = [{}, {"use_bias": False}, {"activation": "softsign"}, {"activation": None, "go_backwards": True}]


@pytest.mark.slow(keep=5)
@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("cell", ONE)
def test_layers(peer_rules, built, cell: str, options: dict[str, Any]) -> None:
    make, kind, own = ONE[cell]
    check(peer_rules, built(make(return_sequences=True, **options)), ours(kind, **own, **options))


@pytest.mark.slow(keep=3)
@pytest.mark.parametrize("merge", ["concat", "sum"])
@pytest.mark.parametrize("cell", ONE)
def test_bidirectional(peer_rules, built, cell: str, merge: str) -> None:
    """Our `Bidirectional` gives Keras' outputs after loading a Keras layer or the layer's arrays, and converts back to the same arrays."""
    theirs = built(layers.Bidirectional(ONE[cell][0](return_sequences=True), merge_mode=merge))
    layer = ours(Bidirectional, cell=cell, merge_mode=merge)
    check(peer_rules, theirs, layer)
    arrays = theirs.get_weights()
    check(peer_rules, theirs, ours(Bidirectional, cell=cell, merge_mode=merge), convert.bidirectional_from_keras(arrays, cell=cell))
    for got, want in zip(convert.bidirectional_to_keras(layer, cell=cell), arrays, strict=True):
        np.testing.assert_array_equal(got, want)


def test_stack(peer_rules, built) -> None:
    lower, upper = built(layers.Bidirectional(layers.GRU(H, return_sequences=True))), built(layers.LSTM(H), 2 * H)
    stack = RecurrentStack([ours(Bidirectional, cell="gru"), ours(LSTM, 2 * H, return_sequences=False)])
    check(peer_rules, [lower, upper], stack)


def test_every_activation_is_recognised(built) -> None:
    for name in ACTIVATIONS:
        layer = ours(SimpleRNN, activation=name, kernel_initializer="zeros", recurrent_initializer="zeros")
        convert.load(layer, built(layers.SimpleRNN(H, activation=name)))
        assert np.asarray(layer.kernel[...]).any(), name


BACKWARD = layers.LSTM(H, activation="relu", go_backwards=True)
REFUSALS = [
    (lambda: layers.LSTM(H), lambda: ours(GRU), "cell"),
    (lambda: layers.LSTM(H, activation="relu"), lambda: ours(LSTM), "cell"),
    (lambda: layers.LSTM(H), lambda: ours(LSTM, go_backwards=True), "go_backwards"),
    (lambda: layers.LSTM(H, go_backwards=True), lambda: ours(LSTM, go_backwards=True, keep_order=True), "keep_order"),
    (lambda: layers.Bidirectional(layers.LSTM(H), merge_mode="sum"), lambda: ours(Bidirectional), "merge_mode"),
    (lambda: layers.Bidirectional(layers.LSTM(H), backward_layer=BACKWARD), lambda: ours(Bidirectional), "cell, backward"),
    (lambda: layers.LSTM(H), lambda: ours(Bidirectional), "directions"),
    (lambda: layers.LSTM(H), lambda: ours(LSTM, use_bias=False), "use_bias"),
    (lambda: layers.LSTM(H, activation=lambda x: x + x), lambda: ours(LSTM), "activation of weights"),
    # slopes of 0.01 and 0.2
    (lambda: layers.SimpleRNN(H, activation="leaky_relu"), lambda: ours(SimpleRNN, activation=jax.nn.leaky_relu), "cell"),
    (lambda: layers.SimpleRNN(H, activation=keras.ops.gelu), lambda: ours(SimpleRNN, activation="gelu"), "activation of weights"),
    (lambda: layers.Dense(H), lambda: ours(LSTM), "weights"),
]


@pytest.mark.parametrize(("make", "own", "subject"), REFUSALS, ids=[f"{n} {subject}" for n, (*_, subject) in enumerate(REFUSALS)])
def test_refusals(built, make, own, subject: str) -> None:
    assert_refused(own(), built(make()), subject)


def test_a_layer_that_is_not_built() -> None:
    assert_refused(ours(LSTM), layers.LSTM(H), "weights")
