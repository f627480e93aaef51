"""Tests of lstm_test.py, gru_test.py and simple_rnn_test.py of Keras, applied to our
layers. Those of LSTMs run on every backend.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from ported import alike, check_basics, constant, counted, near
from tables import serving

from lstm_jax import GRU, LSTM, SimpleRNN, convert

BACKENDS = serving("float32")
BACK, STEPS, ZEROS = (
    {"go_backwards": True},
    {"return_sequences": True},
    {"return_sequences": True, "zero_output_for_mask": True},
)
AFTER = {"mask": [[True, True, True, False], [True, True, False, False]]}
BEFORE = {"mask": [[False, True, True, True], [False, False, True, True]]}
GAPS = {"mask": [[True, True, False, True], [True, False, False, True]]}
ONE, TWO, WIDE = (
    {"initial_state": [counted(2, units)] * count}
    for units, count in ((2, 1), (2, 2), (4, 1))
)
LONG, SHORT, FOUR = (3, 6, 4), (2, 3, 4), (2, 4, 3)
OUTPUTS = [
    (LSTM, LONG, 3, {}, {}, [0.6288687, 0.86899155, 0.9460773]),
    (LSTM, LONG, 3, BACK, {}, [0.35622165, 0.74789524, 0.8872726]),
    (
        LSTM,
        LONG,
        3,
        {"unit_forget_bias": False},
        {},
        [0.57019705, 0.8661914, 0.9459622],
    ),
    (LSTM, LONG, 3, {"use_bias": False}, {}, [0.54986924, 0.86226785, 0.9443936]),
    (LSTM, FOUR, 2, {}, TWO, [[0.20574439, 0.3558822], [0.64930826, 0.66276]]),
    (LSTM, FOUR, 2, BACK, TWO, [[0.13281618, 0.2790356], [0.5839337, 0.5992567]]),
    (LSTM, FOUR, 2, {}, AFTER, [0.11755939, 0.28556206]),
    (
        LSTM,
        FOUR,
        2,
        STEPS,
        AFTER,
        [
            [0.0158891, 0.05552048, 0.11755939, 0.11755939],
            [0.14185596, 0.28556206, 0.28556206, 0.28556206],
        ],
    ),
    (
        LSTM,
        FOUR,
        2,
        ZEROS,
        AFTER,
        [[0.0158891, 0.05552048, 0.11755939, 0], [0.14185596, 0.28556206, 0, 0]],
    ),
    (LSTM, FOUR, 2, BACK, BEFORE, [0.15341201, 0.3844719]),
    (GRU, LONG, 3, {}, {}, [0.5217289, 0.6371659, 0.39384964]),
    (GRU, LONG, 3, BACK, {}, [0.24406259, 0.611516, 0.3928808]),
    (GRU, LONG, 3, {"reset_after": False}, {}, [0.51447755, 0.6426879, 0.40208298]),
    (GRU, LONG, 3, {"use_bias": False}, {}, [0.49988455, 0.64701194, 0.4103359]),
    (GRU, FOUR, 2, {}, ONE, [[0.23774096, 0.33508456], [0.83659905, 1.0227708]]),
    (GRU, FOUR, 2, BACK, ONE, [[0.13486053, 0.23261218], [0.78257304, 0.9691353]]),
    (GRU, FOUR, 2, {}, GAPS, [0.19393763, 0.30818558]),
    (
        GRU,
        FOUR,
        2,
        STEPS,
        GAPS,
        [
            [0.03606692, 0.09497581, 0.09497581, 0.19393763],
            [0.16051409, 0.16051409, 0.16051409, 0.30818558],
        ],
    ),
    (
        GRU,
        FOUR,
        2,
        ZEROS,
        GAPS,
        [[0.03606692, 0.09497581, 0, 0.19393763], [0.16051409, 0, 0, 0.30818558]],
    ),
    (GRU, FOUR, 2, BACK, GAPS, [0.11669192, 0.28380975]),
    (SimpleRNN, SHORT, 4, {}, {}, [0.405432, 0.73605347]),
    (SimpleRNN, SHORT, 4, BACK, {}, [0.11144729, 0.5528889]),
    (SimpleRNN, FOUR, 4, {}, WIDE, [0.33621645, 0.6262637]),
    (SimpleRNN, FOUR, 4, BACK, WIDE, [0.07344437, 0.43043602]),
    (SimpleRNN, FOUR, 4, {}, GAPS, [0.32951632, 0.61799484]),
    (
        SimpleRNN,
        FOUR,
        2,
        STEPS,
        GAPS,
        [
            [0.0599281, 0.15122814, 0.15122814, 0.32394567],
            [0.3969304, 0.3969304, 0.3969304, 0.608085],
        ],
    ),
    (
        SimpleRNN,
        FOUR,
        2,
        ZEROS,
        GAPS,
        [[0.0599281, 0.15122814, 0, 0.32394567], [0.3969304, 0, 0, 0.608085]],
    ),
    (SimpleRNN, FOUR, 4, BACK, GAPS, [0.07376196, 0.43645123]),
]
"""Rows of layer, shape of the input, units, options of the layer and of its call, and
outputs. An output may stand for all units."""


@pytest.mark.parametrize("backend", [None, *BACKENDS])
def test_outputs(backend):
    for kind, shape, units, options, call, wanted in OUTPUTS:
        if (kind is LSTM) == (backend is not None):
            call = {
                name: jnp.asarray(value) if name == "mask" else value
                for name, value in call.items()
            }
            layer = constant(
                kind, shape[2], units, backend=backend, return_state=True, **options
            )
            outputs, state = layer(counted(*shape), **call)
            near(
                outputs,
                alike(wanted, units) if np.ndim(wanted) < outputs.ndim else wanted,
            )
            if not options.get("return_sequences"):
                near(state.h, outputs)


@pytest.mark.parametrize("backend", [None, *BACKENDS])
def test_statefulness(backend):
    rows = (
        {LSTM: [0.3124785, 0.6863672]}
        if backend
        else {GRU: [0.29542392, 0.5885018], SimpleRNN: [0.40559256, 0.7361247]}
    )
    for kind, wanted in rows.items():
        layer, sequence = (
            constant(kind, 4, 4, stateful=True, backend=backend),
            counted(2, 3, 4),
        )
        layer.reset_state()  # nothing to reset yet
        for _ in range(2):
            layer(sequence)
            near(layer(sequence), alike(wanted, 4))
            layer.reset_state()


@pytest.mark.parametrize(
    ("cell", "kind", "options"),
    [
        ("lstm", LSTM, {}),
        ("gru", GRU, {"reset_after": True}),
        ("gru_reset_before", GRU, {"reset_after": False}),
        ("simple_rnn", SimpleRNN, {}),
    ],
)
def test_basics(keras, peer_rules, cell, kind, options):
    def make(**more):
        return kind(4, 3, rngs=nnx.Rngs(0, dropout=1), **options, **more)

    if cell != "gru_reset_before":
        check_basics(make, (3, 2, 4), (3, 3), dropout=0.5, recurrent_dropout=0.5)
        check_basics(
            lambda **more: make(return_sequences=True, **more), (3, 2, 4), (3, 2, 3)
        )
    layer = make()
    # this project has no penalties: a user adds them to the loss, as below
    with peer_rules():
        theirs = getattr(keras.layers, kind.__name__)(
            3,
            bias_regularizer="l1",
            kernel_regularizer="l2",
            recurrent_regularizer="l2",
            **options,
        )
        theirs.build((3, 2, 4))
        theirs.set_weights(convert.cell_to_keras(cell, layer))
        losses = sorted(float(loss) for loss in theirs.losses)
        assert layer.count_params() == theirs.count_params()
    biases = [
        bias for name, bias in layer.cell_params()._asdict().items() if "bias" in name
    ]
    ours = [
        0.01 * sum(jnp.abs(bias).sum() for bias in biases),
        *(0.01 * (k[...] ** 2).sum() for k in (layer.kernel, layer.recurrent_kernel)),
    ]
    np.testing.assert_allclose(sorted(map(float, ours)), losses, rtol=1e-6)


def test_stateful_with_the_first_call_inside_jit():
    layer = GRU(10, 5, stateful=True, rngs=nnx.Rngs(0))
    call = nnx.jit(lambda layer, x: layer(x))
    first = call(layer, jnp.ones((2, 10, 10)))
    assert first.shape == (2, 5)
    second = call(layer, jnp.ones((2, 10, 10)))
    np.testing.assert_array_equal(layer.carried[0][...], second)
    whole = GRU(10, 5, rngs=nnx.Rngs(0))(jnp.ones((2, 20, 10)))
    np.testing.assert_allclose(second, whole, rtol=1e-6)
    assert not np.allclose(first, jax.device_get(whole))
