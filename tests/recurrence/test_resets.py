"""Tests of `segment_ids` and of reset states. The values and gradients of calls with
resets are compared in test_contract.py.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import Case, make_arrays
from tables import Shape, assert_close

from lstm_jax import CELLS, unroll

SHAPE = Shape(2, 6, 3, 4)
SEGMENTS = np.array([[1, 1, 2, 2, 0, 0], [0, 5, 0, 7, 8, 8]], np.int32)
STARTS = np.array([[0, 0, 1, 0, 0, 0], [0, 0, 0, 1, 1, 0]], bool)


@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize("time_major", [False, True])
def test_segment_ids_are_resets_and_a_mask(backwards: bool, time_major: bool) -> None:
    params, x, state, _, _, _, learned, _ = make_arrays(Case(SHAPE, resets=True))
    turn = (
        (lambda array: np.swapaxes(array, 0, 1))
        if time_major
        else (lambda array: array)
    )
    order: Any = {
        "backwards": backwards,
        "time_major": time_major,
        "reset_state": learned,
    }
    want = unroll(
        CELLS["lstm"],
        params,
        turn(x),
        state,
        mask=turn(SEGMENTS != 0),
        resets=turn(STARTS),
        **order,
    )
    # ids of 64 bits stay apart
    wide = np.where(SEGMENTS == 2, 2**32 + 1, SEGMENTS.astype(np.int64) * 2**32)
    for ids in (SEGMENTS, wide):
        assert_close(
            unroll(
                CELLS["lstm"], params, turn(x), state, segment_ids=turn(ids), **order
            ),
            want,
            0.0,
        )


def test_segment_ids_of_one_step_in_both_directions() -> None:
    """A program that runs sequences of one step in both directions with `segment_ids`
    has the outputs of `reference`.

    Such a program once contained empty arrays, for which jaxlib loses attributes of
    calls of compiled code. The calls then failed.
    """
    arrays = make_arrays(Case(Shape(2, 1, 3, 4), initial_state=False))

    @jax.jit
    def both(ids):
        options = {"segment_ids": ids, "zero_output_for_mask": True}
        return [
            unroll(
                CELLS["lstm"], arrays.params, arrays.x, backwards=backwards, **options
            )[0]
            for backwards in (False, True)
        ]

    want = (
        unroll(CELLS["lstm"], arrays.params, arrays.x, backend="reference")[0]
        .at[1]
        .set(0)
    )
    assert_close(both(jnp.asarray([[7], [0]])), [want, want], "float32")


def test_a_shared_reset_state_is_broadcast_and_is_the_initial_state() -> None:
    params, x, state, _, _, resets, learned, _ = make_arrays(Case(SHAPE, resets=True))
    shared = jax.tree.map(lambda part: part[0], learned)
    whole = jax.tree.map(lambda part: jnp.broadcast_to(part[:1], part.shape), learned)

    def run(reset_state, initial_state):
        return unroll(
            CELLS["lstm"],
            params,
            x,
            initial_state,
            resets=resets,
            reset_state=reset_state,
        )

    assert_close(run(shared, None), run(whole, whole), 0.0)
    assert_close(
        run(None, state), run(jax.tree.map(jnp.zeros_like, learned), state), 0.0
    )
    d_shared = jax.grad(lambda state: run(state, None)[0].sum())(shared)
    d_whole = jax.grad(lambda state: run(state, state)[0].sum())(whole)
    assert_close(d_shared, jax.tree.map(lambda part: part.sum(0), d_whole), "float32")
