"""The character model: number of parameters, parity with Keras' example
lstm_text_generation, recurrent states, and tied weights.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from tables import assert_close

from lstm_jax import convert
from lstm_jax.lab.generation.config import GenerationModelConfig
from lstm_jax.lab.generation.model import CharGenerator
from lstm_jax.training.parts import functional


def _model(vocabulary: int = 7, **config) -> CharGenerator:
    model = CharGenerator(
        GenerationModelConfig(**({"units": 6} | config)),
        vocabulary,
        rngs=nnx.Rngs(params=0),
    )
    model.eval()
    return model


def test_keras_weights_give_the_same_probabilities(keras, peer_rules):
    model = _model()
    params, rebuild = functional(model)
    ids = jax.random.randint(jax.random.key(1), (5, 9), 0, 7)
    with peer_rules():
        layers = [
            keras.Input((9, 7)),
            keras.layers.LSTM(6),
            keras.layers.Dense(7, activation="softmax"),
        ]
        peer = keras.Sequential(layers)
        weights = [np.asarray(array) for array in peer.get_weights()]
        wanted = np.asarray(peer(np.eye(7, dtype="float32")[np.asarray(ids)]))
    ours = convert.lstm_from_keras(weights[:3])
    loaded = {f"recurrent/0/{name}": jnp.asarray(array) for name, array in ours.items()}
    loaded |= {
        f"head/{name}": jnp.asarray(array)
        for name, array in convert.dense_from_keras(weights[3:]).items()
    }
    assert loaded.keys() == params.keys()
    logits, _ = rebuild(loaded)(ids, last=True)
    assert_close(jax.nn.softmax(logits), wanted, 1e-6)


def test_logits_of_a_row_that_is_skipped():
    """If all steps of a row are masked, a call with `last=True` computes the logits of
    the row from its initial h.

    A call without `last` computes the logits at each step of this row from zeros
    instead of h.
    """
    model = _model(layers=2)
    ids = jnp.array([[1, 2, 3], [4, 5, 6]])
    mask = jnp.array([[True] * 3, [False] * 3])
    _, state = model(ids)
    all_steps, _ = model(ids, mask=mask, state=state)
    last, _ = model(ids, mask=mask, state=state, last=True)
    assert_close(last[1], model.logits(state[-1].h)[1], 1e-6)
    assert_close(
        all_steps[1], jnp.broadcast_to(model.logits(jnp.zeros(6)), (3, 7)), 1e-6
    )
    assert_close(last[0], all_steps[0, -1], 1e-6)
    assert np.abs(np.asarray(last[1] - all_steps[1, -1])).max() > 1e-3


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"embed": 5},
        {"embed": 6, "tied": True},
        {"layers": 2},
        {"embed": 6, "tied": True, "layers": 2},
    ],
)
def test_logits_of_what_is_hidden_are_the_model_s(config):
    params, rebuild = functional(_model(**config))
    model = rebuild(params | {"head/bias": jnp.linspace(-1, 1, 7)})
    ids = jax.random.randint(jax.random.key(4), (3, 8), 0, 7)
    hidden, states = model.hidden(ids)
    wanted, same = model(ids)
    assert hidden.shape == (8, 3, 6)
    np.testing.assert_array_equal(hidden[-1], states[-1].h)
    assert_close(jnp.swapaxes(model.logits(hidden), 0, 1), wanted, 1e-6)
    kernel = np.asarray(
        params["embedding/embedding"].T
        if config.get("tied")
        else params["head/kernel"],
        np.float64,
    )
    by_hand = np.asarray(hidden, np.float64) @ kernel + np.linspace(-1, 1, 7)
    assert_close(jnp.swapaxes(wanted, 0, 1), by_hand, 1e-6)
    assert_close(states, same, 1e-6)
