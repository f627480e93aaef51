"""Tests of lstm_test.py of Keras, applied to our `LSTM` with every backend that runs on this machine."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from ported import alike, check_basics, constant, counted, near
from tables import serving

from lstm_jax import LSTM, convert

pytestmark = pytest.mark.usefixtures("quick_compiles")

BACKENDS = serving("float32")


def make(**options) -> LSTM:
    return LSTM(4, 3, rngs=nnx.Rngs(0, dropout=1), **options)


def test_basics(keras, peer_rules) -> None:
    check_basics(make, (3, 2, 4), (3, 3), dropout=0.5)
    check_basics(make, (3, 2, 4), (3, 3), dropout=0.5, recurrent_dropout=0.5)
    check_basics(lambda **options: make(return_sequences=True, **options), (3, 2, 4), (3, 2, 3))
    layer = make()
    weights = convert.lstm_to_keras(layer.cell_params()._asdict())
    assert len(weights) == 3
    assert layer.count_params() == sum(array.size for array in weights)
    with peer_rules():  # this project has no penalties: a user adds them to the loss, as in `ours`
        theirs = keras.layers.LSTM(3, bias_regularizer="l1", kernel_regularizer="l2", recurrent_regularizer="l2")
        theirs.build((3, 2, 4))
        theirs.set_weights(weights)
        losses = sorted(float(loss) for loss in theirs.losses)
    ours = [0.01 * jnp.abs(layer.bias[...]).sum(), *(0.01 * (k[...] ** 2).sum() for k in (layer.kernel, layer.recurrent_kernel))]
    np.testing.assert_allclose(sorted(map(float, ours)), losses, rtol=1e-6)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ({}, [0.6288687, 0.86899155, 0.9460773]),
        ({"go_backwards": True}, [0.35622165, 0.74789524, 0.8872726]),
        ({"unit_forget_bias": False}, [0.57019705, 0.8661914, 0.9459622]),
        ({"use_bias": False}, [0.54986924, 0.86226785, 0.9443936]),
    ],
    ids=str,
)
def test_correctness(options: dict, wanted: list[float], backend: str) -> None:
    near(constant(LSTM, 4, 3, backend=backend, **options)(counted(3, 6, 4)), alike(wanted, 3))


@pytest.mark.parametrize("backend", BACKENDS)
def test_statefulness(backend: str) -> None:
    layer, sequence = constant(LSTM, 4, 4, stateful=True, backend=backend), counted(2, 3, 4)
    layer.reset_state()  # nothing to reset yet
    for _ in range(2):
        layer(sequence)
        near(layer(sequence), alike([0.3124785, 0.6863672], 4))
        layer.reset_state()


@pytest.mark.parametrize("backend", BACKENDS)
def test_pass_initial_state(backend: str) -> None:
    start = [counted(2, 2), counted(2, 2)]
    for options, wanted in (
        ({}, [[0.20574439, 0.3558822], [0.64930826, 0.66276]]),
        ({"go_backwards": True}, [[0.13281618, 0.2790356], [0.5839337, 0.5992567]]),
    ):
        near(constant(LSTM, 3, 2, backend=backend, **options)(counted(2, 4, 3), initial_state=start), wanted)


@pytest.mark.parametrize("backend", BACKENDS)
def test_masking(backend: str) -> None:
    sequence = counted(2, 4, 3)
    mask = jnp.array([[True, True, True, False], [True, True, False, False]])
    first, second = [0.01588910, 0.05552048, 0.11755939, 0.11755939], [0.14185596, 0.28556206, 0.28556206, 0.28556206]
    near(constant(LSTM, 3, 2, backend=backend)(sequence, mask=mask), alike([first[-1], second[-1]], 2))
    outputs = constant(LSTM, 3, 2, return_sequences=True, backend=backend)(sequence, mask=mask)
    near(outputs, alike([first, second], 2))
    outputs = constant(LSTM, 3, 2, return_sequences=True, zero_output_for_mask=True, backend=backend)(sequence, mask=mask)
    near(outputs, alike([first, second], 2) * np.asarray(mask)[..., None])
    padded_before = jnp.array([[False, True, True, True], [False, False, True, True]])
    near(constant(LSTM, 3, 2, go_backwards=True, backend=backend)(sequence, mask=padded_before), alike([0.15341201, 0.3844719], 2))
