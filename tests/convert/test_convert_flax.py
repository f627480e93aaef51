"""Weights are converted to and from Flax cells; Flax's outputs equal those of a float64
NumPy LSTM with the converted arrays.
"""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_weights import FEW, SHAPES, assert_same, normal, random_lstm
from numpy_lstm import assert_close, lstm

from lstm_jax import convert

pytestmark = [
    # NumPy 2 asks for an argument `copy`
    pytest.mark.filterwarnings(
        "ignore:__array__ implementation:DeprecationWarning:keras"
    ),
    pytest.mark.usefixtures("only_peers"),
]


@FEW
@given(SHAPES, st.sampled_from(["LSTMCell", "OptimizedLSTMCell"]))
def test_linen(shape, cell):
    linen, jax = (
        pytest.importorskip("flax.linen", reason="needs Flax"),
        pytest.importorskip("jax"),
    )
    b, t, e, h = shape
    x, ours = normal(4, b, t, e), random_lstm(e, h)
    peer = linen.RNN(getattr(linen, cell)(h))
    first = peer.init(jax.random.key(0), x)
    assert_same(
        convert.lstm_to_linen(convert.lstm_from_linen(first), rnn=True),
        jax.tree.map(np.asarray, first["params"]),
        ordered=False,
    )
    tree = convert.lstm_to_linen(ours, rnn=True)
    assert_same(convert.lstm_from_linen(tree["cell"]), ours)
    assert_close(peer.apply({"params": tree}, x), lstm(ours, x))


@FEW
@given(SHAPES, st.booleans())
def test_nnx(shape, optimized):
    nnx = pytest.importorskip("flax.nnx", reason="needs Flax")
    b, t, e, h = shape
    x, ours = normal(4, b, t, e), random_lstm(e, h)
    cell = (nnx.OptimizedLSTMCell if optimized else nnx.LSTMCell)(
        e, h, rngs=nnx.Rngs(0)
    )
    peer, state = nnx.RNN(cell, rngs=nnx.Rngs(1)), nnx.state(cell)
    nnx.replace_by_pure_dict(state, convert.lstm_to_nnx(ours, optimized))
    nnx.update(cell, state)
    for tree in (nnx.to_pure_dict(nnx.state(peer)), nnx.state(cell)):
        assert_same(convert.lstm_from_nnx(tree), ours)
    assert_close(peer(x), lstm(ours, x))


def test_flax_key_styles():
    ours = random_lstm(3, 5)
    tree = convert.lstm_to_linen(ours)
    flat = {
        (layer, name): array
        for layer, arrays in tree.items()
        for name, array in arrays.items()
    }
    assert_same(convert.lstm_from_linen(flat), ours)
    assert_same(
        convert.lstm_from_linen(
            {"/".join(("params", "cell", *path)): array for path, array in flat.items()}
        ),
        ours,
    )
    assert_same(
        convert.lstm_from_nnx(convert.lstm_to_nnx(ours, optimized=False, rnn=True)),
        ours,
    )
