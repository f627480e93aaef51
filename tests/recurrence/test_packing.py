"""Tests of packing sequences in rows: no step is lost, rows are well filled, and layers
read each sequence separately.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_layers import E, made, normal
from tables import assert_close

from lstm_jax import LSTM, Bidirectional, InputError
from lstm_jax.recurrence.packing import (
    assign_rows,
    buckets,
    last_outputs,
    make_segment_ids,
    pack,
    unpack,
)


@given(st.lists(st.integers(1, 9), min_size=1, max_size=30), st.integers(9, 20))
def test_every_step_is_in_one_place(lengths: list[int], length: int):
    rng = np.random.default_rng(len(lengths))
    sequences = [rng.integers(1, 1000, (steps, 2)) for steps in lengths]
    packed = pack(sequences, length)
    rows = packed.x.shape[0]
    assert packed.x.shape == (rows, length, 2)
    assert packed.segment_ids.shape == (rows, length)
    assert [list(part.ravel()) for part in unpack(packed.x, packed.where)] == [
        list(part.ravel()) for part in sequences
    ]
    assert (
        (packed.segment_ids > 0).sum() == sum(lengths) == (packed.x[..., 0] > 0).sum()
    )
    for n, (row, start, steps) in enumerate(packed.where):
        ids = packed.segment_ids[row]
        assert len(set(ids[start : start + steps])) == 1, n
        assert start == 0 or ids[start - 1] != ids[start]
        assert start + steps == length or ids[start + steps] != ids[start]
    # two rows that are at most half full would have been merged
    assert rows <= 2 * -(-sum(lengths) // length)


def test_best_fit_decreasing_fills_rows():
    """Sequences of 10, 9, 8, 2 and 1 steps fill three rows of 10 steps, with 10, 9 + 1
    and 8 + 2 steps.
    """
    where = assign_rows(np.array([2, 8, 1, 9, 10]), 10)
    assert where.tolist() == [[2, 8, 2], [2, 0, 8], [1, 9, 1], [1, 0, 9], [0, 0, 10]]
    assert make_segment_ids(where, 3, 10)[2].tolist() == [1] * 8 + [2] * 2


@pytest.mark.parametrize("kind", [LSTM, Bidirectional])
def test_layers_read_each_sequence_alone(kind):
    sequences = [normal(steps, E) for steps in (4, 7, 2, 3, 1)]
    packed = pack(sequences, 8)
    layer = made(kind, return_sequences=True)
    outputs = layer(jnp.asarray(packed.x), segment_ids=packed.segment_ids)
    wanted = [layer(sequence) for sequence in sequences]
    assert_close(unpack(outputs, packed.where), wanted, 1e-6)
    last = jnp.stack([one[-1] for one in wanted])
    assert_close(last_outputs(outputs, packed.where), last, 1e-6)
    assert_close(jax.jit(last_outputs)(outputs, packed.where), last, 1e-6)


def test_buckets_hold_every_sequence_once():
    lengths = np.random.default_rng(2).integers(1, 50, 103)
    batches = list(buckets(lengths, 8, (10, 50, 25), seed=3))
    assert sorted(np.concatenate([members for _, members in batches])) == list(
        range(103)
    )
    smaller = {10: 0, 25: 10, 50: 25}
    assert all(
        (lengths[members] <= width).all() and (lengths[members] > smaller[width]).all()
        for width, members in batches
    )
    assert [width for width, _ in batches] != sorted(width for width, _ in batches)
    assert (
        str(batches)
        == str(list(buckets(lengths, 8, (10, 50, 25), seed=3)))
        != str(list(buckets(lengths, 8, (10, 50, 25), seed=4)))
    )


REFUSED = {
    "sequences: none; give one or more": lambda: pack([], 5),
    "sequence 1: 0 steps; leave it out": lambda: pack([np.ones(2), np.ones(0)], 5),
    "sequence 0: 6 steps; the longest may have 5": lambda: pack([np.ones(6)], 5),
    "sequence 1: steps of shape (3,) and dtype float64; sequence 0": lambda: pack(
        [np.ones((2, 2)), np.ones((2, 3))], 5
    ),
    "sequence 0: a single number; give an array": lambda: pack([3], 5),
    "outputs: (1, 3, 2); `where` names 1 rows of 4 steps": lambda: unpack(
        np.ones((1, 3, 2)), np.array([[0, 0, 4]])
    ),
    "where: (3,); give the array (N, 3) of `pack`": lambda: last_outputs(
        jnp.ones((1, 3)), np.array([0, 0, 4])
    ),
    "sequence 1: 9 steps; the longest may have 4": lambda: list(
        buckets(np.array([1, 9]), 2, (4,))
    ),
    "widths: none; give one or more": lambda: list(buckets(np.array([1, 9]), 2, ())),
    "sequences: 3; give a list of arrays": lambda: pack(3, 4),
    "where: [[0, 0, 0]]; give rows and steps of 0 or more": lambda: last_outputs(
        jnp.ones((1, 3, 2)), np.array([[0, 0, 0]])
    ),
    "batch_size: 2.5; give": lambda: list(buckets(np.array([1, 9]), 2.5, (9,))),
    "lengths: 1.5; give a list of whole numbers, 0 or more": lambda: list(
        buckets([1, 1.5], 2, (9,))
    ),
    "lengths: nan; give a list of whole numbers, 0 or more": lambda: assign_rows(
        np.array([2.0, np.nan]), 4
    ),
    "length: 5.5; give 1 or more": lambda: assign_rows(np.array([2]), 5.5),
}


@pytest.mark.usefixtures("unchecked")
def test_sequences_may_be_an_iterator():
    assert (
        pack(iter([np.ones(2), np.ones(3)]), np.int64(4)).where.tolist()
        == pack([np.ones(2), np.ones(3)], 4).where.tolist()
    )


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("message", REFUSED)
def test_refused(message: str):
    with pytest.raises(InputError) as raised:
        REFUSED[message]()
    assert str(raised.value).startswith(message)
