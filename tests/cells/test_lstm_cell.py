"""Tests of the functions of the LSTM, of the matrix products, and of copied and pickled
cells.
"""

import copy
import dataclasses
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from made_weights import assert_subject
from tables import CELLS, assert_close

from lstm_jax import CELLS as CELL_TABLE
from lstm_jax import LSTM, LSTMParams, LSTMState
from lstm_jax.cells import lstm, products, projected_lstm, with_activations


def sigmoid(z: float) -> float:
    return float(1 / (1 + np.exp(-z)))


def test_a_step_by_hand() -> None:
    """One step of the LSTM has the values of its equations, which the test writes out
    for one feature, one unit and a batch of one.
    """
    params = LSTMParams(
        jnp.asarray([[0.1, -0.2, 0.3, 0.4]]),
        jnp.asarray([[0.5, 0.6, -0.7, 0.8]]),
        jnp.asarray([0.01, 1.0, 0.03, -0.04]),
    )
    state = LSTMState(jnp.asarray([[0.25]]), jnp.asarray([[-0.5]]))
    z = products.project(params, jnp.asarray([[[2.0]]]))
    np.testing.assert_allclose(z[0, 0], [0.21, 0.6, 0.63, 0.76], rtol=1e-6)
    new = lstm.step(params, state, z[0])
    i, f, g, o = 0.21 + 0.125, 0.6 + 0.15, 0.63 - 0.175, 0.76 + 0.2
    c = sigmoid(f) * -0.5 + sigmoid(i) * np.tanh(g)
    np.testing.assert_allclose(new.c, [[c]], rtol=1e-6)
    np.testing.assert_allclose(new.h, [[sigmoid(o) * np.tanh(c)]], rtol=1e-6)


def test_masks_shared_and_a_gate() -> None:
    rng = np.random.default_rng(0)
    params = lstm.init(jax.random.key(1), 3, 2)
    x = jnp.asarray(rng.normal(size=(5, 4, 3)), jnp.float32)
    mask = jnp.asarray(rng.integers(0, 3, (4, 4, 3)), jnp.float32)
    z = products.project(params, x, mask)
    for gate in range(4):
        columns = slice(2 * gate, 2 * gate + 2)
        alone = products.project(params, x * jnp.broadcast_to(mask[gate], x.shape))
        assert_close(z[..., columns], alone[..., columns], "float32")
    shared = products.project(params, x, mask[0])
    assert_close(
        shared, products.project(params, x, jnp.stack([mask[0]] * 4)), "float32"
    )
    assert_close(
        shared,
        products.project(params, x * jnp.broadcast_to(mask[0], x.shape)),
        "float32",
    )


def test_initial_weights() -> None:
    params = lstm.init(jax.random.key(0), 3, 5)
    assert [leaf.shape for leaf in params] == [(3, 20), (5, 20), (20,)]
    assert {leaf.dtype for leaf in params} == {np.dtype("float32")}
    np.testing.assert_array_equal(
        params.bias.reshape(4, 5), [[0] * 5, [1] * 5, [0] * 5, [0] * 5]
    )
    other = lstm.init(jax.random.key(1), 3, 5)
    assert not np.allclose(other.kernel, params.kernel)
    with jax.enable_x64(True):
        assert {
            leaf.dtype for leaf in lstm.init(jax.random.key(0), 3, 5, jnp.float64)
        } == {np.dtype("float64")}


@pytest.mark.parametrize(
    ("features", "units", "subject"), [(0, 5, "features"), (3, 0, "units")]
)
def test_sizes_below_one(features: int, units: int, subject: str) -> None:
    assert_subject(lambda: lstm.init(jax.random.key(0), features, units), subject)


def test_products_in_bfloat16_accumulate_in_the_type_of_the_kernel() -> None:
    a = jnp.ones((1, 1000), jnp.float32) * jnp.float32(1.001)
    b = jnp.ones((1000, 1), jnp.float32)
    product = products.matmul(a, b, jnp.bfloat16)
    assert product.dtype == jnp.float32
    # 1.001 is rounded to 1, and the sum is not rounded to 1000's bfloat16
    np.testing.assert_allclose(product, [[1000]], rtol=1e-6)
    np.testing.assert_allclose(products.matmul(a, b), [[1001]], rtol=1e-5)
    exact = products.matmul(
        jnp.ones((1, 257), jnp.float32), jnp.ones((257, 1), jnp.float32), jnp.bfloat16
    )
    assert float(exact[0, 0]) == 257  # bfloat16 has no 257


def scaled(x: jax.Array) -> jax.Array:
    return 0.5 * jnp.tanh(x)


def own_project(
    params, x: jax.Array, mask: jax.Array | None = None, compute_dtype=None
) -> jax.Array:
    return 2 * products.project(params, x, mask, compute_dtype)


@pytest.mark.parametrize(
    "name", [*CELLS, "projected", "other activations", "own function"]
)
def test_copies_are_the_cell_itself(name: str) -> None:
    """Copying or unpickling a cell returns the same object, so that a copied layer can
    run on the same backends.
    """
    others = {
        "projected": projected_lstm(2),
        "other activations": with_activations(CELL_TABLE["gru"], "relu", None),
        "own function": with_activations(CELL_TABLE["simple_rnn"], scaled, "sigmoid"),
    }
    cell = others[name] if name in others else CELL_TABLE[name]
    assert copy.copy(cell) is cell
    assert copy.deepcopy([cell])[0] is cell
    assert pickle.loads(pickle.dumps(cell)) is cell


def test_copies_of_a_layer() -> None:
    layer = LSTM(3, 4, rngs=nnx.Rngs(0))
    for copied in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert copied.definition is layer.definition
        np.testing.assert_array_equal(
            copied(jnp.ones((2, 3, 3))), layer(jnp.ones((2, 3, 3)))
        )


def test_pickle_of_an_own_cell() -> None:
    """A user's cell can be pickled if its functions can be imported from a module."""
    own = dataclasses.replace(
        CELL_TABLE["lstm_peephole"], name="own", project=own_project
    )
    assert pickle.loads(pickle.dumps(own)) == own
    assert copy.deepcopy(own) is own
