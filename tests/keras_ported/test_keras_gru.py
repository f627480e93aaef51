"""Tests of gru_test.py of Keras, applied to our `GRU`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from ported import alike, check_basics, constant, counted, near

from lstm_jax import GRU, convert

pytestmark = pytest.mark.usefixtures("quick_compiles")


def make(**options) -> GRU:
    return GRU(4, 3, rngs=nnx.Rngs(0, dropout=1), **options)


def test_basics(keras, peer_rules) -> None:
    check_basics(make, (3, 2, 4), (3, 3), dropout=0.5)
    check_basics(make, (3, 2, 4), (3, 3), dropout=0.5, recurrent_dropout=0.5)
    check_basics(lambda **options: make(return_sequences=True, **options), (3, 2, 4), (3, 2, 3))
    for reset_after, cell in ((True, "gru"), (False, "gru_reset_before")):
        layer = make(reset_after=reset_after)
        weights = convert.cell_to_keras(cell, layer.cell_params()._asdict())
        assert len(weights) == 3  # one bias (2, 3H) of Keras stands for our two
        with peer_rules():
            theirs = keras.layers.GRU(3, reset_after=reset_after, bias_regularizer="l1")
            theirs.build((3, 2, 4))
            theirs.set_weights(weights)
            assert layer.count_params() == theirs.count_params()


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ({}, [0.5217289, 0.6371659, 0.39384964]),
        ({"go_backwards": True}, [0.24406259, 0.611516, 0.3928808]),
        ({"reset_after": False}, [0.51447755, 0.6426879, 0.40208298]),
        ({"use_bias": False}, [0.49988455, 0.64701194, 0.4103359]),
    ],
    ids=str,
)
def test_correctness(options: dict, wanted: list[float]) -> None:
    near(constant(GRU, 4, 3, **options)(counted(3, 6, 4)), alike(wanted, 3))


def test_statefulness() -> None:
    layer, sequence = constant(GRU, 4, 4, stateful=True), counted(2, 3, 4)
    for _ in range(2):
        layer(sequence)
        near(layer(sequence), alike([0.29542392, 0.5885018], 4))
        layer.reset_state()


def test_pass_initial_state() -> None:
    for options, wanted in (
        ({}, [[0.23774096, 0.33508456], [0.83659905, 1.0227708]]),
        ({"go_backwards": True}, [[0.13486053, 0.23261218], [0.78257304, 0.9691353]]),
    ):
        output, state = constant(GRU, 3, 2, return_state=True, **options)(counted(2, 4, 3), initial_state=[counted(2, 2)])
        near(output, wanted)
        near(state.h, wanted)  # `test_pass_return_state`


def test_masking() -> None:
    sequence = counted(2, 4, 3)
    mask = jnp.array([[True, True, False, True], [True, False, False, True]])
    first, second = [0.03606692, 0.09497581, 0.09497581, 0.19393763], [0.16051409, 0.16051409, 0.16051409, 0.30818558]
    near(constant(GRU, 3, 2)(sequence, mask=mask), alike([0.19393763, 0.30818558], 2))
    near(constant(GRU, 3, 2, return_sequences=True)(sequence, mask=mask), alike([first, second], 2))
    zeros = constant(GRU, 3, 2, return_sequences=True, zero_output_for_mask=True)(sequence, mask=mask)
    near(zeros, alike([first, second], 2) * np.asarray(mask)[..., None])
    near(constant(GRU, 3, 2, go_backwards=True)(sequence, mask=mask), alike([0.11669192, 0.28380975], 2))


def test_stateful_with_the_first_call_inside_jit() -> None:
    layer = GRU(10, 5, stateful=True, rngs=nnx.Rngs(0))
    call = nnx.jit(lambda layer, x: layer(x))
    first = call(layer, jnp.ones((2, 10, 10)))
    assert first.shape == (2, 5)
    second = call(layer, jnp.ones((2, 10, 10)))
    np.testing.assert_array_equal(layer.carried[0][...], second)
    whole = GRU(10, 5, rngs=nnx.Rngs(0))(jnp.ones((2, 20, 10)))
    np.testing.assert_allclose(second, whole, rtol=1e-6)
    assert not np.allclose(first, jax.device_get(whole))
