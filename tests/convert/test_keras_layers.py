"""Tests of Keras models in which our layers replace Keras' layers: weights, outputs,
losses and files stay the same.
"""

from collections.abc import Callable

import jax
import numpy as np
import pytest

keras = pytest.importorskip("keras", reason="Keras is not installed")

from lstm_jax import InputError  # noqa: E402
from lstm_jax.convert.keras_layers import (  # noqa: E402
    GRU,
    LAYERS,
    LSTM,
    RNN,
    Bidirectional,
    SimpleRNN,
    accelerate,
    why_not,
)

pytestmark = [
    pytest.mark.usefixtures("only_peers"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]
KINDS = {
    LSTM: keras.layers.LSTM,
    GRU: keras.layers.GRU,
    SimpleRNN: keras.layers.SimpleRNN,
    RNN: keras.layers.RNN,
}
EACH = pytest.mark.parametrize("kind", [LSTM, GRU, SimpleRNN])
B, T, E, H, V = 3, 5, 4, 6, 11
RNG = np.random.default_rng(0)
X = RNG.standard_normal((B, T, E)).astype("float32")
IDS = RNG.integers(0, V, (B, T))  # 0 is masked where the table masks
IDS[1, :2] = IDS[2, 3:] = 0
LABELS = RNG.integers(0, 2, (B, 1))


def sentiment(
    recurrent: Callable[[], object], mask: bool = False, seed: int = 1
) -> keras.Model:
    """Return a small version of the model of the Keras example imdb_lstm, with the
    given recurrent layer.
    """
    keras.utils.set_random_seed(seed)
    layers = [
        keras.Input((T,), dtype="int32"),
        keras.layers.Embedding(V, E, mask_zero=mask),
        recurrent(),
        keras.layers.Dense(1, "sigmoid"),
    ]
    return keras.Sequential(layers)


def both(
    kind: type, first: Callable[[], object] = lambda: H, **options
) -> tuple[keras.layers.Layer, keras.layers.Layer]:
    """Return a layer of ours and Keras' own with the same random weights. `first` makes
    the first argument of each.
    """
    ours, theirs = (layer(first(), **options) for layer in (kind, KINDS[kind]))
    ours.build(X.shape), theirs.build(X.shape)
    theirs.set_weights(
        [RNG.standard_normal(weight.shape) * 0.5 for weight in theirs.weights]
    )
    ours.set_weights(theirs.get_weights())
    return ours, theirs


def assert_alike(ours: object, theirs: object) -> None:
    for got, want in zip(
        keras.tree.flatten(ours), keras.tree.flatten(theirs), strict=True
    ):
        np.testing.assert_allclose(got, want, atol=2e-6, rtol=1e-5)


def compiled(model: keras.Model) -> keras.Model:
    model.compile(keras.optimizers.Adam(0.01), "binary_crossentropy")
    return model


def losses(model: keras.Model, steps: int = 10) -> list[float]:
    return [float(model.train_on_batch(IDS, LABELS)) for _ in range(steps)]


def same_weights(a: keras.Model, b: keras.Model) -> bool:
    return [id(weight) for weight in a.weights] == [id(weight) for weight in b.weights]


def test_functional_models_with_masks_and_operations():
    """If a functional Keras model contains masks and operations that are not layers,
    `accelerate` keeps them. The outputs stay the same.
    """
    ids, x = keras.Input((T,), dtype="int32"), keras.Input((T, E))
    masked = keras.layers.Embedding(V, E, mask_zero=True)(ids)
    joined = keras.layers.Bidirectional(keras.layers.GRU(H))(
        keras.layers.Masking(0.5)(keras.ops.tanh(x) * 2 + 1)
    )
    model = keras.Model(
        [ids, x], keras.layers.Concatenate()([keras.layers.LSTM(H)(masked), joined])
    )
    fast = accelerate(model)
    assert_alike(fast([IDS, X]), model([IDS, X]))
    assert {type(layer) for layer in fast.layers} & {LSTM, Bidirectional} == {
        LSTM,
        Bidirectional,
    }


@pytest.mark.slow(keep=["-gaps"])
@pytest.mark.parametrize("mask", [None, "gaps", "none valid"])
@EACH
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"return_sequences": True, "return_state": True},
        {"go_backwards": True, "return_sequences": True, "zero_output_for_mask": True},
        {"use_bias": False, "unroll": True},
        {"activation": "relu", "return_state": True},
        {"unroll": True, "return_sequences": True, "zero_output_for_mask": True},
    ],
    ids=str,
)
def test_same_as_kerass_layer(kind, options, mask):
    valid = {
        None: None,
        "gaps": RNG.random((B, T)) > 0.4,
        "none valid": np.zeros((B, T), bool),
    }[mask]
    ours, theirs = both(kind, **options)
    assert_alike(ours(X, mask=valid), theirs(X, mask=valid))
    assert ours.get_config() == theirs.get_config() | {"name": ours.name}


@pytest.mark.parametrize("shape", [(B, T, 1), (1, T), (1, T, 1)], ids=str)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"unroll": True, "return_sequences": True},
        {"go_backwards": True, "return_sequences": True},
    ],
    ids=str,
)
def test_masks_that_are_broadcast(options, shape):
    ours, theirs = both(LSTM, **options)
    valid = np.random.default_rng(1).random(shape) > 0.4
    assert_alike(ours(X, mask=valid), theirs(X, mask=valid))
    with pytest.raises(Exception, match=r"mask: \(2, 5\)"):
        ours(X, mask=np.ones((2, T), bool))


@pytest.mark.parametrize(
    "options",
    [{}, {"zero_output_for_mask": True}, {"unroll": True}, {"go_backwards": True}],
    ids=str,
)
@EACH
def test_initial_state_before_the_first_valid_step(kind, options):
    ours, theirs = both(kind, return_sequences=True, return_state=True, **options)
    valid = RNG.random((B, T)) > 0.4
    valid[0, :2] = valid[1, -2:] = valid[2] = False
    state = [
        RNG.standard_normal((B, H)).astype("float32")
        for _ in range(2 if kind is LSTM else 1)
    ]
    for sequences in (True, False):
        ours.return_sequences = theirs.return_sequences = sequences
        assert_alike(
            ours(X, mask=valid, initial_state=state),
            theirs(X, mask=valid, initial_state=state),
        )


@pytest.mark.parametrize(
    "options",
    [{}, {"go_backwards": True, "return_sequences": True, "return_state": True}],
    ids=str,
)
@pytest.mark.parametrize(
    "cells",
    [
        lambda: keras.layers.LSTMCell(
            H, dropout=0.3, recurrent_dropout=0.3, implementation=1, seed=1
        ),
        lambda: keras.layers.GRUCell(H, reset_after=False, use_bias=False, seed=1),
        lambda: [
            keras.layers.LSTMCell(E, seed=1),
            keras.layers.GRUCell(H, dropout=0.3, seed=2),
            keras.layers.SimpleRNNCell(H, seed=3),
        ],
    ],
)
def test_rnn_of_cells(cells, options):
    ours, theirs = both(RNN, cells, **options)
    assert not why_not(ours)
    for mask, training in (
        (None, False),
        (RNG.random((B, T)) > 0.4, True),
        (np.zeros((B, T), bool), False),
    ):
        assert_alike(
            *(layer(X, mask=mask, training=training) for layer in (ours, theirs))
        )


@EACH
def test_mixed_precision(kind):
    """Outputs and gradients in mixed_bfloat16 are as near to float32 as Keras' own,
    which differ by up to 0.024 of the largest.
    """
    ours, exact = kind(H, dtype="mixed_bfloat16"), KINDS[kind](H)
    if reason := why_not(ours):
        pytest.skip(reason)
    found = []
    for layer in (exact, ours):
        layer.build(X.shape)
        layer.set_weights(exact.get_weights())

        def loss(values, layer=layer):
            outputs, _ = layer.stateless_call(
                values, [v.value for v in layer.non_trainable_variables], X
            )
            return keras.ops.sum(keras.ops.cast(outputs, "float32") ** 2), outputs

        gradients, outputs = jax.grad(loss, has_aux=True)(
            [variable.value for variable in layer.trainable_variables]
        )
        assert outputs.dtype == layer.compute_dtype
        found.append([np.asarray(array, "float32") for array in (outputs, *gradients)])
    for wanted, got in zip(*found, strict=True):
        np.testing.assert_allclose(
            got, wanted, rtol=0, atol=0.02 * np.abs(wanted).max()
        )


@EACH
@pytest.mark.parametrize(
    "options",
    [
        {"dropout": 0.3},
        {"recurrent_dropout": 0.4, "implementation": 1},
        {"dropout": 0.3, "recurrent_dropout": 0.4},
    ],
    ids=str,
)
def test_dropout_is_keras_own_draw(kind, options):
    """Keras draws the dropout masks from its seed, so that our layer and Keras' layer
    have the same outputs in training.
    """
    if kind is SimpleRNN:
        options = {
            name: value for name, value in options.items() if name != "implementation"
        }
    ours, theirs = both(kind, seed=7, **options)
    got, want = ours(X, training=True), theirs(X, training=True)
    assert not np.allclose(want, theirs(X)), "dropout changes nothing here"
    assert_alike(got, want)


@pytest.mark.slow(keep=["<lambda>1-True", "<lambda>2-False"])
@pytest.mark.parametrize("mask", [False, True])
@pytest.mark.parametrize(
    "recurrent",
    [
        lambda: keras.layers.LSTM(H),
        lambda: keras.layers.GRU(H),
        lambda: keras.layers.SimpleRNN(H),
        lambda: keras.layers.Bidirectional(keras.layers.LSTM(H)),
        lambda: keras.layers.LSTM(H, dropout=0.2, recurrent_dropout=0.2, seed=3),
    ],
)
def test_ten_steps_have_kerass_losses(recurrent, mask):
    theirs = compiled(sentiment(recurrent, mask))
    start = theirs.get_weights()
    want = losses(theirs)
    again = compiled(sentiment(recurrent, mask))
    again.set_weights(start)
    ours = accelerate(again)
    assert ours is not again
    np.testing.assert_allclose(losses(ours), want, rtol=1e-5, atol=1e-6)
    assert same_weights(ours, again)
    np.testing.assert_allclose(
        again.predict(IDS, verbose=0), theirs.predict(IDS, verbose=0), atol=2e-5
    )
    assert ours.optimizer is again.optimizer
    assert int(ours.optimizer.iterations) == 10


def test_files_load_without_us_and_with_us(tmp_path):
    def new(seed: int) -> keras.Model:
        return sentiment(
            lambda: keras.layers.Bidirectional(keras.layers.GRU(H)), seed=seed
        )

    model = accelerate(compiled(new(1)))
    losses(model, 2)
    model.save(path := tmp_path / "model.keras")
    model.save_weights(weights := tmp_path / "model.weights.h5")
    plain, with_ours, fresh = (
        keras.models.load_model(path),
        keras.models.load_model(path, custom_objects=LAYERS),
        new(2),
    )
    fresh.load_weights(weights)
    for loaded, kind in (
        (plain, keras.layers.GRU),
        (with_ours, GRU),
        (accelerate(plain), GRU),
        (fresh, keras.layers.GRU),
    ):
        assert type(loaded.layers[1].forward_layer) is kind
        np.testing.assert_allclose(
            loaded.predict(IDS, verbose=0), model.predict(IDS, verbose=0), atol=2e-6
        )


def test_functional_nested_shared_and_frozen():
    keras.utils.set_random_seed(2)
    shared = keras.layers.LSTM(H, name="shared")
    inner = keras.Sequential(
        [
            keras.Input((T, E)),
            keras.layers.GRU(H, return_sequences=True),
            keras.layers.LSTM(E, return_sequences=True),
        ]
    )
    a, b = keras.Input((T, E)), keras.Input((T, E))
    joined = keras.layers.Concatenate()([shared(a), shared(inner(b))])
    model = keras.Model([a, b], keras.layers.Dense(1)(joined))
    shared.trainable = False
    ours = accelerate(model)
    assert same_weights(ours, model)
    assert [id(weight) for weight in ours.trainable_weights] == [
        id(weight) for weight in model.trainable_weights
    ]
    assert [type(layer) for layer in ours.get_layer(inner.name).layers] == [GRU, LSTM]
    assert sum(isinstance(layer, LSTM) for layer in ours.layers) == 1
    np.testing.assert_allclose(
        ours.predict([X, -X], verbose=0), model.predict([X, -X], verbose=0), atol=2e-6
    )


def test_stateful_goes_on_where_it_was():
    def make() -> keras.Model:
        keras.utils.set_random_seed(4)
        return keras.Sequential(
            [keras.Input(batch_shape=(B, T, E)), keras.layers.LSTM(H, stateful=True)]
        )

    theirs, model = make(), make()
    want = [theirs.predict(X, verbose=0, batch_size=B) for _ in range(3)]
    first = model.predict(X, verbose=0, batch_size=B)
    ours = accelerate(model)
    got = [
        first,
        ours.predict(X, verbose=0, batch_size=B),
        model.predict(X, verbose=0, batch_size=B),
    ]
    np.testing.assert_allclose(got, want, atol=2e-6)
    assert len(ours.non_trainable_variables) == len(theirs.non_trainable_variables)
    theirs.compile("sgd", "mse"), ours.compile("sgd", "mse")
    y = X[:, 0, :1].repeat(H, axis=1)
    for each in (theirs, ours):
        each.get_layer(index=0).reset_state()
    calls = (
        lambda m: m.evaluate(X, y, batch_size=B, verbose=0),
        lambda m: m.predict(X, batch_size=B, verbose=0),
        lambda m: np.asarray(m(X)),
    )
    for call in calls:
        np.testing.assert_allclose(
            *([call(each) for _ in range(3)] for each in (ours, theirs)),
            rtol=1e-5,
            atol=2e-6,
        )


def test_our_bidirectional_keeps_our_layers():
    def kinds(layer: keras.layers.Layer) -> set[type]:
        return {type(layer.forward_layer), type(layer.backward_layer)}

    layer = Bidirectional(LSTM(H))
    mixed = accelerate(
        keras.Sequential([keras.Input((T, E)), Bidirectional(keras.layers.LSTM(H))])
    ).layers[0]
    for each in (layer, Bidirectional.from_config(layer.get_config()), mixed):
        assert kinds(each) == {LSTM}
    assert kinds(Bidirectional(keras.layers.LSTM(H))) == {keras.layers.LSTM}


def test_loss_and_metric_of_the_users_own():
    def loss(y, p):
        return keras.ops.mean((y - p) ** 2, axis=-1)

    class Metric(keras.metrics.MeanMetricWrapper):
        def __init__(self) -> None:
            super().__init__(fn=loss, name="mine")

    model = keras.Sequential(
        [keras.Input((T, E)), keras.layers.LSTM(H), keras.layers.Dense(1)]
    )
    model.compile("sgd", loss, metrics=[Metric(), loss], loss_weights=0.5)
    want = model.evaluate(X, X[:, 0, :1], verbose=0)
    ours = accelerate(model)
    np.testing.assert_allclose(
        ours.evaluate(X, X[:, 0, :1], verbose=0), want, rtol=1e-5
    )
    assert ours.optimizer is model.optimizer
    np.testing.assert_allclose(
        ours.train_on_batch(X, X[:, 0, :1])[0], want[0], rtol=1e-5
    )


def test_layer_that_keras_runs():
    """If `unroll` does not support an activation of our layer, Keras runs the layer,
    with exactly the outputs of Keras' own layer.
    """
    ours, theirs = both(LSTM, recurrent_activation="sparsemax", seed=1)
    assert why_not(ours) == "its recurrent_activation sparsemax is not supported"
    assert np.array_equal(ours(X), theirs(X))


def test_bad_input(monkeypatch):
    with pytest.raises(InputError, match=r"^model: list; give a keras\.Model"):
        accelerate([])
    with pytest.raises(
        InputError,
        match=r"^model .*: not built; call it, build it or give it an Input first",
    ):
        accelerate(keras.Sequential([keras.layers.LSTM(H)]))
    model = keras.Sequential([keras.Input((T, E)), keras.layers.LSTM(H)])
    monkeypatch.setattr(keras.backend, "backend", lambda: "torch")
    with pytest.raises(
        InputError,
        match=r"^KERAS_BACKEND: torch; set it to jax before Keras is imported",
    ):
        accelerate(model)


# layers and models that `accelerate` leaves to Keras: they are kept as they are, and a
# warning names each recurrent layer


class Holds:
    """Part of a user's layer or model that has a recurrent layer as an attribute."""

    def __init__(self, kind: type = keras.layers.LSTM) -> None:
        super().__init__(name=type(self).__name__.lower())
        self.recurrent = kind(H, name="inside")

    def call(self, x):
        return self.recurrent(x)

    def compute_output_shape(self, shape):
        return self.recurrent.compute_output_shape(shape)


class Own(Holds, keras.Model):
    """Model that a user has made as a subclass of `keras.Model`. Keras does not know
    its graph of layers.
    """


class Holder(Holds, keras.layers.Layer):
    """Layer that a user has made as a subclass of `keras.layers.Layer`."""

    def build(self, shape) -> None:
        self.recurrent.build(shape)


class Scaled(keras.Sequential):
    """Subclass of `keras.Sequential` with a call and a loss of its own."""

    def call(self, x, training=None, mask=None):
        return 100 * super().call(x, training=training, mask=mask)

    def compute_loss(self, *args, **kwargs):
        return 7 + 0 * super().compute_loss(*args, **kwargs)


def test_subclass_of_sequential_keeps_its_methods():
    model = Scaled(
        [keras.Input((T, E)), keras.layers.LSTM(1, name="inside")], name="scaled"
    )
    model.compile("sgd", "mse")
    note = r"^left to Keras: scaled: a subclass of Sequential; .* for inside$"
    with pytest.warns(UserWarning, match=note):
        assert accelerate(model) is model
    assert model.evaluate(X, X[:, 0, :1], verbose=0) == 7
    given = keras.Input((T, E))
    around = keras.Model(
        given, model(keras.layers.GRU(E, return_sequences=True)(given))
    )
    with pytest.warns(UserWarning, match=note):
        ours = accelerate(around)
    assert ours is not around
    assert ours.get_layer("scaled") is model
    np.testing.assert_allclose(ours(X), around(X), atol=1e-4)


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


def test_every_layer_inside_is_named():
    model = keras.Sequential(
        [
            keras.Input((T, E)),
            OwnBidirectional(keras.layers.GRU(H, name="gru"), name="both"),
        ]
    )
    with pytest.warns(UserWarning, match="^left to Keras: ") as found:
        assert accelerate(model) is model
    where = "inside the layer both, whose class OwnBidirectional is kept as it is"
    assert [str(one.message) for one in found] == [
        f"left to Keras: {way}_gru: {where}" for way in ("forward", "backward")
    ]


def test_models_without_a_layer_to_name():
    own = Own(LSTM)
    own(X)
    for layer in (
        Holder(LSTM),
        keras.layers.TimeDistributed(keras.layers.Dense(2)),
        keras.layers.Dense(2),
        own,
    ):
        model = keras.Sequential([keras.Input((T, E)), layer])
        assert accelerate(model) is model


@pytest.mark.parametrize(
    ("layer", "note"),
    [
        (
            lambda: OwnRNN(keras.layers.LSTMCell(H), name="free"),
            r"free: its class is OwnRNN, not LSTM, GRU, SimpleRNN or RNN",
        ),
        (
            lambda: keras.layers.RNN(
                [keras.layers.LSTMCell(H), OwnCell(H)], name="stacked"
            ),
            r"stacked: its cell is OwnCell",
        ),
        (
            lambda: keras.layers.LSTM(H, dtype="mixed_float16", name="half"),
            r"half: its dtype policy is mixed_float16",
        ),
        (
            lambda: keras.layers.RNN(
                keras.layers.GRUCell(H, dtype="mixed_bfloat16"), name="two"
            ),
            r"two: its dtype policy is float32 and mixed_bfloat16",
        ),
        (
            lambda: keras.layers.LSTM(
                H, activation="relu", dtype="mixed_bfloat16", name="mixed"
            ),
            r"mixed: its dtype policy is mixed_bfloat16, which the compiled "
            r"code does not serve: ",
        ),
        (
            lambda: keras.layers.LSTM(H, use_cudnn=True, name="cudnn"),
            r"cudnn: it asks for cuDNN",
        ),
        (
            lambda: keras.layers.GRU(H, activation="sparsemax", name="max"),
            r"max: its activation sparsemax is not supported",
        ),
        (
            lambda: keras.layers.LSTM(H, activation=keras.layers.PReLU(), name="p"),
            r"p: its activation is a layer that has weights or is not built, PReLU",
        ),
        (Own, r"own: a subclass of Model; .* for inside"),
        (
            Holder,
            r"inside: inside the layer holder, whose class Holder is kept as it is$",
        ),
        (
            each_step_of_a_model,
            r"inside: inside the layer steps, whose class TimeDistributed is "
            r"kept as it is$",
        ),
    ],
)
def test_what_is_left_is_named(layer, note):
    inner = layer()
    if isinstance(inner, Own):
        inner(X)
    model = keras.Sequential([keras.Input((T, E)), inner])
    with pytest.warns(UserWarning, match=f"^left to Keras: {note}"):
        assert accelerate(model) is model


class Alike(keras.layers.Rescaling):
    """Layer that equals every other layer of its class."""

    __eq__, __hash__ = (lambda self, other: type(self) is type(other)), (lambda self: 0)


def test_layers_that_compare_equal_stay_two():
    inner = keras.layers.LSTM(H, return_sequences=True)
    model = keras.Sequential([keras.Input((T, E)), Alike(2.0), inner, Alike(3.0)])
    np.testing.assert_allclose(
        accelerate(model).predict(X, verbose=0), model.predict(X, verbose=0), atol=1e-6
    )


def test_names_of_replaced_layers(capsys):
    layers = [
        keras.layers.LSTM(H, return_sequences=True, name="usual"),
        keras.layers.GRU(H, activation="relu", name="unusual"),
    ]
    accelerate(keras.Sequential([keras.Input((T, E)), *layers]))
    assert capsys.readouterr().out == (
        "run by lstm_jax: usual, unusual (no compiled code for its "
        "activations: not faster)\n"
    )
