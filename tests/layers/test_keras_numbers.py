"""Tests that layers give the numbers which Keras' own tests of its recurrent layers
expect, for constant weights and the inputs 0, 1, 2, ...

The tolerance is that of Keras' tests, 1e-5 absolute and relative.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from tables import serving

from lstm_jax import (
    GRU,
    LSTM,
    Bidirectional,
    Cell,
    InputError,
    Recurrent,
    RecurrentStack,
    SimpleRNN,
)

BACKENDS = serving("float32")


def constant(kind, features: int, units: int, **options):
    """Return a layer whose kernel is 0.01, whose recurrent kernel is 0.02 and whose
    biases are 0.03, but for an LSTM's forget bias, which is 1.
    """
    values = {
        "kernel_initializer": jax.nn.initializers.constant(0.01),
        "recurrent_initializer": jax.nn.initializers.constant(0.02),
        "bias_initializer": jax.nn.initializers.constant(0.03),
    }
    return kind(features, units, rngs=nnx.Rngs(0), **(values | options))


def counted(*shape: int) -> jax.Array:
    return jnp.arange(np.prod(shape), dtype=jnp.float32).reshape(shape)


def near(got: Any, want: Any) -> None:
    want = np.asarray(want)
    assert got.shape == want.shape
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


def alike(rows: Any, units: int) -> np.ndarray:
    """Repeat each number for all units."""
    return np.repeat(np.asarray(rows)[..., None], units, axis=-1)


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


def test_bidirectional():
    sequence = counted(2, 3, 4)
    ahead = alike([0.39687276, 0.7237238], 2)
    back = alike([0.10004295, 0.53391594], 2)

    def outputs(**options):
        options = {"cell": "simple_rnn"} | options
        return constant(Bidirectional, 4, 2, **options)(sequence)

    near(outputs(), jnp.concatenate([ahead, back], -1))
    near(outputs(merge_mode="ave"), alike([0.24845785, 0.6288199], 2))
    other = {
        "kernel_initializer": jax.nn.initializers.constant(0.03),
        "bias_initializer": jax.nn.initializers.constant(0.01),
    }
    near(outputs(merge_mode="mul", backward=other), alike([0.08374989, 0.6740834], 2))

    layer = constant(Bidirectional, 3, 2)
    start = [counted(2, 2) * n for n in (1, 2, 3, 4)]
    wanted = [
        [0.20794602, 0.4577124, 0.14046375, 0.48191673],
        [0.6682636, 0.6711909, 0.60943645, 0.60950446],
    ]
    for state in (start, (tuple(start[:2]), start[2:])):
        near(layer(counted(2, 4, 3), initial_state=state), wanted)


class OneStateParams(NamedTuple):
    kernel: jax.Array
    recurrent_kernel: jax.Array


class OneState(NamedTuple):
    h: jax.Array


class TwoStatesParams(NamedTuple):
    kernel: jax.Array
    recurrent_kernel: jax.Array
    second_kernel: jax.Array


class TwoStates(NamedTuple):
    """State of `TWO_STATES`, with the output, which is no part of the state in Keras."""

    h: jax.Array
    first: jax.Array
    second: jax.Array


def own_cell(params: type, state: type, step) -> Cell:
    """Return a cell of one gate whose weights are all 1."""

    def init(key, features: int, units: int, dtype=jnp.float32):
        square = jnp.ones((units, units), dtype)
        kernels = [square] * (len(params._fields) - 1)
        return params(jnp.ones((features, units), dtype), *kernels)

    def start(batch: int, units: int, dtype=jnp.float32):
        return state(*(jnp.zeros((batch, units), dtype) for _ in state._fields))

    return Cell(
        name=state.__name__,
        gates=1,
        params=params,
        init=init,
        bias=None,
        initial_state=start,
        step=step,
    )


def one_state_step(params, state, z, mask=None, compute_dtype=None) -> OneState:
    return OneState(z + state.h @ params.recurrent_kernel)


def two_states_step(params, state, z, mask=None, compute_dtype=None) -> TwoStates:
    first = z + state.first @ params.recurrent_kernel
    # Keras' cell reads its first state twice
    second = z + state.first @ params.second_kernel
    return TwoStates(first + second, first, second)


OWN = {
    "one": own_cell(OneStateParams, OneState, one_state_step),
    "two": own_cell(TwoStatesParams, TwoStates, two_states_step),
}
"""OneStateRNNCell and TwoStatesRNNCell of Keras' tests."""


def make(cell: str, features: int, units: int, **options) -> Recurrent:
    return Recurrent(features, units, cell=OWN[cell], rngs=nnx.Rngs(0), **options)


def check(cell: str, got: tuple, outputs: list, last: list) -> None:
    """Check an output and a final state. The output of the second cell is the sum of
    its states.
    """
    output, state = got
    near(output, np.multiply(outputs, len(state) - 1 if cell == "two" else 1))
    for part in state[1:] or state:
        near(part, last)


@pytest.mark.parametrize("cell", OWN)
def test_own_cells(cell):
    for sequences, outputs in ((False, [[9.0] * 2]), (True, [[[3.0] * 2, [9.0] * 2]])):
        layer = make(cell, 3, 2, return_sequences=sequences, return_state=True)
        check(cell, layer(jnp.ones((1, 2, 3))), outputs, [[9.0] * 2])

    ones = jnp.ones((2, 2))
    start = [ones] if cell == "one" else TwoStates(jnp.zeros((2, 2)), ones, ones)
    layer = make(cell, 2, 2, return_state=True)
    found = layer(jnp.ones((2, 3, 2)), initial_state=start)
    check(cell, found, [[22.0] * 2] * 2, [[22.0] * 2] * 2)

    layer = make(cell, 3, 2, stateful=True, return_state=True)
    layer(jnp.ones((1, 2, 3)))
    check(cell, layer(jnp.ones((1, 2, 3))), [[45.0] * 2], [[45.0] * 2])


def test_an_own_cell_backwards_and_masked():
    near(make("one", 4, 2, go_backwards=True)(counted(2, 3, 4)), alike([202, 538], 2))
    sequence, mask = counted(2, 4, 3), jnp.asarray(AFTER["mask"])
    near(make("one", 3, 2)(sequence, mask=mask), alike([57.0, 126.0], 2))
    outputs = make("one", 3, 2, return_sequences=True)(sequence, mask=mask)
    near(outputs, alike([[3.0, 18.0, 57.0, 57.0], [39.0, 126.0, 126.0, 126.0]], 2))


@pytest.mark.parametrize(
    ("cell", "steps", "last", "continued"),
    [
        (
            "one",
            [[18.0, 156.0, 786.0], [162.0, 1020.0, 4386.0]],
            [786.0, 4386.0],
            [34092.0, 173196.0],
        ),
        (
            "two",
            [[72.0, 624.0, 3144.0], [648.0, 4080.0, 17544.0]],
            [1572.0, 8772.0],
            [136368.0, 692784.0],
        ),
    ],
)
def test_stack(cell, steps, last, continued):
    """Our stack runs a layer over all steps before the next layer, Keras all cells at
    each step.
    """

    def stack(**options):
        below = make(cell, 4, 3, return_sequences=True, **options)
        return RecurrentStack([below, make(cell, 3, 2, **options)])

    sequence = counted(2, 3, 4)
    output, (first, second) = stack(return_state=True)(sequence)
    near(output, alike(steps, 2)[:, -1])
    for part in first[1:] or first:
        near(part, alike([158.0, 782.0], 3))
    for part in second[1:] or second:
        near(part, alike(last, 2))

    layers = stack(stateful=True)
    for _ in range(2):
        layers(sequence)
        near(layers(sequence), alike(continued, 2))
        layers.reset_state()


@pytest.mark.parametrize("sequences", [False, True])
def test_compute_output_shape(sequences):
    for batch, steps in ((3, 4), (None, None)):
        layer = make("two", 5, 8, return_sequences=sequences, return_state=True)
        outputs = (batch, steps, 8) if sequences else (batch, 8)
        part: Any = (batch, 8)
        wanted = (outputs, TwoStates(part, part, part))
        assert layer.compute_output_shape((batch, steps, 5)) == wanted
    for shape in ((3, 4), (3, 4, 6)):
        with pytest.raises(InputError, match=r"; give \(batch, steps, 5\)$"):
            make("one", 5, 8).compute_output_shape(shape)


@pytest.mark.parametrize("merge_mode", ["concat", "sum", None])
@pytest.mark.parametrize("state", [False, True])
def test_compute_output_shape_of_both_directions(merge_mode, state):
    layer = Bidirectional(
        2, 2, merge_mode=merge_mode, return_state=state, rngs=nnx.Rngs(0)
    )
    outputs = layer(jnp.ones((1, 2, 2)))
    assert layer.compute_output_shape((1, 2, 2)) == jax.tree.map(jnp.shape, outputs)
