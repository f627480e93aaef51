"""Tests that compare initial weights with formulas and with Keras' initialisers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from lstm_jax.cells import initializers
from lstm_jax.layers import LSTM, ClassifierHead, Embedding


@pytest.mark.parametrize(
    ("name", "limit"),
    [("glorot_uniform", np.sqrt(6 / (128 + 512))), ("random_uniform", 0.05)],
)
def test_uniform(keras, peer_rules, name: str, limit: float) -> None:
    shape = (128, 512)
    ours = np.asarray(initializers.draw(name, jax.random.key(0), shape))
    with peer_rules():
        theirs = np.asarray(keras.initializers.get(name)(shape))
    for drawn in (ours, theirs):
        assert 0.999 * limit < np.abs(drawn).max() <= np.float32(limit)
        assert abs(drawn.mean()) < 5 * limit / np.sqrt(3 * drawn.size)
        assert abs(drawn.std() / (limit / np.sqrt(3)) - 1) < 0.01
    assert not np.array_equal(ours, initializers.draw(name, jax.random.key(1), shape))


@pytest.mark.parametrize("shape", [(5, 20), (32, 128), (1, 4)])
def test_orthogonal(keras, peer_rules, shape: tuple[int, int]) -> None:
    """The recurrent kernel U (H, 4H) has orthonormal rows (U U^T = I), as the one of
    Keras has.
    """
    ours = np.asarray(initializers.orthogonal(jax.random.key(0), shape, jnp.float32))
    with peer_rules():
        theirs = np.asarray(keras.initializers.Orthogonal(seed=0)(shape))
    for drawn in (ours, theirs):
        np.testing.assert_allclose(drawn @ drawn.T, np.eye(shape[0]), atol=1e-5)
    if shape[0] > 1:
        assert abs(ours.std() / theirs.std() - 1) < 0.05


def test_lstm_bias() -> None:
    np.testing.assert_array_equal(
        initializers.lstm_bias(3), [0] * 3 + [1] * 3 + [0] * 6
    )
    assert initializers.lstm_bias(3, jnp.bfloat16).dtype == jnp.bfloat16


def test_the_layers_start_as_keras_layers_do(keras, peer_rules) -> None:
    """Initial biases equal those of Keras, and kernels have equal shapes and about
    equal bounds and standard deviations.

    The recurrent kernels of both are orthogonal.
    """
    units, features = 24, 40
    ours = LSTM(features, units, rngs=nnx.Rngs(0))
    dense = ClassifierHead(features, 70, rngs=nnx.Rngs(0))
    table = Embedding(500, features, rngs=nnx.Rngs(0))
    with peer_rules():
        layer, head, embedding = (
            keras.layers.LSTM(units),
            keras.layers.Dense(70),
            keras.layers.Embedding(500, features),
        )
        layer.build((None, None, features))
        head.build((None, features))
        embedding.build()
        kernel, recurrent, bias = layer.get_weights()
        head_kernel, head_bias = head.get_weights()
        vectors = embedding.get_weights()[0]
    np.testing.assert_array_equal(ours.bias[...], bias)
    np.testing.assert_array_equal(dense.bias[...], head_bias)
    for mine, theirs in (
        (ours.kernel, kernel),
        (dense.kernel, head_kernel),
        (table.embedding, vectors),
    ):
        mine = np.asarray(mine[...])
        assert mine.shape == theirs.shape
        assert abs(mine.std() / theirs.std() - 1) < 0.1
        assert abs(np.abs(mine).max() / np.abs(theirs).max() - 1) < 0.05
    mine = np.asarray(ours.recurrent_kernel[...])
    np.testing.assert_allclose(mine @ mine.T, np.eye(units), atol=1e-5)
    np.testing.assert_allclose(recurrent @ recurrent.T, np.eye(units), atol=1e-5)
