"""Pooling in the sentiment model, compared with NumPy and Keras, and dropout of words
and of the features that the head reads.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from made_layers import value_and_gradients
from tables import assert_close

from lstm_jax import InputError, SentimentClassifier, convert
from lstm_jax.lab.sentiment.config import SentimentModelConfig
from lstm_jax.recurrence.dropout import draw_mask
from lstm_jax.training.parts import functional

V, E, H, B, T = 20, 4, 3, 5, 6
IDS = np.random.default_rng(0).integers(1, V, (B, T)).astype(np.int32)
IDS[0, :4], IDS[1] = 0, 0  # row 0 begins with padding, row 1 is padding only


def make(**options) -> SentimentClassifier:
    return SentimentClassifier(
        SentimentModelConfig(**({"embed": E, "units": H} | options)),
        V,
        rngs=nnx.Rngs(0, dropout=1),
    )


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("pooling", ["mean", "max", "mean+max"])
def test_by_hand(pooling: str, bidirectional: bool) -> None:
    model = make(pooling=pooling, bidirectional=bidirectional)
    steps = jnp.asarray(IDS.T)
    h = np.asarray(
        model.recurrent(model.embedding(steps), deterministic=True, time_major=True)
    )
    rows = []
    for row in range(B):
        words = h[IDS[row] != 0, row]
        none = np.zeros(h.shape[-1])
        parts = {
            "mean": words.mean(0) if len(words) else none,
            "max": words.max(0) if len(words) else none,
        }
        rows.append(np.concatenate([parts[name] for name in pooling.split("+")]))
    want = np.asarray(rows) @ np.asarray(model.head.kernel[...]) + np.asarray(
        model.head.bias[...]
    )
    assert_close(model(jnp.asarray(IDS), deterministic=True), want[:, 0], "float32")
    assert_close(
        model.fold()(jnp.asarray(IDS), deterministic=True), want[:, 0], "float32"
    )


def test_gradients_are_finite_where_a_row_has_no_word() -> None:
    _, gradients = value_and_gradients(
        make(pooling="mean+max"), jnp.asarray(IDS), rngs=jax.random.key(0)
    )
    assert all(np.isfinite(g).all() and g.any() for g in gradients.values())


def test_keras_pools_alike(keras, peer_rules) -> None:
    """A bidirectional model with max pooling gives the probabilities of Keras'
    Bidirectional(LSTM) and GlobalMaxPooling1D.

    The reviews have no padding, because Keras' pooling layer would include it.
    """
    full = np.maximum(IDS, 1)
    with peer_rules():
        keras.utils.set_random_seed(0)
        two_ways = keras.layers.Bidirectional(
            keras.layers.LSTM(H, return_sequences=True)
        )
        layers = [
            keras.layers.Embedding(V, E),
            two_ways,
            keras.layers.GlobalMaxPooling1D(),
            keras.layers.Dense(1, activation="sigmoid"),
        ]
        model = keras.Sequential(layers)
        model.build((None, T))
        want = np.asarray(model.predict_on_batch(full))[:, 0]
        weights = [np.asarray(array) for array in model.get_weights()]
    params = {
        name: jnp.asarray(array)
        for name, array in convert.sentiment_from_keras(weights).items()
    }
    ours = functional(make(pooling="max", bidirectional=True)).rebuild(params)
    assert_close(
        jax.nn.sigmoid(ours(jnp.asarray(full), deterministic=True)), want, "float32"
    )


def test_word_dropout() -> None:
    """In training, word dropout multiplies random word vectors by zero. In evaluation,
    it changes nothing.
    """
    model = make(word_dropout=0.5, dropout=0.0, recurrent_dropout=0.0)
    ids, key = jnp.asarray(IDS), jax.random.key(3)
    vectors = model.embedding(ids.T)
    logits = model(ids, rngs=key, deterministic=False)
    kept = jax.random.bernoulli(jax.random.fold_in(key, 1), 0.5, (T, B, 1))
    plain = make(dropout=0.0, recurrent_dropout=0.0)
    assert_close(
        logits,
        plain(
            ids,
            vectors=vectors
            * jnp.broadcast_to(kept, vectors.shape).astype(vectors.dtype),
        ),
        "float32",
    )
    assert 0.2 < float(kept.mean()) < 0.8
    np.testing.assert_array_equal(
        model(ids, deterministic=True), plain(ids, deterministic=True)
    )
    with pytest.raises(InputError, match="dropout draws from it"):
        model(ids, deterministic=False)
    with pytest.raises(
        InputError, match=r"word_dropout: 1.0; give a share from 0 to below 1"
    ):
        SentimentModelConfig(word_dropout=1.0)


@pytest.mark.parametrize("pooling", ["last", "mean+max"])
def test_dropout_of_the_head(pooling: str) -> None:
    """In training, the head reads its features multiplied by a mask of inverted
    dropout. In evaluation, it reads them unchanged.
    """
    model = make(head_dropout=0.5, dropout=0.0, recurrent_dropout=0.0, pooling=pooling)
    plain = make(dropout=0.0, recurrent_dropout=0.0, pooling=pooling)
    ids, key, seen = jnp.asarray(IDS), jax.random.key(3), []
    kernel, bias = np.asarray(plain.head.kernel[...]), np.asarray(plain.head.bias[...])
    plain.head = lambda features: seen.append(np.asarray(features)) or jnp.zeros((B, 1))  # pyright: ignore[reportAttributeAccessIssue]
    plain(ids, deterministic=True)
    mask = np.asarray(draw_mask(jax.random.fold_in(key, 2), 0.5, seen[0].shape))
    assert set(np.unique(mask)) == {0.0, 2.0}
    assert_close(
        model(ids, rngs=key, deterministic=False),
        ((seen[0] * mask) @ kernel + bias)[:, 0],
        "float32",
    )
    assert_close(
        model(ids, deterministic=True), (seen[0] @ kernel + bias)[:, 0], "float32"
    )
    with pytest.raises(InputError, match="dropout draws from it"):
        model(ids, deterministic=False)
