"""Tests of batches of few rows on the backend `compiled`, whose threads then divide the units instead of the rows."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tables import BACKENDS, assert_close

from lstm_jax.cells import CELLS
from lstm_jax.dropout import DropoutMasks
from lstm_jax.recurrence import unroll

pytestmark = [
    pytest.mark.usefixtures("quick_compiles"),
    pytest.mark.skipif("compiled" not in BACKENDS, reason="no C++ compiler to build the backend with"),
]
# (T, B, E, H): one step; more steps than a chunk of either pass; H around 16, and enough for two threads; B too large to divide the units
SIZES = [(1, 1, 3, 5), (70, 1, 6, 17), (300, 1, 2, 16), (5, 2, 33, 40), (50, 4, 3, 31), (9, 3, 5, 140), (3, 5, 4, 9), (50, 1, 4, 260)]


def _masks(rng: np.random.Generator, kinds: int, batch: int, size: int) -> jax.Array | None:
    shape = (batch, size) if kinds == 1 else (kinds, batch, size)
    return jnp.asarray(rng.integers(0, 2, shape) * 2.0) if kinds else None


@pytest.mark.slow(keep=["sizes1-lstm]", "sizes3-gru]", "sizes5-simple_rnn", "sizes7-lstm_coupled"])
@pytest.mark.parametrize("cell", ["lstm", "gru", "simple_rnn", "lstm_peephole", "lstm_coupled"])
@pytest.mark.parametrize("sizes", SIZES)
def test_values_and_gradients(cell: str, sizes: tuple[int, int, int, int]) -> None:
    """Outputs, final state and gradients equal those of `reference` in float64, without and with dropout masks, resets and padding."""
    steps, batch, features, units = sizes
    rng = np.random.default_rng(steps)
    gates = CELLS[cell].gates
    with jax.enable_x64(True):
        params = CELLS[cell].init(jax.random.key(0), features, units, dtype=jnp.float64)
        x, weights = jnp.asarray(rng.standard_normal((batch, steps, features))), jnp.asarray(rng.standard_normal((batch, steps, units)))
        state = jax.tree.map(
            lambda part: jnp.asarray(rng.standard_normal(part.shape)), CELLS[cell].initial_state(batch, units, jnp.float64)
        )
        per_gate = gates if gates > 1 and steps % 2 else 1
        options = {
            "mask": jnp.asarray(rng.random((batch, steps)) < 0.7),
            "resets": jnp.asarray(rng.random((batch, steps)) < 0.3),
            "reset_state": jax.tree.map(lambda part: part - 1, state),
            "dropout": DropoutMasks(_masks(rng, per_gate, batch, features), _masks(rng, per_gate, batch, units)),
        }

        def run(backend: str, some: dict):
            def loss(params, x, state):
                outputs, final = unroll(CELLS[cell], params, x, initial_state=state, backend=backend, **some)
                return (outputs * weights).sum() + sum((part**2).sum() for part in final), (outputs, final)

            return jax.jit(jax.grad(loss, (0, 1, 2), has_aux=True))(params, x, state)

        for some in ({}, options):
            assert_close(run("compiled", some), run("reference", some), 1e-10, f"{cell} {sizes} {list(some)}")


def test_a_row_does_not_depend_on_its_batch() -> None:
    """Each row of an LSTM has bit-identical outputs in a batch of few rows and in a batch of many rows."""
    rng = np.random.default_rng(0)
    params = CELLS["lstm"].init(jax.random.key(0), 20, 70)
    x = jnp.asarray(rng.standard_normal((9, 30, 20)), jnp.float32)
    whole = unroll(CELLS["lstm"], params, x, backend="compiled")[0]
    for rows in range(1, 5):
        np.testing.assert_array_equal(unroll(CELLS["lstm"], params, x[:rows], backend="compiled")[0], whole[:rows])
