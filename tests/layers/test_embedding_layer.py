"""The embedding layer and its mask, compared with indexing of the table, with a product
with one-hot rows, and with Keras' layer.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from tables import assert_close

from lstm_jax import Embedding
from lstm_jax.training.parts import functional

V, E = 11, 5
IDS = jnp.asarray([[0, 3, 3, 10], [7, 0, 1, 3]])


def test_gradient_is_that_of_one_hot_rows() -> None:
    layer = Embedding(V, E, rngs=nnx.Rngs(0))
    weight = jnp.asarray(
        np.random.default_rng(0).normal(size=(*IDS.shape, E)), jnp.float32
    )
    made = functional(layer)
    table = made.params["embedding"]

    def by_layer(table):
        vectors = made.rebuild({"embedding": table})(IDS)
        return (vectors * vectors * weight).sum()

    def by_product(table):
        vectors = jax.nn.one_hot(IDS, V) @ table
        return (vectors * vectors * weight).sum()

    (value, gradient), (wanted, dense) = (
        jax.jit(jax.value_and_grad(f))(table) for f in (by_layer, by_product)
    )
    assert_close(value, wanted, "float32")
    assert_close(gradient, dense, "float32")
    unused = np.setdiff1d(np.arange(V), np.asarray(IDS))
    np.testing.assert_array_equal(gradient[unused], 0)


def test_mask(unchecked: None) -> None:
    np.testing.assert_array_equal(
        Embedding(V, E, mask_zero=True, rngs=nnx.Rngs(0)).mask(IDS),
        np.asarray(IDS) != 0,
    )
    assert Embedding(V, E, rngs=nnx.Rngs(0)).mask(IDS) is None
    np.testing.assert_array_equal(
        Embedding(V, E, mask_zero=True, rngs=nnx.Rngs(0)).mask(IDS.tolist()),
        np.asarray(IDS) != 0,
    )


def test_an_id_outside_is_not_a_number() -> None:
    layer = Embedding(V, E, rngs=nnx.Rngs(0))
    assert np.isnan(layer(jnp.asarray([V]))).all()
    assert np.isfinite(layer(jnp.asarray([V - 1]))).all()


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int16, np.int64, np.uint64])
def test_ids_of_every_width(dtype: type, unchecked: None) -> None:
    """Ids of any int dtype give the same rows of the table as int32 ids. An id that
    int32 cannot hold gives NaN.
    """
    layer = Embedding(300, E, rngs=nnx.Rngs(0))
    np.testing.assert_array_equal(
        layer(np.array([0, 100, 127], dtype)), layer(jnp.asarray([0, 100, 127]))
    )
    if np.dtype(dtype).itemsize == 8:
        assert np.isnan(layer(np.array([2**32 + 1], dtype))).all()


def test_initial_table() -> None:
    ones = Embedding(
        V,
        E,
        initializer=jax.nn.initializers.ones,
        param_dtype=jnp.bfloat16,
        rngs=nnx.Rngs(0),
    ).embedding[...]
    np.testing.assert_array_equal(ones, jnp.ones((V, E), jnp.bfloat16), strict=True)


def test_equals_keras(keras, peer_rules) -> None:
    ours = Embedding(V, E, mask_zero=True, rngs=nnx.Rngs(0))
    with peer_rules():
        theirs = keras.layers.Embedding(V, E, mask_zero=True)
        theirs.build()
        theirs.set_weights([np.asarray(ours.embedding[...])])
        vectors, mask = np.asarray(theirs(IDS)), np.asarray(theirs.compute_mask(IDS))
    np.testing.assert_array_equal(ours(IDS), vectors)
    np.testing.assert_array_equal(ours.mask(IDS), mask)
