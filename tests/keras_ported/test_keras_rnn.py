"""Tests of rnn_test.py of Keras, applied to our `Recurrent` with user-defined cells."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from ported import (
    ONE_STATE,
    TWO_STATES,
    OneState,
    TwoStates,
    alike,
    check_basics,
    counted,
    near,
)

from lstm_jax import InputError, Recurrent

CELLS = {"one": ONE_STATE, "two": TWO_STATES}
FORMS = [(sequences, state) for sequences in (False, True) for state in (False, True)]


def make(cell: str, features: int, units: int, **options) -> Recurrent:
    return Recurrent(features, units, cell=CELLS[cell], rngs=nnx.Rngs(0), **options)


@pytest.mark.parametrize("cell", CELLS)
def test_basics(cell):
    for options, wanted in (
        ({}, (3, 5)),
        ({"return_sequences": True}, (3, 2, 5)),
        ({"go_backwards": True}, (3, 5)),
    ):
        check_basics(
            lambda options=options, **more: make(cell, 4, 5, **options, **more),
            (3, 2, 4),
            wanted,
        )
    assert (
        len(jax.tree.leaves(nnx.state(make(cell, 4, 5), nnx.Param)))
        == {"one": 2, "two": 3}[cell]
    )


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize(
    "known", [(3, 4, 5), (None, None, 5)], ids=["known", "dynamic"]
)
@pytest.mark.parametrize(("sequences", "state"), FORMS)
def test_compute_output_shape(cell, known, sequences, state):
    found = make(
        cell, 5, 8, return_sequences=sequences, return_state=state
    ).compute_output_shape(known)
    batch, steps, _ = known
    outputs = (batch, steps, 8) if sequences else (batch, 8)
    part = (batch, 8)
    wanted = (
        (outputs, OneState(part) if cell == "one" else TwoStates(part, part, part))
        if state
        else outputs
    )
    assert found == wanted


def test_compute_output_shape_errors():
    for shape in ((3, 4), (3, 4, 6)):
        with pytest.raises(
            InputError, match=r"^shape: \(3, 4.*\); give \(batch, steps, 5\)$"
        ):
            make("one", 5, 8).compute_output_shape(shape)


def check(cell: str, got: tuple, outputs: list, last: list) -> None:
    """Check the output and the final state of a call. The output of the second cell is
    the sum of its states.
    """
    output, state = got
    near(output, np.multiply(outputs, len(state) - 1 if cell == "two" else 1))
    for part in state[1:] or state:
        near(part, last)


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("sequences", [False, True])
def test_forward_pass(cell, sequences):
    x, last = jnp.ones((1, 2, 3)), [[9.0, 9.0]]
    got = make(cell, 3, 2, return_sequences=sequences, return_state=True)(x)
    check(cell, got, [[[3.0, 3.0], [9.0, 9.0]]] if sequences else last, last)
    near(make(cell, 3, 2, return_sequences=sequences)(x), got[0])


@pytest.mark.parametrize("cell", CELLS)
def test_passing_initial_state(cell):
    ones, last = jnp.ones((2, 2)), [[22.0, 22.0], [22.0, 22.0]]
    start = [ones] if cell == "one" else TwoStates(jnp.zeros((2, 2)), ones, ones)
    check(
        cell,
        make(cell, 2, 2, return_state=True)(jnp.ones((2, 3, 2)), initial_state=start),
        last,
        last,
    )


@pytest.mark.parametrize("cell", CELLS)
def test_statefulness(cell):
    layer, x, last = (
        make(cell, 3, 2, stateful=True, return_state=True),
        jnp.ones((1, 2, 3)),
        [[45.0, 45.0]],
    )
    layer(x)
    check(cell, layer(x), last, last)


def test_go_backwards():
    sequence = counted(2, 3, 4)
    layer = make("one", 4, 2, go_backwards=True)
    layer(sequence)
    near(layer(sequence), alike([202.0, 538.0], 2))
    layer = make("one", 4, 2, stateful=True, return_state=True)
    layer(sequence)
    output, state = layer(sequence)
    near(output, alike([954.0, 3978.0], 2))
    near(state.h, output)


def test_stateful_batch_size_mismatch_raises():
    layer = make("two", 3, 2, stateful=True)
    layer(jnp.ones((4, 5, 3)))
    with pytest.raises(
        InputError,
        match=r"^batch size: 1; the carried state has 4 rows: give as many, or call "
        r"reset_state\(1\)$",
    ):
        layer(jnp.ones((1, 5, 3)))
    layer.reset_state(1)
    assert layer(jnp.ones((1, 5, 3))).shape == (1, 2)


def test_masking():
    sequence, mask = (
        counted(2, 4, 3),
        jnp.array([[True, True, True, False], [True, True, False, False]]),
    )
    near(make("one", 3, 2)(sequence, mask=mask), alike([57.0, 126.0], 2))
    outputs = make("one", 3, 2, return_sequences=True)(sequence, mask=mask)
    near(outputs, alike([[3.0, 18.0, 57.0, 57.0], [39.0, 126.0, 126.0, 126.0]], 2))
