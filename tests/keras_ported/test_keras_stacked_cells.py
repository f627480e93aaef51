"""Tests of stacked_rnn_cells_test.py of Keras, applied to our `RecurrentStack`.

Our stack runs each layer over all steps before the next layer. Keras runs all cells of
the stack at each step.
"""

import jax
import jax.numpy as jnp
import pytest
from flax import nnx
from ported import ONE_STATE, TWO_STATES, alike, check_basics, counted, near

from lstm_jax import Cell, LSTMState, Recurrent, RecurrentStack


def make(
    cell: str | Cell,
    sizes: tuple[int, ...],
    *,
    features: int = 4,
    return_sequences: bool = False,
    **options,
) -> RecurrentStack:
    rngs, layers = nnx.Rngs(0, dropout=1), []
    for n, units in enumerate(sizes):
        sequences = return_sequences or n < len(sizes) - 1
        layers.append(
            Recurrent(
                (features, *sizes)[n],
                units,
                cell=cell,
                return_sequences=sequences,
                rngs=rngs,
                **options,
            )
        )
    return RecurrentStack(layers)


@pytest.mark.slow(keep=2)
@pytest.mark.parametrize(
    ("cell", "weights", "rates"),
    [
        (ONE_STATE, 6, {}),
        (TWO_STATES, 9, {}),
        ("simple_rnn", 9, {"dropout": 0.1, "recurrent_dropout": 0.1}),
        # 9 in Keras, which has both biases in one
        ("gru", 12, {"dropout": 0.1, "recurrent_dropout": 0.1}),
        ("lstm", 9, {"dropout": 0.1, "recurrent_dropout": 0.1}),
    ],
    ids=["one state", "two states", "simple_rnn", "gru", "lstm"],
)
def test_basics(cell, weights, rates):
    check_basics(
        lambda **options: make(cell, (3, 4, 5), return_sequences=True, **options),
        (2, 3, 4),
        (2, 3, 5),
        **rates,
    )
    assert make(cell, (3, 4, 5))(jnp.ones((2, 3, 4))).shape == (2, 5)
    assert len(jax.tree.leaves(nnx.state(make(cell, (3, 4, 5)), nnx.Param))) == weights


@pytest.mark.parametrize(
    ("cell", "steps", "last"),
    [
        (ONE_STATE, [[18.0, 156.0, 786.0], [162.0, 1020.0, 4386.0]], [786.0, 4386.0]),
        (
            TWO_STATES,
            [[72.0, 624.0, 3144.0], [648.0, 4080.0, 17544.0]],
            [1572.0, 8772.0],
        ),
    ],
    ids=["one", "two"],
)
@pytest.mark.parametrize("sequences", [False, True])
def test_correctness(cell, steps, last, sequences):
    output, (first, second) = make(
        cell, (3, 2), return_sequences=sequences, return_state=True
    )(counted(2, 3, 4))
    wanted = alike(steps, 2)
    near(output, wanted if sequences else wanted[:, -1])
    for part in first[1:] or first:
        near(part, alike([158.0, 782.0], 3))
    for part in second[1:] or second:
        near(part, alike(last, 2))
    near(make(cell, (3, 2), return_sequences=sequences)(counted(2, 3, 4)), output)


@pytest.mark.parametrize(
    ("cell", "wanted"),
    [(ONE_STATE, [34092.0, 173196.0]), (TWO_STATES, [136368.0, 692784.0])],
    ids=["one", "two"],
)
def test_statefulness(cell, wanted):
    stack = make(cell, (3, 2), stateful=True)
    for _ in range(2):
        stack(counted(2, 3, 4))
        near(stack(counted(2, 3, 4)), alike(wanted, 2))
        stack.reset_state()


def test_return_state_stacked_lstm_cell():
    stack = make("lstm", (10, 10), features=5, return_state=True)
    output, states = stack(jnp.zeros((2, 3, 5)))
    part = (2, 10)
    wanted = (part, [LSTMState(part, part), LSTMState(part, part)])
    assert jax.tree.map(jnp.shape, (output, states)) == wanted
    assert stack.compute_output_shape((2, 3, 5)) == wanted


def test_stacked_lstm_cell_mask():
    mask = jnp.array([[True, True, True], [True, True, False]])
    stack = make(
        "lstm", (1, 1), kernel_initializer="ones", recurrent_initializer="ones"
    )
    output = stack(jnp.ones((2, 3, 4)), mask=mask)
    assert jnp.abs(output - jnp.array([[0.7793], [0.5998]])).max() < 1e-4
