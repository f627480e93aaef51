"""Tests that `unroll` has the same values and gradients for int ids as for the one-hot vectors for which they stand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tables import EVERY_CASE

from lstm_jax.cells import CELLS, LSTMState
from lstm_jax.dropout import draw_masks
from lstm_jax.errors import InputError
from lstm_jax.recurrence import unroll

pytestmark = pytest.mark.usefixtures("quick_compiles")

CELL = CELLS["lstm"]


@pytest.mark.slow(keep=3)
@pytest.mark.parametrize("backend", EVERY_CASE)
@pytest.mark.parametrize(("dropout", "recurrent_dropout"), [(0.0, 0.0), (0.0, 0.3), (0.2, 0.3)])
def test_ids_equal_one_hot_rows(backend, dropout, recurrent_dropout):
    batch, steps, features, units = 3, 7, 5, 4
    keys = jax.random.split(jax.random.key(0), 5)
    params = CELL.init(keys[0], features, units)
    ids = jax.random.randint(keys[1], (batch, steps), 0, features)
    state = LSTMState(*jax.random.normal(keys[2], (2, batch, units)))
    masks = draw_masks(keys[3], batch, features, units, dropout, recurrent_dropout)
    valid = jax.random.bernoulli(keys[4], 0.7, (batch, steps))

    def scored(params, state, x):
        outputs, final = unroll(CELL, params, x, state, mask=valid, dropout=masks, backend=backend)
        return jnp.sum(jnp.sin(outputs)) + jnp.sum(final.h * jnp.cos(final.c))

    run = jax.jit(jax.value_and_grad(scored, argnums=(0, 1)))
    got, wanted = run(params, state, ids), run(params, state, jax.nn.one_hot(ids, features))
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * max(1.0, float(jnp.abs(b).max())))


def test_float_matrices_are_no_ids():
    params = CELL.init(jax.random.key(0), 5, 3)
    with pytest.raises(InputError, match="x: "):
        unroll(CELL, params, jnp.ones((2, 4)))
