"""Tests of simple_rnn_test.py of Keras, applied to our `SimpleRNN`."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from ported import alike, check_basics, constant, counted, near

from lstm_jax import SimpleRNN, convert

pytestmark = pytest.mark.usefixtures("quick_compiles")


def make(**options) -> SimpleRNN:
    return SimpleRNN(4, 3, rngs=nnx.Rngs(0, dropout=1), **options)


def test_basics() -> None:
    check_basics(make, (3, 2, 4), (3, 3), dropout=0.5, recurrent_dropout=0.5)
    check_basics(lambda **options: make(return_sequences=True, **options), (3, 2, 4), (3, 2, 3))
    assert len(convert.cell_to_keras("simple_rnn", make().cell_params()._asdict())) == 3


def test_correctness() -> None:
    for options, wanted in (({}, [0.405432, 0.73605347]), ({"go_backwards": True}, [0.11144729, 0.5528889])):
        near(constant(SimpleRNN, 4, 4, **options)(counted(2, 3, 4)), alike(wanted, 4))


def test_statefulness() -> None:
    layer, sequence = constant(SimpleRNN, 4, 4, stateful=True), counted(2, 3, 4)
    for _ in range(2):
        layer(sequence)
        near(layer(sequence), alike([0.40559256, 0.7361247], 4))
        layer.reset_state()


def test_pass_initial_state() -> None:
    for options, wanted in (({}, [0.33621645, 0.6262637]), ({"go_backwards": True}, [0.07344437, 0.43043602])):
        near(constant(SimpleRNN, 3, 4, **options)(counted(2, 4, 3), initial_state=(counted(2, 4),)), alike(wanted, 4))


def test_masking() -> None:
    sequence = counted(2, 4, 3)
    mask = jnp.array([[True, True, False, True], [True, False, False, True]])
    first, second = [0.0599281, 0.15122814, 0.15122814, 0.32394567], [0.3969304, 0.3969304, 0.3969304, 0.608085]
    near(constant(SimpleRNN, 3, 4)(sequence, mask=mask), alike([0.32951632, 0.61799484], 4))
    near(constant(SimpleRNN, 3, 2, return_sequences=True)(sequence, mask=mask), alike([first, second], 2))
    zeros = constant(SimpleRNN, 3, 2, return_sequences=True, zero_output_for_mask=True)(sequence, mask=mask)
    near(zeros, alike([first, second], 2) * np.asarray(mask)[..., None])
    near(constant(SimpleRNN, 3, 4, go_backwards=True)(sequence, mask=mask), alike([0.07376196, 0.43645123], 4))
