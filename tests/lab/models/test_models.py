"""The sentiment model: its parameters, its use as a pure function, its variants, and
parity with Keras' model of the same weights.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from made_layers import value_and_gradients
from tables import BACKENDS, assert_close

from lstm_jax import InputError, SentimentClassifier, convert
from lstm_jax.base import sharding
from lstm_jax.lab.sentiment import task as sentiment
from lstm_jax.lab.sentiment.config import SentimentModelConfig
from lstm_jax.training.optimizers import keras_adam
from lstm_jax.training.parts import functional

V, E, H, B, T = 50, 6, 5, 8, 7
RNG = np.random.default_rng(0)
IDS = RNG.integers(0, V, (B, T)).astype(np.int32)
IDS[0, :5] = 0  # padding, read like any id
LABELS = (RNG.random(B) < 0.5).astype(np.float32)


def small(**options) -> SentimentClassifier:
    config = SentimentModelConfig(**({"embed": E, "units": H} | options))
    return SentimentClassifier(config, V, rngs=nnx.Rngs(0, dropout=1))


@nnx.jit
def plain(model: SentimentClassifier, ids: jax.Array) -> jax.Array:
    """Return the logits without dropout."""
    return model(ids, deterministic=True)


def probabilities(model: nnx.Module, ids: np.ndarray = IDS) -> jax.Array:
    return jax.nn.sigmoid(plain(model, jnp.asarray(ids)))


def keras_model(keras, dropout: float, dtype: str = "float32", seed: int = 0):
    """Return the model of Keras' imdb_lstm example. It has dropout and recurrent
    dropout in the LSTM, and reads padding like any word.
    """
    keras.utils.set_random_seed(seed)
    model = keras.Sequential(
        [
            keras.layers.Embedding(V, E, dtype=dtype),
            keras.layers.LSTM(
                H, dropout=dropout, recurrent_dropout=dropout, dtype=dtype
            ),
            keras.layers.Dense(1, activation="sigmoid", dtype=dtype),
        ]
    )
    model.build((None, T))
    return model


def test_parameters_at_the_defaults() -> None:
    """The default model has 2,691,713 parameters, the number that Keras' imdb_lstm
    example prints.
    """
    model = nnx.eval_shape(
        lambda: SentimentClassifier(SentimentModelConfig(), 20_000, rngs=nnx.Rngs(0))
    )
    shapes = jax.tree.leaves(nnx.state(model, nnx.Param))
    assert (
        sum(int(np.prod(leaf.shape)) for leaf in shapes)
        == 2_691_713
        == 20_000 * 128 + 4 * 128 * (128 + 128 + 1) + 129
    )


def test_functional() -> None:
    model = small(layers=2)
    made = functional(model)
    assert set(made.params) == {
        "embedding/embedding",
        *(
            f"recurrent/{n}/{name}"
            for n in (0, 1)
            for name in ("kernel", "recurrent_kernel", "bias")
        ),
        "head/kernel",
        "head/bias",
    }
    rebuilt = made.rebuild(made.params)
    np.testing.assert_array_equal(probabilities(rebuilt), probabilities(model))
    again = functional(rebuilt).params
    assert list(again) == list(made.params)
    jax.tree.map(np.testing.assert_array_equal, again, made.params)
    changed = made.rebuild(made.params | {"head/bias": jnp.asarray([2.0])})
    np.testing.assert_allclose(
        plain(changed, jnp.asarray(IDS)) - plain(model, jnp.asarray(IDS)), 2, rtol=1e-5
    )
    # the model itself is as it was
    np.testing.assert_array_equal(model.head.bias[...], [0])


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"head/bias": jnp.zeros(2)}, r"parameters: head/bias \((1|2),\)"),
        ({"head/extra": jnp.zeros(2)}, r"parameters: head/extra \(2,\)"),
        ({"head/bias": None}, r"parameters: head/bias \(1,\)"),
    ],
)
def test_functional_error(change: dict, named: str) -> None:
    made = functional(small())
    params = {
        name: array
        for name, array in (made.params | change).items()
        if array is not None
    }
    with pytest.raises(
        InputError, match=f"^{named}; give arrays of the model's own config$"
    ):
        made.rebuild(params)


@pytest.mark.parametrize("backend", BACKENDS)
def test_probabilities_equal_keras(keras, peer_rules, backend: str) -> None:
    with peer_rules():
        model = keras_model(keras, 0.2)
        wanted = model.predict(IDS, verbose=0)[:, 0]
        weights = model.get_weights()
    params = {
        name: jnp.asarray(array)
        for name, array in convert.sentiment_from_keras(weights).items()
    }
    ours = functional(small(backend=backend)).rebuild(params)
    assert_close(probabilities(ours), wanted, "float32")
    back = convert.sentiment_to_keras(
        {name: np.asarray(array) for name, array in functional(ours).params.items()}
    )
    for mine, theirs in zip(back, weights, strict=True):
        np.testing.assert_array_equal(mine, theirs)


@pytest.mark.slow(keep=["[3]"])
@pytest.mark.parametrize("steps", [1, 3])
def test_adam_steps_equal_keras(keras, peer_rules, steps: int) -> None:
    """Our Adam steps on logits change every parameter as Keras' `train_on_batch` does
    with Adam and binary cross-entropy.

    Both run in float64, because Adam divides each gradient by its own size and so
    magnifies the rounding errors that small gradients have in float32. For about half
    of the seeds, two float32 programs (Keras and another one) each differ from the
    exact result by more than 1e-5 of the change of a parameter. Even in float64, Keras
    computes something in float32, since its gradients are off by 1e-9.
    """
    with peer_rules(), jax.enable_x64(True):
        model = keras_model(keras, 0.0, "float64")
        before = convert.sentiment_from_keras(model.get_weights())
        model.compile(loss="binary_crossentropy", optimizer="adam")
        losses = [
            float(model.train_on_batch(IDS, LABELS[:, None].astype("float64")))
            for _ in range(steps)
        ]
        after = convert.sentiment_from_keras(model.get_weights())
    made = functional(small(dropout=0.0, recurrent_dropout=0.0))
    optimizer = keras_adam(1e-3)

    def loss(params):
        logits = made.rebuild(params)(jnp.asarray(IDS))
        return optax.sigmoid_binary_cross_entropy(
            logits, jnp.asarray(LABELS, logits.dtype)
        ).mean()

    @jax.jit
    def step(params, state):
        value, gradients = jax.value_and_grad(loss)(params)
        updates, state = optimizer.update(gradients, state)
        return optax.apply_updates(params, updates), state, value

    with jax.enable_x64(True):
        params = {
            name: jnp.asarray(array, jnp.float64) for name, array in before.items()
        }
        state, ours = optimizer.init(params), []
        for _ in range(steps):
            params, state, value = step(params, state)
            ours.append(float(value))
    # Keras reports its loss in float32
    np.testing.assert_allclose(ours, losses, rtol=2e-7)
    for name, array in params.items():
        assert array.dtype == np.float64
        moved = np.abs(after[name] - before[name]).max()
        assert 0.9e-3 * steps < moved < 1.1e-3 * steps  # about the learning rate a step
        distance = np.abs(np.asarray(array) - after[name])
        assert distance.max() <= 1e-5 * moved, (
            f"{name}: {distance.max():.3g} of {moved:.3g}"
        )


VARIANTS = [
    {},
    {"layers": 2},
    {"bidirectional": True},
    {"bidirectional": True, "layers": 2, "merge": "sum"},
    {"bidirectional": True, "merge": "mul", "mask_zero": True},
    {"mask_zero": True},
    {"dtype": "bfloat16"},
    {"dropout_masks": "variational", "backend": "reference"},
]


@pytest.mark.slow(
    keep=[
        "{'bidirectional': True, 'merge': 'mul', 'mask_zero': True}",
        "bfloat16",
        "variational",
    ]
)
@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_variants(options: dict) -> None:
    """With dropout, the key determines the loss, and every parameter has a finite,
    non-zero gradient.

    Without dropout, three calls return equal logits: a call with `deterministic=True`,
    a call after `eval()`, and a call after `eval()` that gets the word vectors in the
    argument `vectors`.
    """
    model = small(**options)
    made = functional(model)

    @jax.jit
    def value_and_gradient(params, key):
        return jax.value_and_grad(
            lambda params: (made.rebuild(params)(jnp.asarray(IDS), rngs=key) ** 2).sum()
        )(params)

    first, gradients = value_and_gradient(made.params, jax.random.key(0))
    again, _ = value_and_gradient(made.params, jax.random.key(0))
    other, _ = value_and_gradient(made.params, jax.random.key(1))
    assert first == again != other
    for name, gradient in gradients.items():
        assert gradient.dtype == jnp.float32
        assert np.isfinite(gradient).all(), name
        assert np.abs(gradient).max() > 0, name
    logits = plain(model, jnp.asarray(IDS))
    assert logits.shape == (B,)
    assert logits.dtype == jnp.float32
    model.eval()
    assert_close(
        nnx.jit(lambda model, ids: model(ids))(model, jnp.asarray(IDS)),
        logits,
        "float32",
    )
    vectors = model.embedding(jnp.asarray(IDS).T)
    assert_close(
        nnx.jit(lambda model, vectors: model(jnp.asarray(IDS), vectors=vectors))(
            model, vectors
        ),
        logits,
        "float32",
    )


@pytest.mark.skipif(
    "compiled" not in BACKENDS, reason="no C++ compiler to build the backend with"
)
@pytest.mark.parametrize(
    ("dtype", "word", "rows"),
    [
        ("uint8", 255, 256),
        ("uint16", 65535, 65536),
        ("int16", -1, 256),
        ("int32", -1, 256),
    ],
)
def test_dropped_words_share_no_token_with_a_word(
    dtype: str, word: int, rows: int, unchecked: None
) -> None:
    """With word dropout, a word whose id is -1 in the dtype of the ids is not mistaken
    for a dropped word.

    Such an id is 255 in uint8 or -1 in int32. The compiled backend gives the loss and
    gradients of the reference.
    """
    options = {
        "embed": 2,
        "units": 4,
        "word_dropout": 0.5,
        "dropout": 0.0,
        "recurrent_dropout": 0.0,
    }
    found = []
    for backend, ids in (
        ("compiled", jnp.full((2, 12), word, dtype)),
        ("reference", jnp.full((2, 12), word, jnp.int32)),
    ):
        model = SentimentClassifier(
            SentimentModelConfig(**options, backend=backend), rows, rngs=nnx.Rngs(0)
        )
        found.append(value_and_gradients(model, ids, rngs=jax.random.key(1)))
    assert_close(*found, "float32")


@pytest.mark.slow(
    keep=["1-{'bidirectional': True, 'layers': 2", "2-{'mask_zero': True}"]
)
@pytest.mark.parametrize("options", VARIANTS, ids=str)
@pytest.mark.parametrize("devices", [1, 2])
def test_embedding_and_projection_folded(options: dict, devices: int) -> None:
    """Logits from the folded table equal those of the unfolded model. The folded table
    has the products of word vectors and kernel.

    By default, the folded table is used if there are more reviews than words.
    """
    made = functional(small(**options))
    mesh = sharding.make_mesh(devices)
    ids = np.random.default_rng(0).integers(0, V, (V + 9, T), dtype=np.int32)
    whole, folded, chosen = (
        sentiment.make_logits(made.rebuild, mesh, fold)(made.params, ids)
        for fold in (False, True, None)
    )
    assert_close(
        folded, whole, 2e-2 if options.get("dtype") == "bfloat16" else "float32"
    )
    np.testing.assert_array_equal(chosen, folded)
    few = ids[: V // 2]
    choose = sentiment.make_logits(made.rebuild, mesh)
    apart = sentiment.make_logits(made.rebuild, mesh, False)
    np.testing.assert_array_equal(choose(made.params, few), apart(made.params, few))


def test_masked_padding_is_not_read() -> None:
    padded = np.concatenate([np.zeros((B, 3), np.int32), IDS[:, -4:]], 1)
    padded[:, -4:] = np.maximum(padded[:, -4:], 1)
    masked, reading = small(mask_zero=True), small()
    assert_close(
        probabilities(masked, padded), probabilities(masked, padded[:, 3:]), "float32"
    )
    assert_close(
        probabilities(masked, padded[:, 3:]),
        probabilities(reading, padded[:, 3:]),
        "float32",
    )
    assert not np.allclose(
        probabilities(reading, padded), probabilities(reading, padded[:, 3:]), rtol=1e-5
    )
