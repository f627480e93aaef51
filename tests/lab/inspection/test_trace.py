"""Traces of layers, alone and in a model.

Traced states equal the outputs and states of the layer. Traced gates equal those that
NumPy computes in float64 by the cell's equations.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from made_layers import B, E, H, T, made
from scipy.special import expit as sigmoid

import lstm_jax
from lstm_jax.base.errors import InputError
from lstm_jax.cells import CELLS
from lstm_jax.lab.inspection.trace import trace
from lstm_jax.layers.recurrent import Recurrent


def inputs():
    """Return a random input (B, T, E). It is float64 if the test uses the fixture
    `x64`, else float32.
    """
    return jnp.asarray(np.random.default_rng(0).standard_normal((B, T, E)), float)


@pytest.mark.usefixtures("x64")
def test_gates_of_an_lstm_by_its_equations():
    layer = made(param_dtype=jnp.float64)
    x, (kernel, recurrent, bias) = (
        np.asarray(inputs()),
        (np.asarray(part) for part in layer.cell_params()),
    )
    _, (found,) = trace(layer, inputs())
    assert (found.layer, found.cell, found.backwards, found.valid) == (
        "",
        "lstm",
        False,
        None,
    )
    h = c = np.zeros((B, H))
    for t in range(T):
        i, f, g, o = np.split(x[:, t] @ kernel + h @ recurrent + bias, 4, axis=1)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
        want = {
            "input": sigmoid(i),
            "forget": sigmoid(f),
            "candidate": np.tanh(g),
            "output": sigmoid(o),
        }
        assert found.gates.keys() == want.keys()
        for name, values in want.items():
            np.testing.assert_allclose(
                found.gates[name][:, t], values, rtol=1e-12, atol=1e-14
            )
        np.testing.assert_allclose(found.state["h"][:, t], h, rtol=1e-12, atol=1e-14)
        np.testing.assert_allclose(found.state["c"][:, t], c, rtol=1e-12, atol=1e-14)


@pytest.mark.usefixtures("x64")
def test_gates_of_a_gru_make_its_states():
    layer = made(lstm_jax.GRU, param_dtype=jnp.float64)
    outputs, (found,) = trace(layer, inputs())
    u, n, h = (
        found.gates["update"],
        found.gates["candidate"],
        np.asarray(found.state["h"]),
    )
    before = np.concatenate([np.zeros((B, 1, H)), h[:, :-1]], 1)
    np.testing.assert_allclose(u * before + (1 - u) * n, h, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(h[:, -1], outputs, rtol=1e-12, atol=1e-14)
    params = layer.cell_params()
    inner = before @ np.asarray(params.recurrent_kernel) + np.asarray(
        params.recurrent_bias
    )
    z = np.asarray(inputs()) @ np.asarray(params.kernel) + np.asarray(params.bias)
    want = sigmoid(z[..., H : 2 * H] + inner[..., H : 2 * H])
    np.testing.assert_allclose(found.gates["reset"], want, rtol=1e-12, atol=1e-14)


@pytest.mark.slow(keep=["[lstm]", "[gru]", "layernorm", "full_gate", "min_lstm"])
@pytest.mark.parametrize("cell", CELLS)
def test_states_are_those_of_the_layer(cell):
    """The traced states of each cell equal the layer's outputs and final state, with
    padded steps and resets.
    """
    layer = made(Recurrent, cell=cell, return_sequences=True, return_state=True)
    lengths, resets = [T, 2, 4], jnp.arange(T)[None] == jnp.array([[2], [0], [3]])
    (outputs, state), (found,) = trace(
        layer, inputs(), lengths=jnp.array(lengths), resets=resets
    )
    assert found.cell == cell
    np.testing.assert_array_equal(found.valid, np.arange(T) < np.array([[T], [2], [4]]))
    for row, length in enumerate(lengths):
        np.testing.assert_allclose(
            found.state["h"][row, :length], outputs[row, :length], rtol=2e-5, atol=2e-6
        )
    for name, part in state._asdict().items():
        np.testing.assert_allclose(found.state[name][:, -1], part, rtol=2e-5, atol=2e-6)
    assert bool(found.gates) == (cell in ("lstm", "gru"))


def test_a_model_of_ones_own():
    """The trace of a user's own model has the path of each layer and direction, and
    leaves the model unchanged.

    The model reads ids with several segments in a row, has dropout, which is off, and
    ends with a step of a layer.
    """

    class Tagger(nnx.Module):
        def __init__(self, rngs):
            self.embedding = lstm_jax.Embedding(10, E, rngs=rngs)
            self.both = lstm_jax.Bidirectional(
                E, H, return_sequences=True, dropout=0.5, rngs=rngs
            )
            self.top = lstm_jax.GRU(2 * H, 3, return_sequences=True, rngs=rngs)
            self.last = lstm_jax.LSTM(3, 2, rngs=rngs)

        def __call__(self, ids, segment_ids):
            y = self.top(
                self.both(self.embedding(ids), segment_ids=segment_ids),
                segment_ids=segment_ids,
            )
            return y, self.last.step(y[:, -1], self.last.initial_state(len(y)))[0]

    model = Tagger(nnx.Rngs(0, dropout=1))
    model.eval()
    ids = jnp.asarray(np.random.default_rng(0).integers(0, 10, (2, T)))
    segments = jnp.array([[1, 1, 2, 2, 2, 0], [1, 1, 1, 1, 1, 1]])
    kinds = {path: type(node) for path, node in nnx.iter_graph(model)}
    (outputs, last), layers = trace(model, ids, segments)
    np.testing.assert_array_equal(outputs, model(ids, segments)[0])
    assert {path: type(node) for path, node in nnx.iter_graph(model)} == kinds
    assert [(layer.cell, layer.backwards) for layer in layers] == [
        ("lstm", False),
        ("lstm", True),
        ("gru", False),
        ("lstm", False),
    ]
    assert [layer.layer.split("/")[0] for layer in layers] == [
        "both",
        "both",
        "top",
        "last",
    ]
    assert layers[0].layer != layers[1].layer
    np.testing.assert_allclose(
        layers[2].state["h"][1], outputs[1], rtol=2e-5, atol=2e-6
    )
    np.testing.assert_allclose(layers[3].state["h"][:, 0], last, rtol=2e-5, atol=2e-6)
    np.testing.assert_allclose(
        layers[1].state["h"][0, 2:5],
        trace(model, ids[:1, 2:5], segments[:1, 2:5])[1][1].state["h"][0],
        atol=1e-6,
    )


def test_dropout_masks_are_those_of_the_call():
    layer = made(return_sequences=True, recurrent_dropout=0.4, dropout=0.3)
    outputs, (found,) = trace(layer, inputs(), rngs=jax.random.key(5))
    np.testing.assert_allclose(found.state["h"], outputs, rtol=2e-5, atol=2e-6)
    np.testing.assert_array_equal(outputs, layer(inputs(), rngs=jax.random.key(5)))
    ids = made(return_sequences=True, dropout=0.3, activation="relu")
    outputs, (found,) = trace(
        ids, jnp.array([[0, 3, -1, -4, 2, 1]]), rngs=jax.random.key(5)
    )
    np.testing.assert_allclose(found.state["h"], outputs, rtol=2e-5, atol=2e-6)
    assert found.gates == {}  # known for the default activations only


@pytest.mark.usefixtures("unchecked")
def test_what_cannot_be_traced():
    models: list[Any] = [nnx.Linear(4, 2, rngs=nnx.Rngs(0)), lambda x: x]
    for model, message in zip(
        models,
        (
            "Linear; it calls no recurrent layer of lstm_jax",
            "function; give an nnx.Module",
        ),
        strict=True,
    ):
        with pytest.raises(InputError, match=f"^model: {message}"):
            trace(model, jnp.ones((1, 4)))


def test_a_layer_within_a_transformation():
    """A layer that a model calls within `nnx.jit` cannot be traced, but a function that
    calls `trace` can be compiled.
    """
    layer = made()

    class Compiled(nnx.Module):
        def __init__(self):
            self.lstm = layer

        @nnx.jit
        def __call__(self, x):
            return self.lstm(x)

    def states(x, model):
        return trace(model, x)[1][0].state["h"]

    for call in (states, jax.jit(states, static_argnums=1)):
        with pytest.raises(
            InputError, match=r"^layer lstm: traced by JAX; it is called within jit"
        ):
            call(inputs(), Compiled())
    whole = jax.jit(lambda x: states(x, layer))(inputs())
    np.testing.assert_allclose(whole, states(inputs(), layer), rtol=1e-6, atol=1e-7)
